"""A rollout at a glance, and the experts behind good and bad answers: counted right, and nothing claimed that chance would show."""

from __future__ import annotations

import random

from monitoring.events import CLIENT_LEFT, EventLog
from monitoring.expert_rewards import compare
from monitoring.glance import ArmGlance, Rated, glance
from tests.monitoring.rows_for_tests import MINUTE, NOON, a_feedback, a_request


def test_a_glance_shows_each_arm_of_its_rollout_and_who_has_said_nothing_yet(log: EventLog) -> None:
    log.record(a_request("old", rollout="2025-05", latency_ms=9000.0))
    for number in range(1, 101):
        arm = "challenger" if number > 98 else "champion"
        error = {1: "timeout", 3: CLIENT_LEFT}.get(number)
        log.append(a_request(f"r{number}", at=NOON, arm=arm, latency_ms=float(number), error=error))
    log.append(a_feedback("k2", "r2", at=NOON + 4 * MINUTE, score=1.0))
    log.append(a_feedback("k3", "r2", at=NOON + 9 * MINUTE, score=0.0))
    log.append(a_feedback("k4", "r4", at=NOON + 2 * MINUTE, score=0.5))
    log.record(a_feedback("k99", "r99", at=NOON + 6 * MINUTE, score=0.0))
    seen = glance(log.engine, "2025-06")
    assert seen.arms == (
        ArmGlance("challenger", 2, 0, 1, 99.0, 100.0),
        ArmGlance("champion", 98, 1, 2, 49.0, 94.0),
    )
    assert [arm.waiting for arm in seen.arms] == [1, 95]
    assert [row.reward for row in seen.rated] == [0.0, 0.5, 1.0]
    assert seen.rated[-1] == Rated("3", "ann", (7, 101, 3), 1.0, 240.0)
    assert seen.median_delay_seconds == 240.0


def test_latencies_and_rated_answers_are_the_latest(log: EventLog) -> None:
    for number in range(6):
        log.append(a_request(f"r{number}", at=NOON + number * MINUTE, latency_ms=float(number)))
        log.record(a_feedback(f"k{number}", f"r{number}", score=number / 10))
    seen = glance(log.engine, "2025-06", recent=2)
    assert (seen.arms[0].requests, seen.arms[0].rated, seen.arms[0].latency_ms_p50) == (6, 6, 4.0)
    assert [row.reward for row in seen.rated] == [0.5, 0.4]


def test_a_rollout_without_requests_has_no_arms(log: EventLog) -> None:
    seen = glance(log.engine, "none")
    assert (seen.arms, seen.rated, seen.median_delay_seconds) == ((), (), None)


def rated(seed: int, bad: int | None = None, rows: int = 3000, per_unit: int = 1) -> list[Rated]:
    """Answers of 16 experts, 4 at a time, liked by 6 in 10, and by 3 in 10 where expert `bad` took part."""
    generator, found = random.Random(seed), []
    for number in range(rows):
        experts = tuple(generator.sample(range(16), 4))
        liked = generator.random() < (0.3 if bad in experts else 0.6)
        found += [Rated("2", f"unit {number}", experts, float(liked), 60.0)] * per_unit
    return found


def test_an_expert_of_bad_answers_is_found_and_the_others_are_not_claimed() -> None:
    seen = compare("2", rated(1, bad=5))
    assert seen.compared == 16
    first = seen.worst[0]
    assert (first.expert, first.sure) == (5, True)
    assert -0.36 < first.difference < -0.24
    assert not any(one.sure for one in seen.worst[1:])
    assert (first.answers + first.others, seen.rated) == (3000, 3000)


def test_where_no_expert_differs_hardly_any_is_claimed() -> None:
    claims = sum(
        any(one.sure for one in (*seen.best, *seen.worst))
        for seen in (compare("2", rated(s, rows=400)) for s in range(40))
    )
    assert claims <= 6  # of 40 at 1 in 20, this or more by chance in 1 of 70


def test_a_unit_that_says_the_same_twenty_times_is_not_twenty_witnesses() -> None:
    once, often = compare("2", rated(3, rows=400)), compare("2", rated(3, rows=400, per_unit=20))
    assert abs(once.worst[0].error - often.worst[0].error) < 1e-9


def test_few_answers_other_versions_and_experts_that_serve_all_are_not_compared() -> None:
    assert compare("2", rated(1, bad=5, rows=30)).compared == 0
    assert compare("1", rated(1)).rated == 0
    always = [Rated("2", f"u{number}", (0, 1 + number % 2), number % 3 / 2, 1.0) for number in range(200)]
    assert {one.expert for one in (*compare("2", always).best, *compare("2", always).worst)} <= {1, 2}
    alike = [Rated("2", f"u{number}", (number % 2,), 1.0, 1.0) for number in range(200)]
    assert compare("2", alike).compared == 0
