"""The bets are fair games, exactly, and one rollout's numbers are those of many rollouts' arrays."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from registry.betting import LIFTS, WEIGHTS, Past, log_path, log_wealth, lowest_lift, outcomes_of

shares = st.floats(0.01, 0.99)
means = st.floats(0.0, 1.0)
rewards = st.lists(st.tuples(st.booleans(), st.floats(0, 1), shares), max_size=30)


def lived(history: list[tuple[bool, float, float]]) -> Past:
    past = Past()
    for challenger, reward, share in history:
        past.outcome(float(challenger), reward, share)
    return past


def expected_wealth(past: Past, share: float, champion: float, challenger: float, theta: float, mirror: bool) -> float:
    """What one unit of a bettor's wealth becomes on average at the next reward of 0 or 1: the largest over the bettors."""
    total = np.zeros(len(LIFTS))
    for arm, chance, mean in ((1.0, share, challenger), (0.0, 1.0 - share, champion)):
        for reward, likely in ((1.0, mean), (0.0, 1.0 - mean)):
            outcome = replace(past).outcome(arm, reward, share)
            total += chance * likely * np.exp((outcome.mirror() if mirror else outcome).log_gains(theta))
    return float(total.max())


@settings(deadline=None)
@given(rewards, shares, means, means, st.floats(0.0, 0.3))
def test_after_any_past_no_bettor_gains_on_average_where_the_lift_is_what_it_bets_against(
    history: list[tuple[bool, float, float]], share: float, one: float, two: float, slack: float
) -> None:
    lift, past = two - one, lived(history)
    assert expected_wealth(past, share, one, two, lift + slack, mirror=False) <= 1.0 + 1e-9
    assert expected_wealth(past, share, one, two, slack - lift, mirror=True) <= 1.0 + 1e-9


def test_every_bettor_gains_on_average_where_the_lift_is_what_it_hopes_for() -> None:
    past = lived([(i % 2 == 0, float(i % 5 < 3), 0.5) for i in range(2000)])
    for j, lift in enumerate(LIFTS):
        gain = 0.0
        for arm, mean in ((1.0, 0.6 + lift), (0.0, 0.6)):
            for reward, likely in ((1.0, mean), (0.0, 1.0 - mean)):
                gain += 0.5 * likely * replace(past).outcome(arm, reward, 0.5).log_gains()[j]
        assert gain == pytest.approx(lift**2 / (8 * 0.24), rel=0.25)  # the best there is: lift^2 / (2 variance of X)


def test_an_array_of_rollouts_is_so_many_rollouts_of_one() -> None:
    draw = np.random.default_rng(1)
    challenger, reward, share = draw.random((40, 7)) < 0.4, draw.random((40, 7)), draw.uniform(0.1, 0.9, (40, 7))
    seen = draw.random((40, 7)) < 0.7
    together = Past()
    rows = [together.outcome(1.0 * challenger[t], reward[t], share[t], 1.0 * seen[t]) for t in range(40)]
    for r in range(7):
        alone, xs = Past(), []
        for t in np.flatnonzero(seen[:, r]):
            xs.append(alone.outcome(float(challenger[t, r]), reward[t, r], share[t, r]).x)
        assert [rows[t].x[r] for t in np.flatnonzero(seen[:, r])] == pytest.approx(xs)
        assert together.squares[r] == pytest.approx(alone.squares)
        assert all(rows[t].x[r] == 0 for t in np.flatnonzero(~seen[:, r]))


@given(st.lists(st.tuples(st.booleans(), st.floats(0, 1), shares), min_size=1, max_size=30))
def test_a_run_of_rewards_at_once_tells_what_they_told_one_by_one(history: list[tuple[bool, float, float]]) -> None:
    past = Past()
    one_by_one = [past.outcome(float(arm), reward, share) for arm, reward, share in history]
    together = outcomes_of(*np.array(history, dtype=float).T)
    for name in ("x", "low", "high", "precision"):
        assert getattr(together, name) == pytest.approx([getattr(one, name) for one in one_by_one])


def test_the_lowest_lift_is_where_the_wealth_reaches_the_limit() -> None:
    draw = np.random.default_rng(2)
    challenger = 1.0 * (draw.random(400) < 0.5)
    reward = 1.0 * (draw.random(400) < np.where(challenger == 1.0, 0.7, 0.4))
    outcomes = outcomes_of(challenger, reward, np.full(400, 0.5))
    low = lowest_lift(outcomes, np.log(40.0))
    assert log_wealth(outcomes, low - 2e-3) >= np.log(40.0) > log_wealth(outcomes, low + 2e-3)
    assert log_path(outcomes, low)[-1] == pytest.approx(log_wealth(outcomes, low))


def test_the_first_wealth_is_one() -> None:
    assert sum(WEIGHTS) == pytest.approx(1.0)
