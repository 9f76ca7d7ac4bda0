"""Traffic goes where the question is open, no arm starves, and only proof decides."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from evermoe.errors import BadInput
from registry.rules.best_arm import BestArm, Standing

START = datetime(2025, 6, 1, tzinfo=UTC)
NAMES = ("a", "b", "c")


def live(means: dict[str, float], units: int, seed: int, every: int = 50) -> tuple[Standing, dict[str, float], BestArm]:
    """Units one by one; shares and standing after each `every`. Returns the last standing and how many units met each arm."""
    draw, policy = np.random.default_rng(seed), BestArm(NAMES)
    met = dict.fromkeys(policy.arms, 0.0)
    shares = policy.shares(draw)
    standing = policy.standing(START)
    for number in range(units):
        now = START + timedelta(minutes=number)
        if number and number % every == 0:
            standing, shares = policy.standing(now), policy.shares(draw)
            if standing.decision != "continue":
                break
        arm = str(draw.choice(policy.arms, p=list(shares.values())))
        met[arm] += 1
        policy.observe(arm, float(draw.random() < means[arm]), shares, f"u{number}", now)
    return standing, met, policy


def test_the_best_of_three_is_promoted_and_meets_more_units_than_the_worst() -> None:
    for seed in range(3):
        standing, met, _ = live({"champion": 0.4, "a": 0.4, "b": 0.8, "c": 0.2}, 3000, seed)
        assert (standing.decision, standing.arm) == ("promote", "b")
        assert met["b"] > met["c"]


def test_with_every_challenger_proved_worse_the_champion_stays() -> None:
    standing, _, policy = live({"champion": 0.8, "a": 0.3, "b": 0.2, "c": 0.3}, 3000, seed=1)
    assert (standing.decision, standing.inside) == ("abort", ())
    assert all(reason.startswith("worse than") for reason in standing.out.values())
    assert policy.shares(np.random.default_rng(0)) == {"champion": 1.0, "a": 0.0, "b": 0.0, "c": 0.0}


def test_equal_arms_are_left_undecided() -> None:
    decided = [live(dict.fromkeys(("champion", *NAMES), 0.6), 500, seed)[0] for seed in range(8)]
    assert sum(bool(one.out) or one.decision != "continue" for one in decided) <= 1


def test_shares_add_up_and_keep_to_the_floor_until_an_arm_is_out() -> None:
    _, _, policy = live({"champion": 0.5, "a": 0.5, "b": 0.7, "c": 0.4}, 200, seed=2)
    before = policy.shares(np.random.default_rng(0))
    assert sum(before.values()) == pytest.approx(1.0)
    assert min(before.values()) >= policy.floor
    policy.drop("b", "guardrail crossed: errors")
    after = policy.shares(np.random.default_rng(0))
    assert (after["b"], sum(after.values())) == (0.0, pytest.approx(1.0))
    assert policy.standing(START).out["b"] == "guardrail crossed: errors"


def test_a_unit_counts_once() -> None:
    policy = BestArm(NAMES)
    for _ in range(10_000):
        policy.observe("a", 1.0, dict.fromkeys(policy.arms, 0.25), "stuffer", START)
    assert policy.standing(START).decision == "continue"


@pytest.mark.parametrize("wrong", [((), 0.05), (("a", "a"), 0.05), (("champion",), 0.05), (("a", "b"), 0.4)])
def test_challengers_and_floors_that_make_no_sense_are_refused(wrong: tuple[tuple[str, ...], float]) -> None:
    with pytest.raises(BadInput):
        BestArm(wrong[0], floor=wrong[1])
