"""The test on feedback: right about its error rate at every look, quick enough to be of use, deaf to what must not count."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evermoe.errors import BadInput
from monitoring.events import EventLog, Feedback, Request
from registry.analysis.outlook import weighed
from registry.evidence import Evidence, Rewarded, Verdict
from registry.rollout import Policy, new_rollout

START = datetime(2025, 6, 1, tzinfo=UTC)
NEVER = 10**9


def half(event: int) -> float:
    return 0.5


def ramp(event: int) -> float:
    return (0.05, 0.1, 0.25, 0.5)[min(event // 30, 3)]


def simulate(
    champion: float, challenger: float, share: Callable[[int], float], events: int, seed: int, alpha: float = 0.05
) -> Evidence:
    """One rollout of `events` units who give feedback of 0 or 1 with these means."""
    draw = np.random.default_rng(seed)
    evidence = Evidence(alpha)
    for event, (a, y) in enumerate(draw.random((events, 2))):
        is_challenger = bool(a < share(event))
        evidence.observe(
            "challenger" if is_challenger else "champion",
            float(y < (challenger if is_challenger else champion)),
            share(event) if is_challenger else 1 - share(event),
            f"unit-{event}",
            START + timedelta(minutes=event),
        )
    return evidence


def first_decision(evidence: Evidence) -> tuple[str, int]:
    """What a controller that looks after every event would have decided, and after how many events."""
    path = evidence.trajectory()
    crossings = {
        "promote": np.flatnonzero(path.e_promote >= evidence.threshold),
        "abort": np.flatnonzero(path.e_abort >= evidence.threshold),
    }
    event, decision = min((int(at[0]) + 1 if len(at) else NEVER, name) for name, at in crossings.items())
    return (decision, event) if event < NEVER else ("continue", NEVER)


def median_events(champion: float, challenger: float, share: Callable[[int], float], wanted: str) -> float:
    runs = [first_decision(simulate(champion, challenger, share, 600, seed)) for seed in range(80)]
    return float(np.median([event if decision == wanted else NEVER for decision, event in runs]))


def test_two_equal_arms_are_told_apart_by_mistake_no_more_often_than_alpha_at_every_look() -> None:
    runs = 400
    wrong = sum(first_decision(simulate(0.5, 0.5, ramp, 400, seed))[0] != "continue" for seed in range(runs))
    assert wrong / runs <= 0.05


def test_equal_arms_of_rare_success_at_a_loose_alpha_keep_the_bound_too() -> None:
    runs = 300
    wrong = sum(first_decision(simulate(0.1, 0.1, ramp, 300, seed, alpha=0.2))[0] != "continue" for seed in range(runs))
    assert wrong / runs <= 0.2


def test_a_lift_of_three_tenths_is_promoted_within_150_events_in_the_median() -> None:
    assert median_events(0.4, 0.7, half, "promote") < 150


def test_a_loss_of_three_tenths_is_aborted_within_150_events_in_the_median() -> None:
    assert median_events(0.7, 0.4, half, "abort") < 150


def test_a_lift_of_two_tenths_is_promoted_within_300_events_in_the_median() -> None:
    assert median_events(0.4, 0.6, half, "promote") < 300


def test_the_interval_holds_the_true_lift_at_all_looks_at_once() -> None:
    missed = 0
    for seed in range(60):
        evidence = simulate(0.4, 0.6, ramp, 300, seed)
        looks = [evidence.verdict(START + timedelta(minutes=m)).interval for m in range(20, 301, 20)]
        missed += any(not low <= 0.2 <= high for low, high in looks)
    assert missed / 60 <= 0.05


def test_the_interval_narrows_about_the_lift_with_more_rewards() -> None:
    evidence = simulate(0.3, 0.6, half, 3000, seed=1)
    early, late = evidence.verdict(START + timedelta(minutes=100)), evidence.verdict(START + timedelta(days=9))
    assert late.interval[1] - late.interval[0] < 0.15 < early.interval[1] - early.interval[0]
    assert late.interval[0] < late.lift < late.interval[1]
    assert late.lift == pytest.approx(0.3, abs=0.06)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.floats(0.05, 0.95), st.floats(0.05, 0.95))
def test_the_interval_excludes_zero_exactly_when_the_test_decides(
    seed: int, champion: float, challenger: float
) -> None:
    evidence = simulate(champion, challenger, half, 150, seed)
    verdict = evidence.verdict(START + timedelta(days=1))
    assert (verdict.interval[0] >= 0) == (verdict.e_promote >= evidence.threshold)
    assert (verdict.interval[1] <= 0) == (verdict.e_abort >= evidence.threshold)
    assert verdict.e_promote == pytest.approx(evidence.trajectory().e_promote[-1])


def test_a_clear_winner_is_promoted_with_its_numbers_in_the_reason() -> None:
    verdict = simulate(0.2, 0.8, half, 200, seed=3).verdict(START + timedelta(days=1))
    assert verdict.decision == "promote"
    assert sum(verdict.rewards.values()) == 200
    assert verdict.means["challenger"] == pytest.approx(0.8, abs=0.12)
    assert verdict.reason.startswith("better: e-value")


def test_a_clear_loser_is_aborted() -> None:
    verdict = simulate(0.8, 0.2, half, 200, seed=3).verdict(START + timedelta(days=1))
    assert verdict.decision == "abort"
    assert verdict.reason.startswith("worse: e-value")


def test_nothing_seen_says_nothing() -> None:
    verdict = Evidence().verdict(START)
    assert (verdict.decision, verdict.lift, verdict.interval) == ("continue", 0.0, (-1.0, 1.0))
    assert (verdict.e_promote, verdict.e_abort) == (pytest.approx(1.0), pytest.approx(1.0))
    assert verdict.means == {"champion": None, "challenger": None}


def test_a_unit_counts_once_however_often_it_votes() -> None:
    evidence = Evidence()
    assert evidence.observe("challenger", 1.0, 0.5, "ballot stuffer", START)
    assert not any(evidence.observe("challenger", 1.0, 0.5, "ballot stuffer", START) for _ in range(1000))
    verdict = evidence.verdict(START)
    assert verdict.rewards == {"champion": 0, "challenger": 1}
    assert verdict.decision == "continue"


@pytest.mark.parametrize(
    ("arm", "propensity"), [("pinned", 0.5), ("challenger", 1.0), ("champion", 1.0), ("challenger", 0.0)]
)
def test_rewards_that_no_draw_stands_behind_are_ignored(arm: str, propensity: float) -> None:
    evidence = Evidence()
    assert not evidence.observe(arm, 1.0, propensity, "u", START)
    assert evidence.ignored == 1
    assert evidence.observe("champion", 1.0, 0.5, "u", START)  # and do not use up the unit's vote


@pytest.mark.parametrize("reward", [-0.1, 1.1, float("nan"), float("inf")])
def test_a_reward_outside_its_bounds_is_refused_by_name(reward: float) -> None:
    with pytest.raises(BadInput, match="unit 'u'"):
        Evidence().observe("champion", reward, 0.5, "u", START)


@pytest.mark.parametrize("alpha", [0.0, 1.0, float("nan")])
def test_an_alpha_that_is_no_probability_is_refused(alpha: float) -> None:
    with pytest.raises(BadInput, match="alpha"):
        Evidence(alpha)


def test_a_verdict_as_of_a_moment_does_not_see_what_arrived_later() -> None:
    then = START + timedelta(minutes=49)
    early = simulate(0.2, 0.8, half, 50, seed=5).verdict(then)
    assert simulate(0.2, 0.8, half, 300, seed=5).verdict(then) == early


@settings(deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.floats(0, 1), st.floats(0.01, 0.99)), min_size=1, max_size=60))
def test_wealth_stays_positive_and_the_interval_stays_in_order_for_any_rewards(
    rewards: list[tuple[bool, float, float]],
) -> None:
    evidence = Evidence()
    for i, (is_challenger, reward, propensity) in enumerate(rewards):
        evidence.observe("challenger" if is_challenger else "champion", reward, propensity, str(i), START)
    verdict = evidence.verdict(START)
    assert verdict.e_promote > 0
    assert verdict.e_abort > 0
    assert -1 <= verdict.interval[0] <= verdict.interval[1] <= 1


@dataclass(frozen=True)
class Told:
    """One feedback as the event log hands it out."""

    arm: str
    reward: float
    propensity: float
    unit: str
    at: datetime
    agreed: bool
    requested_at: datetime = START
    shares: None = None
    unit_given: bool = True
    api_key: str = ""


def weigh(rewards: Sequence[Rewarded], now: datetime) -> Verdict:
    """The verdict on a lone challenger by now."""
    return weighed(new_rollout("june", "2025-06", "1", "2", "salt", Policy(), START), rewards, Policy(), now).verdict


def told(units: int, differing: float, seed: int) -> list[Told]:
    """Feedback on arms that answer alike but for a share of the requests, which the challenger gets right, the champion wrong."""
    draw = np.random.default_rng(seed)
    found = []
    for number, (a, y, d) in enumerate(draw.random((units, 3))):
        arm = "challenger" if a < 0.5 else "champion"
        agreed = bool(d >= differing)
        reward = float(y < 0.6) if agreed else float(arm == "challenger")
        found.append(Told(arm, reward, 0.5, f"unit-{number}", START + timedelta(minutes=number), agreed))
    return found


def test_what_both_arms_answer_alike_is_left_out_and_counted() -> None:
    alike = [one for one in told(400, 0.1, seed=1) if one.agreed]
    seen = weigh(alike, START + timedelta(days=1))
    assert (seen.decision, seen.rewards, seen.agreed) == ("continue", {"champion": 0, "challenger": 0}, len(alike))
    assert f"{len(alike)} more where both answer alike" in seen.reason


def test_a_lift_on_few_requests_is_found_sooner_when_the_others_are_left_out() -> None:
    found = [told(400, 0.1, seed) for seed in range(20)]
    end = START + timedelta(days=1)
    unaware = [[Told(o.arm, o.reward, o.propensity, o.unit, o.at, False) for o in rewards] for rewards in found]
    assert sum(weigh(rewards, end).decision == "promote" for rewards in found) >= 18
    assert sum(weigh(rewards, end).decision == "promote" for rewards in unaware) <= 10


def test_ten_thousand_feedbacks_of_one_unit_move_a_verdict_no_more_than_one() -> None:
    rewards = told(200, 1.0, seed=1)
    end = START + timedelta(days=9)
    stuffed = [replace(rewards[-1], arm="challenger", reward=1.0, unit="stuffer", at=end) for _ in range(10_000)]
    once, often = (weigh([*rewards, *stuffed[:count]], end) for count in (1, 10_000))
    assert often == once


def test_rewards_after_now_are_not_weighed() -> None:
    rewards = told(10, 1.0, seed=1)
    assert sum(weigh(rewards, rewards[4].at).rewards.values()) == 5


def test_a_challenger_that_fails_on_what_is_hard_is_not_promoted_for_what_is_easy(tmp_path: Path) -> None:
    draw = np.random.default_rng(7)
    with EventLog(f"sqlite:///{tmp_path / 'events.db'}") as log:
        for number, (a, hard, y) in enumerate(draw.random((1500, 3))):
            arm = "challenger" if a < 0.5 else "champion"
            failed = arm == "challenger" and hard < 0.5
            at = START + timedelta(minutes=number)
            log.append(asked(f"r{number}", arm, at, "RuntimeError: crash" if failed else None))
            if not failed:
                score = float(y < (0.3 if hard < 0.5 else 0.8))
                log.append(Feedback(f"k{number}", f"r{number}", at + timedelta(minutes=5), score, None))
        log.record(asked("last", "pinned", START, None))
        rewards = log.rewards("june")
    end = START + timedelta(days=2)
    told = [one for one in rewards if one.requested_at != one.at]
    assert weigh(told, end).decision == "promote"
    assert weigh(rewards, end).decision == "abort"


def asked(name: str, arm: str, at: datetime, error: str | None) -> Request:
    """A request of a unit of its own, in a rollout at a share of one half."""
    text = ("fix the vlan", "" if error else "network")
    return Request(name, at, "classify", name, True, *text, None, "june", arm, "1", 0.5, 9.0, 4, 1, (), error)
