"""What another policy would have been worth, judged on the log of a rollout by its propensities, before it meets a user.

Pure: logged rewards and a policy in, an estimate with its interval out. Knows no database.

The log is lived again in order of time. Where a unit asks, the policy's share of that moment, q, is set against the propensity p
with which its arm was drawn; when its reward arrives, the policy is shown it with probability c q / p, so that it sees what it
would have seen, in a part c of the traffic (it climbs so much later than it would live). Each reward gives one estimate:

- inverse propensity: (q / p) reward, right whatever rewards look like, and wild where q / p is large;
- doubly robust: what the arms' means before it predict for q, and (q / p) what this reward differs from that. As right, and
  calmer.

The interval is the doubly robust mean and 1.96 standard errors: a normal approximation, 95% with hundreds of rewards, less sure
with few. `effective` is how many rewards the weights are worth, (Σ w)² / Σ w²; where that is small the log says little of this
policy, and `enough` is false: then believe nothing here, and let the log grow at a share nearer to the policy's.

Where it fails. It speaks of units who gave feedback on answers in which the arms differ, the first of each. Arms that never met
what a new policy would send them cannot be judged. A policy that depends on more than rewards (guardrails, people) is judged
without them.

- Dudík, Erhan, Langford, Li (2012), Sample-efficient nonstationary policy evaluation for contextual bandits.
- Li, Chu, Langford, Wang (2011), Unbiased offline evaluation of contextual-bandit-based news article recommendation algorithms.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from statistics import fmean, stdev
from typing import Protocol

from evermoe.errors import NotReady
from registry.assignment import CHALLENGER, CHAMPION
from registry.best_arm import Standing
from registry.evidence import Evidence, Rewarded
from registry.rollout import Policy, Rollout, decide, new_rollout, transition

FEWEST_EFFECTIVE = 50.0
FEWEST_REWARDS = 20


class Chooser(Protocol):
    """A policy at work: the challenger's share at a moment, and what it learns from a reward."""

    @property
    def most(self) -> float:
        """The largest share below 1 that it ever gives while it still learns."""
        ...

    def share(self, now: datetime) -> float:
        """Of units that ask at `now`; 1 after a promotion, 0 after any other end."""
        ...

    def see(self, reward: Rewarded, share: float) -> None:
        """Learn a reward whose unit asked when the challenger's share was `share`."""
        ...

    @property
    def outcome(self) -> str:
        """How it stands, in words."""
        ...


@dataclass
class Ramp:
    """The stepped ramp as `rollout.decide` climbs it, looking every `every`."""

    policy: Policy
    begin: datetime
    every: timedelta = timedelta(hours=1)
    most: float = field(init=False)

    def __post_init__(self) -> None:
        self.most = self.policy.shares[-1]
        self._rollout: Rollout = new_rollout("replay", "replay", "1", "2", "replay", self.policy, self.begin)
        self._evidence, self._since, self._fresh = Evidence(self.policy.alpha), 0, False
        self._next = self.begin + self.every

    def share(self, now: datetime) -> float:
        """The share after the looks up to `now`. A look at nothing new changes nothing but that time has passed."""
        if now >= self._next:
            self._look(now)
            self._next = now + self.every
        if self._rollout.open:
            return self._rollout.share
        return 1.0 if self._rollout.status == "promoted" else 0.0

    def see(self, reward: Rewarded, share: float) -> None:
        propensity = share if reward.arm == CHALLENGER else 1.0 - share
        self._evidence.observe(reward.arm, reward.reward, propensity, reward.unit, reward.at)
        self._since, self._fresh = self._since + 1, True

    @property
    def outcome(self) -> str:
        if self._rollout.open:
            return f"still running at a share of {self._rollout.share:g}"
        return f"{self._rollout.status}: {self._rollout.reason}"

    def _look(self, now: datetime) -> None:
        spent = now - self._rollout.opened_at >= timedelta(days=self.policy.max_days)
        if not self._rollout.open or not (self._fresh or spent):
            return
        self._fresh = False
        decision = decide(self._rollout, Standing.of(self._evidence.verdict(now)), self.policy, now, self._since)
        after = transition(self._rollout, decision, now)
        self._since = 0 if after.step != self._rollout.step else self._since
        self._rollout = after


@dataclass(frozen=True)
class Fixed:
    """A share that never moves."""

    most: float

    def share(self, now: datetime) -> float:
        return self.most

    def see(self, reward: Rewarded, share: float) -> None:
        """Nothing to learn."""

    @property
    def outcome(self) -> str:
        return f"a share of {self.most:g} throughout"


@dataclass(frozen=True)
class Replayed:
    """What a policy would have been worth: mean reward of a unit, with 95% interval, beside what the log's own was."""

    rewards: int
    shown: int
    logged: float
    value: float
    low: float
    high: float
    inverse_propensity: float
    effective: float
    enough: bool
    outcome: str


def replay(rewards: Iterable[Rewarded], chooser: Chooser, seed: int = 0) -> Replayed:
    """Live the log again under a policy. Raises `NotReady` where it has too few rewards to say anything."""
    counted = first_of_units(rewards)
    if len(counted) < FEWEST_REWARDS:
        raise NotReady(
            f"{len(counted)} units gave feedback in this rollout; {FEWEST_REWARDS} are the least to judge by"
        )
    draw, means = random.Random(seed), _Means()
    keep = min(one.propensity / (chooser.most if one.arm == CHALLENGER else 1.0) for one in counted)
    events = sorted(
        [(one.requested_at, 0, number) for number, one in enumerate(counted)]
        + [(max(one.at, one.requested_at), 1, number) for number, one in enumerate(counted)]
    )
    shares, weights, plain, robust, shown = dict[int, float](), list[float](), list[float](), list[float](), 0
    for now, arrived, number in events:
        one = counted[number]
        if not arrived:
            shares[number] = chooser.share(now)
            continue
        share = shares[number]
        weight = (share if one.arm == CHALLENGER else 1.0 - share) / one.propensity
        weights.append(weight)
        plain.append(weight * one.reward)
        robust.append(means.of(share) + weight * (one.reward - means.arm(one.arm)))
        means.add(one.arm, one.reward)
        if 0.0 < share < 1.0 and draw.random() < min(keep, 1.0) * weight:
            chooser.see(one, share)
            shown += 1
    value, half = fmean(robust), 1.96 * stdev(robust) / math.sqrt(len(robust))
    effective = sum(weights) ** 2 / max(sum(weight**2 for weight in weights), 1e-12)
    return Replayed(
        rewards=len(counted),
        shown=shown,
        logged=fmean(one.reward for one in counted),
        value=value,
        low=value - half,
        high=value + half,
        inverse_propensity=fmean(plain),
        effective=effective,
        enough=effective >= FEWEST_EFFECTIVE,
        outcome=chooser.outcome,
    )


def first_of_units(rewards: Iterable[Rewarded]) -> list[Rewarded]:
    """What evidence would count: the first reward of each unit that was drawn into an arm."""
    found: dict[str, Rewarded] = {}
    for one in rewards:
        if one.arm in (CHAMPION, CHALLENGER) and 0.0 < one.propensity < 1.0 and not one.agreed:
            found.setdefault(one.unit, one)
    return list(found.values())


class _Means:
    """The arms' mean rewards so far, each with one reward's worth of trust in one half."""

    def __init__(self) -> None:
        self._sums, self._counts = {CHAMPION: 0.5, CHALLENGER: 0.5}, {CHAMPION: 1, CHALLENGER: 1}

    def arm(self, arm: str) -> float:
        return self._sums[arm] / self._counts[arm]

    def of(self, share: float) -> float:
        return share * self.arm(CHALLENGER) + (1.0 - share) * self.arm(CHAMPION)

    def add(self, arm: str, reward: float) -> None:
        self._sums[arm] += reward
        self._counts[arm] += 1
