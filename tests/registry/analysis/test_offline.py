"""A policy is judged on another's log as it would have fared itself, or it is said that it cannot be."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import pytest

from evermoe.errors import NotReady
from monitoring.events import Reward
from registry.analysis.offline import Chooser, Fixed, Live, replay
from registry.assignment import CHAMPION, whole
from registry.rollout import Policy, new_rollout
from tests.registry.worlds import World

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


TRIAL = new_rollout("june", "2025-06", "1", "2", "salt", Policy(), START)
SEVERAL = new_rollout("june", "2025-06", "1", ("5", "6", "7"), "salt", Policy(), START)


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
    found = [replay(logged(0.3, 400, seed), Fixed(share, TRIAL)) for seed in range(100)]
    assert sum(one.low <= truth <= one.high for one in found) >= 88
    assert sum(one.value for one in found) / 100 == pytest.approx(truth, abs=0.01)
    assert sum(one.inverse_propensity for one in found) / 100 == pytest.approx(truth, abs=0.02)


def test_a_ramp_is_found_to_promote_what_is_better_and_to_be_worth_more_than_the_log() -> None:
    ramp = Live(Policy(shares=(0.1, 0.3, 0.5)), TRIAL)
    found = replay(logged(0.5, 3000, seed=1), ramp)
    assert found.outcome.startswith("promoted: better")
    assert found.enough
    assert found.low > found.logged
    assert found.logged == pytest.approx(0.65, abs=0.03)
    assert found.high < 0.82


def test_a_ramp_is_found_to_abort_what_is_worse() -> None:
    found = replay(logged(0.5, 3000, seed=2, champion=0.8, challenger=0.4), Live(Policy(shares=(0.2, 0.5)), TRIAL))
    assert found.outcome.startswith("aborted: worse")
    assert found.low > found.logged


def test_where_the_log_hardly_met_what_the_policy_would_do_it_is_said() -> None:
    assert not replay(logged(0.01, 1500, seed=3), Fixed(0.9, TRIAL)).enough


def test_a_unit_is_judged_once_and_what_both_answer_alike_not_at_all() -> None:
    log = logged(0.5, 50, seed=4)
    again = [Told(one.arm, 1 - one.reward, one.propensity, one.unit, one.requested_at, one.at) for one in log]
    alike = [Told(o.arm, o.reward, o.propensity, f"{o.unit}-alike", o.requested_at, o.at, True) for o in log]
    assert replay([*log, *again, *alike], Fixed(0.5, TRIAL)) == replay(log, Fixed(0.5, TRIAL))


def test_a_log_of_a_handful_says_nothing() -> None:
    with pytest.raises(NotReady, match="5 units gave feedback"):
        replay(logged(0.5, 5, seed=5), Fixed(0.5, TRIAL))


def logged_of_several(shares: Mapping[str, float], means: Mapping[str, float], units: int, seed: int) -> list[Reward]:
    """Feedback at once, of units drawn at shares that stayed."""
    draw, found = random.Random(seed), []
    for number in range(units):
        arm = draw.choices(list(shares), list(shares.values()))[0]
        reward, at = float(draw.random() < means[arm]), START + timedelta(minutes=10 * number)
        found.append(
            Reward(f"r{number}", f"u{number}", True, arm, "", shares[arm], reward, at, at, False, dict(shares))
        )
    return found


MEANS = {"champion": 0.5, "challenger:5": 0.4, "challenger:6": 0.8, "challenger:7": 0.3}


@pytest.mark.parametrize("share", [0.15, 0.6])
def test_the_interval_holds_what_fixed_shares_of_several_are_worth_about_as_often_as_it_says(share: float) -> None:
    shares = {"champion": 0.4, "challenger:5": 0.1, "challenger:6": 0.3, "challenger:7": 0.2}
    truth = (1 - share) * 0.5 + share * 0.5
    found = [replay(logged_of_several(shares, MEANS, 400, seed), Fixed(share, SEVERAL)) for seed in range(100)]
    assert sum(one.low <= truth <= one.high for one in found) >= 88
    assert sum(one.value for one in found) / 100 == pytest.approx(truth, abs=0.01)


def test_the_policy_that_made_a_log_is_shown_all_of_it_and_takes_every_step_again() -> None:
    """One rule: what is judged is the live controller, down to Thompson's draws."""
    for seed in range(2):
        world = World({"1": 0.5, "5": 0.4, "6": 0.85, "7": 0.3}, seed)
        rollout, log = world.live(4000)
        assert rollout.status == "promoted"
        again = Live(world.policy, rollout, timedelta(minutes=world.every))
        seen: list[Mapping[str, float]] = []
        found = replay(log, Watched(again, seen))
        assert (found.shown, found.rewards, found.beyond) == (len(log), len(log), 0)
        assert all(shares == pytest.approx(one.shares) for shares, one in zip(seen, log, strict=True))
        assert found.inverse_propensity == pytest.approx(found.logged)
        assert found.low < found.logged < found.high
        assert found.effective == pytest.approx(len(log))
        again.shares(START + timedelta(minutes=len(log)))
        assert again.outcome.removeprefix("promoted: ") == rollout.reason


@dataclass
class Watched:
    """A policy, and which shares it gave."""

    chooser: Chooser
    given: list[Mapping[str, float]]

    def shares(self, now: datetime) -> Mapping[str, float]:
        self.given.append(self.chooser.shares(now))
        return self.given[-1]

    def see(self, reward: Reward, shares: Mapping[str, float]) -> None:
        self.chooser.see(reward, shares)

    @property
    def outcome(self) -> str:
        return self.chooser.outcome


def test_of_several_the_best_is_found_on_a_log_of_equal_shares() -> None:
    shares = dict.fromkeys(("champion", "challenger:5", "challenger:6", "challenger:7"), 0.25)
    log = logged_of_several(shares, MEANS, 4000, seed=2)
    found = replay(log, Live(Policy(shares=(0.25, 0.5), max_days=1e4), SEVERAL))
    assert found.outcome.startswith("promoted: better")
    assert found.enough
    assert found.low > found.logged
    assert 100 < found.shown < 1000


def test_where_the_log_had_put_a_version_out_it_is_judged_up_to_there_and_no_further() -> None:
    before = {"champion": 0.7, "challenger:5": 0.1, "challenger:6": 0.1, "challenger:7": 0.1}
    after = whole({"challenger:5": 0.0, "challenger:6": 0.1, "challenger:7": 0.1})
    log = logged_of_several(before, MEANS, 300, seed=3)
    later = [
        replace(
            one,
            unit=f"later-{one.unit}",
            requested_at=one.requested_at + timedelta(days=30),
            at=one.at + timedelta(days=30),
        )
        for one in logged_of_several(after, MEANS, 500, seed=4)
    ]
    found = replay([*log, *later], Fixed(0.3, SEVERAL))
    assert (found.rewards, found.beyond, found.unmet) == (300, 500, ("challenger:5",))
    assert found.until == START + timedelta(days=30)
    assert found.value == replay(log, Fixed(0.3, SEVERAL)).value
    with pytest.raises(NotReady, match="0 units gave feedback before the log put out challenger:5"):
        replay(later, Fixed(0.3, SEVERAL))


def test_an_arm_that_the_log_could_have_met_and_hardly_did_is_not_overlooked() -> None:
    hardly = {"champion": 0.999, "challenger": 0.001}
    log = [replace(one, shares=None) for one in logged_of_several(hardly, dict.fromkeys(hardly, 0.5), 1500, seed=5)]
    log = [one for one in log if one.arm == CHAMPION]
    found = replay(log, Fixed(0.4, TRIAL))
    assert not found.enough
    assert found.effective < 15
