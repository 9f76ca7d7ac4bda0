"""The confidence sequence as it narrows, and what the next automatic step would do."""

from __future__ import annotations

import random
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from monitoring.events import Reward
from registry.best_arm import weigh
from registry.evidence import Evidence, Verdict
from registry.looks import Looks
from registry.outlook import Outlook, outlook, weighed
from registry.rollout import Policy, new_rollout

OPENED = datetime(2025, 7, 1, tzinfo=UTC)
LATER = OPENED + timedelta(days=30)


def rewards(count: int, seed: int = 1) -> list[Reward]:
    """Of a challenger that is 15 points better, a unit each, a minute apart."""
    generator, found = random.Random(seed), []
    for number in range(count):
        challenger = generator.random() < 0.5
        liked = generator.random() < (0.7 if challenger else 0.55)
        at = OPENED + timedelta(minutes=number)
        arm = "challenger" if challenger else "champion"
        found.append(Reward(f"r{number}", f"u{number}", True, arm, "2", 0.5, float(liked), at, at, False))
    return found


def judged(given: list[Reward]) -> Verdict:
    return weigh(given, 0.05, LATER)


def test_every_look_is_the_verdict_on_the_rewards_until_then() -> None:
    given = rewards(150)
    looks = Looks(0.05).take(given, judged(given))
    assert 30 <= len(looks) <= 62
    assert looks[-1].rewards == 150
    for look in looks:
        evidence = Evidence(0.05)
        for one in given[: look.rewards]:
            evidence.observe(one.arm, one.reward, one.propensity, one.unit, one.at)
        verdict = evidence.verdict(LATER)
        assert (look.low, look.high, look.e_promote) == (*verdict.interval, verdict.e_promote)
    assert looks[-1].high - looks[-1].low < looks[0].high - looks[0].low


def test_looks_taken_as_the_rewards_come_are_those_taken_at_once() -> None:
    given, bit_by_bit = rewards(200), Looks(0.05, most=20)
    for count in (0, 3, 17, 90, 91, 200):
        last = bit_by_bit.take(given[:count], judged(given[:count]))
    assert last == Looks(0.05, most=20).take(given, judged(given))


def test_a_reward_that_came_in_between_begins_the_looks_anew() -> None:
    given, looks = rewards(60), Looks(0.05)
    looks.take(given[:50], judged(given[:50]))
    late = [*given[:10], replace(given[10], response_id="late", unit="late", reward=0.0), *given[10:]]
    assert looks.take(late, judged(late)) == Looks(0.05).take(late, judged(late))


def test_answers_that_both_arms_give_are_no_looks() -> None:
    given = [replace(one, agreed=True) for one in rewards(20)]
    assert Looks(0.05).take(given, judged(given)) == ()


def test_the_outlook_says_what_the_next_step_would_do_and_why() -> None:
    def foreseen(count: int, now: datetime = LATER) -> Outlook:
        rollout = new_rollout("june", "2025-06", "1", "2", "salt", Policy(), OPENED)
        return outlook(rollout, weighed(rollout, rewards(count), Policy(), now), Policy(), now)

    seen = foreseen(5)
    assert (seen.since_step, seen.next.action) == (5, "hold")
    assert seen.next.reason.startswith("5 of 8 rewards at share 0.05")
    seen = foreseen(20)
    assert (seen.next.action, seen.next.share) == ("advance", 0.1)
    assert foreseen(20, OPENED + timedelta(minutes=2)).since_step == 3
