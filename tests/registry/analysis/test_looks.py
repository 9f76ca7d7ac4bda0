"""The confidence sequence as it narrows, and what the next automatic step would do."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from monitoring.events import Reward
from registry.analysis.looks import Look, Looks
from registry.analysis.outlook import Outlook, outlook, weighed
from registry.evidence import Evidence, Verdict
from registry.rollout import Policy, new_rollout
from registry.rules.best_arm import BestArm

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


def lone() -> BestArm:
    return BestArm(["challenger"])


def judged(given: list[Reward], arms: Callable[[], BestArm] = lone) -> dict[str, Verdict]:
    all_at_once = arms()
    for one in given:
        all_at_once.take(one)
    return all_at_once.verdicts(LATER)


def taken(looks: Looks, given: list[Reward]) -> tuple[Look, ...]:
    return looks.take(given, judged(given))["challenger"]


def test_every_look_is_the_verdict_on_the_rewards_until_then() -> None:
    given = rewards(150)
    looks = taken(Looks(lone), given)
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
    given, bit_by_bit = rewards(200), Looks(lone, most=20)
    for count in (0, 3, 17, 90, 91, 200):
        last = taken(bit_by_bit, given[:count])
    assert last == taken(Looks(lone, most=20), given)


def test_a_reward_that_came_in_between_begins_the_looks_anew() -> None:
    given, looks = rewards(60), Looks(lone)
    taken(looks, given[:50])
    late = [*given[:10], replace(given[10], response_id="late", unit="late", reward=0.0), *given[10:]]
    assert taken(looks, late) == taken(Looks(lone), late)


def test_answers_that_both_arms_give_are_no_looks() -> None:
    given = [replace(one, agreed=True) for one in rewards(20)]
    assert taken(Looks(lone), given) == ()


def test_of_several_each_has_looks_of_its_own_at_its_own_rewards_and_the_champions() -> None:
    def arms() -> BestArm:
        return BestArm(["challenger:2", "challenger:3"])

    shares = {"champion": 0.5, "challenger:2": 0.4, "challenger:3": 0.1}
    draw, given = random.Random(3), []
    for one in rewards(300):
        arm = draw.choices(list(shares), list(shares.values()))[0]
        given.append(replace(one, arm=arm, propensity=shares[arm], shares=shares))
    found = Looks(arms).take(given, judged(given, arms))
    assert found.keys() == {"challenger:2", "challenger:3"}
    for arm, looks in found.items():
        assert looks[-1].rewards == sum(one.arm in ("champion", arm) for one in given)
        assert [look.rewards for look in looks] == sorted({look.rewards for look in looks})
        assert len(looks) > 20
        evidence = Evidence(0.05 / 3)
        pair = [one for one in given if one.arm in ("champion", arm)]
        middle = looks[len(looks) // 2]
        for one in pair[: middle.rewards]:
            side = "champion" if one.arm == "champion" else "challenger"
            evidence.observe(side, one.reward, shares[one.arm] / (0.5 + shares[arm]), one.unit, one.at)
        assert (middle.low, middle.high) == evidence.verdict(LATER).interval


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
