"""What the rewards prove counts those that came in time, and an outlook says what follows."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from monitoring.events import Reward
from registry.analysis.outlook import outlook, weighed
from registry.deciding import Watch
from registry.rollout import Policy, new_rollout
from registry.rules.guardrails import Guarded

OPENED = datetime(2025, 6, 1, tzinfo=UTC)
POLICY = Policy(feedback_days=2)
ROLLOUT = new_rollout("june", "2025-06", "1", "2", "salt", POLICY, OPENED)


def told(number: int, late: timedelta, agreed: bool = False) -> Reward:
    asked = OPENED + timedelta(hours=number)
    arm = "challenger" if number % 2 else "champion"
    return Reward(f"r{number}", f"u{number}", True, arm, "1", 0.5, 1.0, asked, asked + late, agreed)


def test_feedback_later_than_its_window_moves_no_verdict_and_no_step() -> None:
    rewards = [told(0, timedelta(days=2)), told(1, timedelta(days=2, seconds=1)), told(2, timedelta(0), agreed=True)]
    proof = weighed(ROLLOUT, rewards, POLICY, OPENED + timedelta(days=9))
    assert proof.verdict.rewards == {"champion": 1, "challenger": 0}
    assert len(proof.told_at) == 1


def test_feedback_after_now_is_not_there_yet() -> None:
    rewards = [told(0, timedelta(hours=1)), told(1, timedelta(hours=5))]
    assert len(weighed(ROLLOUT, rewards, POLICY, OPENED + timedelta(hours=2)).told_at) == 1


def test_a_key_without_units_is_no_crowd() -> None:
    policy = replace(POLICY, unnamed_per_key=3)
    crowd = [replace(told(number, timedelta(0)), unit_given=False, api_key="ann") for number in range(10_000)]
    other = [replace(told(number, timedelta(0)), unit_given=False, api_key="bob") for number in (20_002, 20_003)]
    named = [told(number, timedelta(0)) for number in (30_004, 30_005)]
    later = OPENED + timedelta(days=9_999)
    proof = weighed(ROLLOUT, [*crowd, *other, *named], policy, later)
    assert sum(proof.verdict.rewards.values()) == 3 + 2 + 2
    assert proof.left_out == 9_997
    assert outlook(ROLLOUT, proof, policy, later).left_out == 9_997
    few = weighed(ROLLOUT, [*crowd[:3], *other, *named], policy, later)
    assert (few.verdict, few.left_out) == (proof.verdict, 0)


def test_answers_that_both_versions_give_use_up_none_of_what_a_key_may_give() -> None:
    policy = replace(POLICY, unnamed_per_key=1)
    seen = [replace(told(number, timedelta(0), agreed=number < 5), unit_given=False) for number in range(6)]
    assert weighed(ROLLOUT, seen, policy, OPENED + timedelta(days=9)).left_out == 0


def test_an_outlook_says_what_the_next_look_would_do() -> None:
    proof = weighed(ROLLOUT, [told(number, timedelta(0)) for number in range(8)], POLICY, OPENED + timedelta(days=1))
    assert outlook(ROLLOUT, proof, POLICY, OPENED).next.action == "advance"
    stop = Watch(guardrails=(Guarded("errors", True, 0.4, 0.01, 999.0, "errors 40.0%"),))
    assert outlook(ROLLOUT, proof, POLICY, OPENED, stop).next.action == "abort"


def test_one_unit_moves_no_share_however_often_it_tells() -> None:
    rewards = [replace(told(number, timedelta(0)), unit="mallory", arm="champion") for number in range(40)]
    proof = weighed(ROLLOUT, rewards, POLICY, OPENED + timedelta(days=2))
    assert len(proof.told_at) == 1
    assert outlook(ROLLOUT, proof, POLICY, OPENED + timedelta(days=2)).next.action == "hold"
