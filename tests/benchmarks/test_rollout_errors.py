"""The simulated rollouts are the platform's own, their figures are right, and the benchmark prints them."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from heapq import heappop, heappush

import numpy as np
import pytest
from statsmodels.stats.proportion import samplesize_proportions_2indep_onetail

from benchmarks.rollout_errors import equal, fixed_horizon, share_of
from benchmarks.rollout_worlds import Traffic, Users, live, traffic
from evermoe.settings import ROOT
from registry.actions.steering import set_share
from registry.deciding import decide
from registry.evidence import Evidence
from registry.rollout import Policy, Rollout, new_rollout, transition
from registry.rules.best_arm import Standing

START = datetime(2025, 6, 1, tzinfo=UTC)
POLICY = Policy(shares=(0.01, 0.05, 0.1, 0.25, 0.5), max_days=10_000)
USERS = Users(people=150, requests=300, per_day=100)


def moved_by_hand(rollout: Rollout, made: Traffic, row: int, request: int) -> Rollout:
    for hand in np.flatnonzero(made.moved[row] == request):
        if rollout.open:
            now = START + timedelta(minutes=request)
            rollout = transition(rollout, set_share(rollout, float(made.moved_to[row, hand])), now)
    return rollout


def lived_one_by_one(made: Traffic, row: int, lift: float) -> tuple[str, int, float]:
    """The same rollout through `Evidence` and `decide`: how it ended, after how many counted rewards, at which share."""
    rollout, evidence = new_rollout("r", "m", "1", "2", "salt", POLICY, START), Evidence(POLICY.alpha)
    late: list[tuple[int, int]] = []
    drawn: list[tuple[bool, float]] = []
    since = 0
    for request in range(USERS.requests):
        now = START + timedelta(minutes=request)
        before, rollout = rollout, moved_by_hand(rollout, made, row, request)
        since = 0 if rollout is not before else since
        drawn.append((bool(made.place[row, made.person[row, request]] < rollout.share), rollout.share))
        heappush(late, (int(made.arrives[row, request]), request))
        while late and late[0][0] <= request:
            _, which = heappop(late)
            person = made.person[row, which]
            arm, share = drawn[which]
            reward = float(made.right[row, which] < made.pleased[row, person] + lift * arm)
            name, propensity = ("challenger", share) if arm else ("champion", 1 - share)
            evidence.observe(name, reward, propensity, str(person), now)
            since += 1
            after = transition(rollout, decide(rollout, Standing.of(evidence.verdict(now)), POLICY, now, since), now)
            since = 0 if after is not rollout else since
            rollout = after
            if not rollout.open:
                return rollout.status, sum(evidence.verdict(now).rewards.values()), rollout.share
    return rollout.status, sum(evidence.verdict(now).rewards.values()), rollout.share


@pytest.mark.parametrize("lift", [0.0, 0.3, -0.3])
def test_a_simulated_rollout_ends_as_it_does_through_the_platforms_own_evidence_and_policy(lift: float) -> None:
    made = traffic(USERS, 4, np.random.default_rng(5))
    ends = live(USERS, made, POLICY, lift)
    for row in range(4):
        status, rewards, _ = lived_one_by_one(made, row, lift)
        assert {"promoted": 1, "aborted": -1, "running": 0}[status] == ends.outcome[row]
        assert rewards == ends.rewards[row]


def test_equal_arms_are_rarely_decided_on_and_a_peeking_z_test_often_errs() -> None:
    same = equal(300, lambda done: None, USERS)
    assert same.wrong.low <= 0.05
    assert same.z_test.share > 0.1
    assert same.wrong.share == pytest.approx(same.promoted.share + same.aborted.share)


def test_the_exact_interval_is_that_of_clopper_and_pearson() -> None:
    none = share_of(0, 100)
    assert (none.share, none.low, none.high) == (0.0, 0.0, pytest.approx(1 - 0.025 ** (1 / 100)))


@pytest.mark.parametrize("lift", [0.02, 0.05, 0.1])
def test_the_fixed_horizon_is_that_of_statsmodels(lift: float) -> None:
    of_one_arm = samplesize_proportions_2indep_onetail(lift, 0.6, 0.8, ratio=1, alpha=0.05)
    assert fixed_horizon(0.6, 0.6 + lift, 0.8) / 2 == pytest.approx(float(of_one_arm), rel=0.02)


@pytest.mark.slow
def test_the_benchmark_prints_its_figures() -> None:
    run = [sys.executable, "-m", "benchmarks.rollout_errors", "--quick", "--json"]
    found = json.loads(subprocess.run(run, cwd=ROOT, check=True, capture_output=True, text=True).stdout)
    assert found["equal"]["wrong"]["low"] <= found["alpha"] < found["equal"]["z_test"]["low"]
    assert [(row["lift"], row["ramp"]) for row in found["better"]] == [
        (0.05, False),
        (0.05, True),
        (0.1, False),
        (0.1, True),
    ]
    assert all(row["promoted"]["high"] >= 0.9 for row in found["better"])
