"""Thousands of rollouts at once, in arrays: made-up users ask, answer late or never, and the platform's own bets look each time.

The bets are `registry.betting`'s and the policy's numbers `registry.rollout.Policy`'s; what is written anew here is the ramp of
`registry.deciding.decide`, in arrays, because that one looks at one rollout at a time. A test lives the same rollouts through
`Evidence` and `decide`. Knows nothing of reports.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from registry.betting import Floats, Past, mixed
from registry.rollout import Policy

PROMOTED, ABORTED, UNDECIDED = 1, -1, 0
Z_LIMIT = 1.959964  # two-sided 5%
FEWEST_FOR_Z = 10  # rewards of each arm before the z-test is looked at
Report = Callable[[int], None]


@dataclass(frozen=True)
class Users:
    """Who asks in one rollout: `requests` of a pool of `people`, `per_day` a day, some of them much more often than others.

    Each is right for the champion in 60% of the cases on average, between 40% and 80%; tells how it was at a rate of their own
    between 20% and 100%; and that up to a day late, each at a pace of their own.
    """

    people: int = 2000
    requests: int = 3000
    per_day: int = 400
    hands: int = 2
    """How often a person sets the share to anything between 1% and 90%."""


@dataclass(frozen=True)
class Ends:
    """How each rollout ended: its outcome and after how many counted rewards, and whether the peeking z-test ever rejected."""

    outcome: NDArray[np.int64]
    rewards: Floats
    z_rejected: NDArray[np.bool_]


class Rollouts:
    """R rollouts at their present look."""

    def __init__(self, count: int, policy: Policy, alpha: float) -> None:
        self.policy, self.limit = policy, math.log(2.0 / alpha)
        self.shares = np.array(policy.shares)
        self.share = np.full(count, policy.shares[0])
        self.since_step = np.zeros(count)
        self.past = Past(*(np.zeros(count) for _ in range(5)))
        self.log_promote, self.log_abort = np.zeros((count, 4)), np.zeros((count, 4))
        self.outcome = np.zeros(count, dtype=np.int64)
        self.rewards = np.zeros(count)
        self.z_rejected = np.zeros(count, dtype=bool)

    @property
    def ends(self) -> Ends:
        return Ends(self.outcome, self.rewards, self.z_rejected)

    def take(self, challenger: Floats, reward: Floats, share: Floats, told: Floats, counts: Floats) -> None:
        """One look: a reward of an arm that was drawn at `share`. Where `told` is 0 there is none; where `counts` is 0 its unit
        counted before, so that it says nothing and is only one more reward at this step."""
        outcome = self.past.outcome(challenger, reward, share, counts)
        self.log_promote += outcome.log_gains()
        self.log_abort += outcome.mirror().log_gains()
        promote, abort = mixed(self.log_promote), mixed(self.log_abort)
        undecided = self.outcome == UNDECIDED
        self.rewards += undecided * counts
        self.outcome[undecided & (abort >= self.limit)] = ABORTED
        self.outcome[undecided & (promote >= self.limit) & (promote >= abort)] = PROMOTED
        self.since_step += told
        self._climb(abort)

    def set_share(self, moved: NDArray[np.bool_], share: Floats) -> None:
        """By hand."""
        moved &= self.outcome == UNDECIDED
        self.share[moved], self.since_step[moved] = share[moved], 0.0

    def peek(self) -> None:
        """The z-test of two proportions that looks every time."""
        n0, n1 = self.past.count_champion, self.past.count_challenger
        enough = (n0 >= FEWEST_FOR_Z) & (n1 >= FEWEST_FOR_Z)
        n0, n1 = np.maximum(n0, 1), np.maximum(n1, 1)
        pooled = (self.past.sum_champion + self.past.sum_challenger) / (n0 + n1)
        spread = np.sqrt(np.maximum(pooled * (1 - pooled), 1e-12) * (1 / n0 + 1 / n1))
        z = (self.past.sum_challenger / n1 - self.past.sum_champion / n0) / spread
        self.z_rejected |= enough & (np.abs(z) > Z_LIMIT)

    def _climb(self, log_abort: Floats) -> None:
        step = np.searchsorted(self.shares, self.share, side="right")
        higher = self.shares[np.minimum(step, len(self.shares) - 1)]
        climbs = (self.outcome == UNDECIDED) & (step < len(self.shares)) & (log_abort < self.limit / 2)
        climbs &= self.since_step >= self.policy.min_rewards_per_step
        self.share[climbs], self.since_step[climbs] = higher[climbs], 0.0


@dataclass(frozen=True)
class Traffic:
    """What users will do in R rollouts, whatever they meet: each array is rollouts by requests, or rollouts by people."""

    person: NDArray[np.int64]
    arrives: NDArray[np.int64]
    """The request after which the feedback is there; never: the last but one."""
    right: Floats
    place: Floats
    pleased: Floats
    moved: NDArray[np.int64]
    moved_to: Floats


def traffic(users: Users, count: int, draw: np.random.Generator) -> Traffic:
    """Draw it."""
    wanted, crowd = (count, users.requests), (count, users.people)
    person = (users.people * draw.random(wanted) ** 1.5).astype(np.int64)
    rows = np.arange(count)[:, None]
    tells, pace = draw.uniform(0.2, 1.0, crowd), draw.random(crowd)
    late = draw.random(wanted) * pace[rows, person] * users.per_day
    arrives = np.arange(users.requests) + np.ceil(late).astype(np.int64)
    arrives[draw.random(wanted) >= tells[rows, person]] = users.requests + users.per_day
    return Traffic(
        person=person,
        arrives=arrives,
        right=draw.random(wanted),
        place=draw.random(crowd),
        pleased=draw.uniform(0.4, 0.8, crowd),
        moved=draw.integers(0, users.requests, (count, users.hands)),
        moved_to=draw.uniform(0.01, 0.9, (count, users.hands)),
    )


def live(users: Users, made: Traffic, policy: Policy, lift: float = 0.0, report: Report | None = None) -> Ends:
    """Let R rollouts of late, partial feedback run to the end of their requests; a look after each feedback."""
    count = len(made.person)
    rollouts = Rollouts(count, policy, policy.alpha)
    rows = np.arange(count)
    arm, drawn = np.zeros((count, users.requests)), np.full((count, users.requests), 0.5)
    counted = np.zeros((count, users.people), dtype=bool)
    order = np.argsort(made.arrives, axis=1, kind="stable")
    waiting = np.zeros(count, dtype=np.int64)  # how many feedbacks have come
    for request in range(users.requests):
        for hand in range(users.hands):
            rollouts.set_share(made.moved[:, hand] == request, made.moved_to[:, hand])
        arm[:, request] = made.place[rows, made.person[:, request]] < rollouts.share
        drawn[:, request] = rollouts.share
        while True:
            which = order[rows, np.minimum(waiting, users.requests - 1)]
            told = (waiting < users.requests) & (made.arrives[rows, which] <= request)
            if not told.any():
                break
            person = made.person[rows, which]
            fresh = told & ~counted[rows, person]
            counted[rows[fresh], person[fresh]] = True
            mean = made.pleased[rows, person] + lift * arm[rows, which]
            right = (made.right[rows, which] < mean).astype(np.float64)
            counts, says = fresh.astype(np.float64), told.astype(np.float64)
            rollouts.take(arm[rows, which], right, drawn[rows, which], says, counts)
            rollouts.peek()
            waiting += told
        if report is not None:
            report(count)
    return rollouts.ends


def decide_on(
    champion: float, challenger: float, policy: Policy, count: int, most: int, seed: int, report: Report | None = None
) -> Ends:
    """Let R rollouts run until each is decided, or has `most` rewards, each of a unit of its own and at once."""
    draw, rollouts, ones = np.random.default_rng(seed), Rollouts(count, policy, policy.alpha), np.ones(count)
    for _ in range(most):
        undecided = rollouts.outcome == UNDECIDED
        if not undecided.any():
            break
        arm = (draw.random(count) < rollouts.share).astype(np.float64)
        reward = (draw.random(count) < np.where(arm == 1.0, challenger, champion)).astype(np.float64)
        rollouts.take(arm, reward, rollouts.share.copy(), ones, ones)
        if report is not None:
            report(1)
    return rollouts.ends
