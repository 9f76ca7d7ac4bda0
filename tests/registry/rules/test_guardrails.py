"""Guardrails stop what does harm, soon, and let the harmless pass, however often one looks."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from evermoe.errors import BadInput
from registry.rules.guardrails import Limits, against_champion, against_past

START = datetime(2025, 6, 1, tzinfo=UTC)
LIMITS = Limits()


@dataclass(frozen=True)
class Unit:
    """The first request of a unit."""

    at: datetime
    arm: str
    propensity: float
    failed: bool = False
    slow: bool = False
    empty: bool = False
    shares: dict[str, float] | None = None


def met(champion: float, challenger: float, units: int, seed: int, share: float = 0.25) -> list[Unit]:
    """Units whose requests fail at these rates."""
    draw, found = np.random.default_rng(seed), []
    for number, (a, y) in enumerate(draw.random((units, 2))):
        arm = "challenger" if a < share else "champion"
        propensity = share if arm == "challenger" else 1 - share
        failed = bool(y < (challenger if arm == "challenger" else champion))
        found.append(Unit(START + timedelta(minutes=number), arm, propensity, failed))
    return found


def crossed(units: list[Unit], limits: Limits = LIMITS) -> list[str]:
    return [one.name for one in against_champion(units, limits) if one.crossed]


def test_a_challenger_that_always_fails_is_stopped_within_its_first_few_units_even_at_a_share_of_one_percent() -> None:
    failed_before_stop = []
    for seed in range(10):
        units = met(0.01, 1.0, 1500, seed, share=0.01)
        counts = [sum(one.arm == "challenger" for one in units[:n]) for n in range(100, 1501, 50) if crossed(units[:n])]
        failed_before_stop.append(counts[0] if counts else 99)
    assert np.median(failed_before_stop) <= 6


def test_a_tenth_of_failures_more_is_stopped_within_a_thousand_units_in_most_draws() -> None:
    stopped = [crossed(met(0.01, 0.11, 1000, seed)) == ["errors"] for seed in range(20)]
    assert sum(stopped) >= 14


def test_a_challenger_at_the_margin_is_hardly_ever_stopped_at_any_look() -> None:
    wrong = 0
    for seed in range(40):
        units = met(0.05, 0.05 + LIMITS.errors, 600, seed)
        wrong += any(crossed(units[:n]) for n in range(30, 601, 30))
    assert wrong <= 2


def test_a_champion_that_fails_more_stops_nobody() -> None:
    assert crossed(met(0.5, 0.01, 1000, seed=1)) == []


def test_few_units_stop_nobody_by_accident() -> None:
    for arms in (["champion"] * 3, ["challenger"], ["challenger", "champion"]):
        units = [Unit(START, arm, 0.5, failed=arm == "challenger") for arm in arms]
        assert crossed(units) == []
    assert crossed([]) == []


def test_each_guardrail_is_named_with_its_rates() -> None:
    units = [replace(one, failed=False, slow=one.failed) for one in met(0.02, 0.6, 400, seed=3)]
    slow = against_champion(units, LIMITS)[1]
    assert slow.crossed
    assert slow.name == "slow answers"
    assert slow.reason.startswith("slow answers ")
    assert "the champion's" in slow.reason
    assert crossed(units) == ["slow answers"]


def alone(rate: float, units: int, seed: int) -> list[Unit]:
    draw = np.random.default_rng(seed)
    return [Unit(START, "champion", 1.0, failed=bool(y < rate)) for y in draw.random(units)]


def test_a_promoted_version_that_always_fails_is_found_within_a_dozen_units() -> None:
    before = alone(0.01, 300, seed=1)
    assert not against_past(alone(1.0, 1, seed=2), before, LIMITS)[0].crossed
    assert against_past(alone(1.0, 12, seed=2), before, LIMITS)[0].crossed


def test_a_promoted_version_that_fails_as_often_as_the_one_before_it_is_left_alone() -> None:
    wrong = sum(
        any(against_past(now[:n], before, LIMITS)[0].crossed for n in range(20, 401, 20))
        for now, before in ((alone(0.05, 400, seed), alone(0.05, 300, 1000 + seed)) for seed in range(60))
    )
    assert wrong <= 1


def test_without_a_past_nothing_is_held_against_a_version() -> None:
    assert not any(one.crossed for one in against_past(alone(1.0, 500, seed=1), [], LIMITS))


@pytest.mark.parametrize("wrong", [{"alpha": 0.0}, {"alpha": 1.5}, {"errors": -0.1}, {"slow": 1.0}])
def test_limits_that_make_no_sense_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(BadInput, match="guardrail"):
        Limits(**wrong)  # type: ignore[arg-type]


def test_of_several_challengers_each_is_held_against_the_champion_alone() -> None:
    draw, found = np.random.default_rng(1), []
    shares = {"champion": 0.4, "challenger:5": 0.3, "challenger:6": 0.3}
    for number in range(400):
        arm = str(draw.choice(list(shares), p=list(shares.values())))
        failed = bool(draw.random() < (0.5 if arm == "challenger:6" else 0.02))
        at = START + timedelta(minutes=number)
        found.append(Unit(at, arm, shares[arm], failed, shares=shares))
    good, bad = (against_champion(found, LIMITS, f"challenger:{version}") for version in ("5", "6"))
    assert [one.name for one in good if one.crossed] == []
    assert [(one.name, one.arm) for one in bad if one.crossed] == [("errors", "challenger:6")]
