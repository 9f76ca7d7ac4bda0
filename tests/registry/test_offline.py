"""A policy is judged on another's log as it would have fared itself, or it is said that it cannot be."""

from __future__ import annotations

import random
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pytest

from evermoe.errors import NotReady
from registry.offline import Fixed, Ramp, replay
from registry.rollout import Policy

START = datetime(2025, 6, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Told:
    """One feedback as the event log hands it out."""

    arm: str
    reward: float
    propensity: float
    unit: str
    requested_at: datetime
    at: datetime
    agreed: bool = False
    shares: None = None


def logged(share: float, units: int, seed: int, champion: float = 0.5, challenger: float = 0.8) -> list[Told]:
    """Feedback hours late, of units drawn at a share that stayed."""
    draw, found = random.Random(seed), []
    for number in range(units):
        arm = "challenger" if draw.random() < share else "champion"
        reward = float(draw.random() < (challenger if arm == "challenger" else champion))
        asked = START + timedelta(minutes=10 * number)
        told = asked + timedelta(hours=draw.expovariate(0.5))
        found.append(Told(arm, reward, share if arm == "challenger" else 1 - share, f"u{number}", asked, told))
    return sorted(found, key=lambda one: one.at)


@pytest.mark.parametrize("share", [0.1, 0.4])
def test_the_interval_holds_what_a_fixed_share_is_worth_about_as_often_as_it_says(share: float) -> None:
    truth = (1 - share) * 0.5 + share * 0.8
    found = [replay(logged(0.3, 400, seed), Fixed(share)) for seed in range(100)]
    assert sum(one.low <= truth <= one.high for one in found) >= 88
    assert sum(one.value for one in found) / 100 == pytest.approx(truth, abs=0.01)
    assert sum(one.inverse_propensity for one in found) / 100 == pytest.approx(truth, abs=0.02)


def test_a_ramp_is_found_to_promote_what_is_better_and_to_be_worth_more_than_the_log() -> None:
    ramp = Ramp(Policy(shares=(0.1, 0.3, 0.5)), START)
    found = replay(logged(0.5, 3000, seed=1), ramp)
    assert found.outcome.startswith("promoted: better")
    assert found.enough
    assert found.low > found.logged
    assert found.logged == pytest.approx(0.65, abs=0.03)
    assert found.high < 0.82


def test_a_ramp_is_found_to_abort_what_is_worse() -> None:
    found = replay(logged(0.5, 3000, seed=2, champion=0.8, challenger=0.4), Ramp(Policy(shares=(0.2, 0.5)), START))
    assert found.outcome.startswith("aborted: worse")
    assert found.low > found.logged


def test_where_the_log_hardly_met_what_the_policy_would_do_it_is_said() -> None:
    assert not replay(logged(0.01, 1500, seed=3), Fixed(0.9)).enough


def test_a_unit_is_judged_once_and_what_both_answer_alike_not_at_all() -> None:
    log = logged(0.5, 50, seed=4)
    again = [Told(one.arm, 1 - one.reward, one.propensity, one.unit, one.requested_at, one.at) for one in log]
    alike = [Told(o.arm, o.reward, o.propensity, f"{o.unit}-alike", o.requested_at, o.at, True) for o in log]
    assert replay([*log, *again, *alike], Fixed(0.5)) == replay(log, Fixed(0.5))


def test_a_log_of_a_handful_says_nothing() -> None:
    with pytest.raises(NotReady, match="5 units gave feedback"):
        replay(logged(0.5, 5, seed=5), Fixed(0.5))
