"""Signals are silent on healthy traffic, however often one looks, and find what is wrong."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from monitoring.events import EventLog, Met, Units
from registry.assignment import assign, whole
from registry.betting import SHIFT_WEIGHTS, Floats, log_ratio_of_counts
from registry.rules.signals import ALPHA, crossed, sample_ratio
from tests.monitoring.rows_for_tests import a_request


@dataclass(frozen=True)
class Draw:
    arm: str
    propensity: float
    shares: dict[str, float] | None = None


def looks(asked: Floats, met: Floats, rollouts: int, seed: int) -> Floats:
    """Logs of e-values, every 10 units, of rollouts (rows) whose units should meet the challenger at `asked` and do at `met`."""
    draw = np.random.default_rng(seed)
    challenger = draw.random((rollouts, len(asked))) < met
    shares = np.unique(asked)
    at_share = asked == shares[:, None]
    challengers = np.stack([np.cumsum(challenger & one, axis=1)[:, 9::10] for one in at_share], axis=-1)
    units = np.stack([np.cumsum(one)[9::10] for one in at_share], axis=-1)
    found: Floats = log_ratio_of_counts(shares, challengers, units - challengers)
    return found


def test_a_fault_of_45_to_55_alarms_within_2000_units_in_the_median() -> None:
    half = np.full(2000, 0.5)
    for met in (0.45, 0.55):
        alarms = (looks(half, np.full(2000, met), 200, seed=1) >= math.log(1 / ALPHA)).any(axis=1)
        assert alarms.mean() > 0.6


def test_healthy_traffic_up_a_ramp_alarms_at_no_look_more_than_once_in_a_thousand_rollouts() -> None:
    ramp = np.repeat([0.05, 0.25, 0.5], [100, 150, 250])
    alarms = (looks(ramp, ramp, 3000, seed=2) >= math.log(1 / ALPHA)).any(axis=1)
    assert alarms.sum() <= 8  # 3 are allowed on average; with 9 or more the bound would be broken at 0.4%


def test_the_bets_on_counts_are_fair() -> None:
    for share in (0.01, 0.3, 0.5):
        one = np.exp(log_ratio_of_counts(np.array([share]), np.array([[1.0], [0.0]]), np.array([[0.0], [1.0]])))
        assert share * one[0] + (1 - share) * one[1] == 1.0 or abs(share * one[0] + (1 - share) * one[1] - 1) < 1e-12
    assert abs(SHIFT_WEIGHTS.sum() - 1) < 1e-12


def drawn(salt: str, shares: Iterator[float]) -> list[Draw]:
    return [Draw(*assign(salt, f"unit-{i}", {"challenger": share})) for i, share in enumerate(shares)]


def test_the_real_assignment_is_healthy_and_says_what_it_saw() -> None:
    seen = sample_ratio(drawn("june", iter([0.05] * 500 + [0.5] * 3000)))
    assert not seen.alarm
    assert "1525 were expected" in seen.reason


def test_rows_of_one_arm_that_are_lost_alarm() -> None:
    whole = drawn("june", iter([0.5] * 3000))
    lost = [one for i, one in enumerate(whole) if one.arm == "champion" or i % 3]
    assert sample_ratio(lost).alarm


def test_requests_without_a_draw_say_nothing() -> None:
    assert not sample_ratio([Draw("pinned", 1.0), Draw("champion", 1.0)] * 1000).alarm
    assert sample_ratio([]).reason == "no unit was drawn yet"


def test_a_share_of_next_to_nothing_does_not_silence_the_others() -> None:
    skewed = [Draw("champion", 0.5)] * 5000 + [Draw("challenger", 0.5)] * 100
    assert sample_ratio(skewed).alarm
    assert sample_ratio([*skewed, Draw("champion", 1 - 1e-10), Draw("challenger", 1e-10)]).alarm


def test_more_than_one_crossed_unit_in_a_hundred_alarms() -> None:
    here, there = Met("challenger", 0.25, None), Met("champion", 0.75, None)
    assert not crossed(Units(0, ())).alarm
    assert not crossed(Units(100, ((here, there),))).alarm
    assert crossed(Units(100, ((here, there),) * 2)).alarm


def test_a_unit_that_moves_as_shares_rise_and_fall_did_not_cross() -> None:
    def met(arm: str, five: float, six: float, seven: float) -> Met:
        shares = {"challenger:5": five, "challenger:6": six, "challenger:7": seven}
        shares = {"champion": 1.0 - sum(shares.values()), **shares}
        return Met(arm, shares[arm], shares)

    explained = [
        (Met("champion", 0.95, None), Met("challenger", 0.1, None), Met("champion", 0.95, None)),
        (met("champion", 0.1, 0.1, 0.1), met("challenger:6", 0.1, 0.2, 0.1)),
        (met("challenger:5", 0.1, 0.1, 0.1), met("champion", 0.05, 0.2, 0.1), met("challenger:5", 0.6, 0.1, 0.1)),
        (met("challenger:6", 0.1, 0.3, 0.1), met("champion", 0.1, 0.0, 0.1)),
        (met("challenger:5", 0.8, 0.1, 0.1), met("challenger:6", 0.1, 0.3, 0.1)),
    ]
    for one in explained:
        assert "0 of 1 units" in crossed(Units(1, (one,))).reason
    crossing = [
        (Met("challenger", 0.05, None), Met("champion", 0.5, None)),
        (met("challenger:5", 0.1, 0.1, 0.1), met("champion", 0.2, 0.1, 0.1)),
        (met("challenger:5", 0.1, 0.1, 0.1), met("challenger:6", 0.1, 0.3, 0.1)),
        (met("challenger:5", 0.1, 0.2, 0.1), met("challenger:7", 0.2, 0.2, 0.3), met("champion", 0.1, 0.1, 0.1)),
    ]
    for one in crossing:
        assert "1 of 1 units" in crossed(Units(1, (one,))).reason


@given(st.lists(st.lists(st.floats(0.01, 1.0), min_size=4, max_size=4), min_size=2, max_size=5), st.text(max_size=9))
def test_no_unit_that_is_assigned_crosses_whatever_the_shares_become(moves: list[list[float]], unit: str) -> None:
    met = []
    for four in moves:
        shares = dict(zip(("champion", "challenger:5", "challenger:6", "challenger:7"), four, strict=True))
        shares = {arm: share / sum(four) for arm, share in shares.items()}
        arm, propensity = assign("salt", unit, shares)
        met.append(Met(arm, propensity, shares))
    assert "0 of 1 units" in crossed(Units(1, (tuple(met),))).reason


SEVERAL = [
    {"champion": 0.85, "challenger:5": 0.05, "challenger:6": 0.1, "challenger:7": 0.0},
    {"champion": 0.3, "challenger:5": 0.3, "challenger:6": 0.4, "challenger:7": 0.0},
]


def several(salt: str, lost: float = 0.0) -> list[Draw]:
    """3,000 units, most at the second shares; of those who meet version 6, so many are lost."""
    found = []
    for number in range(3000):
        shares = SEVERAL[number > 600]
        arm, propensity = assign(salt, f"u{number}", shares)
        if arm != "challenger:6" or number % 100 >= 100 * lost:
            found.append(Draw(arm, propensity, shares))
    return found


def test_several_arms_that_are_met_as_asked_are_silent_and_one_that_loses_units_alarms_and_is_named() -> None:
    assert not any(sample_ratio(several(f"salt-{seed}")).alarm for seed in range(20))
    seen = sample_ratio(several("salt", lost=0.3))
    assert seen.alarm
    assert " units met the challenger 6, " in seen.reason


def test_with_one_challenger_the_mean_of_both_arms_bets_is_the_bet_on_either() -> None:
    lone = [Draw(*assign("s", f"u{number}", {"challenger": 0.4})) for number in range(500)]
    met = sum(one.arm == "challenger" for one in lone)
    e_value = math.exp(float(log_ratio_of_counts(np.array([0.4]), np.array([met]), np.array([500 - met]))))
    assert f"e-value {e_value:.3g}," in sample_ratio(lone).reason


@pytest.mark.parametrize("arms", [["challenger"], ["challenger:5", "challenger:6", "challenger:7"]])
def test_what_the_log_leaves_out_before_the_rule_is_asked_did_not_cross(tmp_path: Path, arms: list[str]) -> None:
    """The sieve in the database hands out every unit that the rule finds, whatever the arms that units met."""
    draw, met = random.Random(len(arms)), dict[str, list[Met]]()
    with EventLog(f"sqlite:///{tmp_path / 'events.db'}") as log:
        for number in range(600):
            unit = f"u{draw.randrange(200)}"
            parts = [draw.choice((0.0, 0.1, 0.25, 0.3)) for _ in arms]
            shares = whole(dict(zip(arms, parts, strict=True)))
            arm = draw.choice([arm for arm, share in shares.items() if share > 0.0])
            one = Met(arm, shares[arm], shares if len(arms) > 1 else None)
            met.setdefault(unit, []).append(one)
            log.append(
                a_request(
                    f"r{number}", unit=unit, arm=arm, propensity=one.propensity, shares=one.shares, rollout="june"
                )
            )
        log.record(a_request("last", arm="apart", rollout="june"))
        sieved = log.units("june")
    everything = Units(len(met), tuple(map(tuple, met.values())))
    assert crossed(sieved).reason == crossed(everything).reason
    assert 0 < len(sieved.moved) < len(everything.moved)
