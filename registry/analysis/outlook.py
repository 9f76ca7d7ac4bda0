"""What the automatic steps would do with an open rollout if they looked now, and why: for people, who ask why it holds.

Changes nothing. The look that does is `flows/rollout.py`'s.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from hashlib import blake2b
from typing import Generic, NamedTuple, TypeVar

import numpy as np

from registry.deciding import Watch, decide
from registry.evidence import Rewarded, Verdict
from registry.rollout import Decision, Policy, Rollout, floor_of
from registry.rules.best_arm import BestArm, Standing

R = TypeVar("R", bound=Rewarded)


@dataclass(frozen=True)
class Weighed:
    """What the rewards of a rollout prove, and when each of those came that tell the arms apart."""

    standing: Standing
    told_at: tuple[datetime, ...]
    left_out: int = 0
    """Rewards of requests without a unit beyond what one key may give (`counting`)."""

    @property
    def verdict(self) -> Verdict:
        """On the challenger; of several, on the first that is in."""
        return self.standing.verdict()


@dataclass(frozen=True)
class Outlook:
    """What the rewards prove, how many of them came since the shares last changed, and what follows from it; `left_out` as in
    `Weighed`."""

    standing: Standing
    since_step: int
    next: Decision
    watch: Watch
    left_out: int = 0

    @property
    def verdict(self) -> Verdict:
        """As in `Weighed`."""
        return self.standing.verdict()


def in_time(rewards: Sequence[R], policy: Policy, now: datetime) -> list[R]:
    """The rewards that had arrived by `now` and within the policy's window after their request."""
    return [reward for reward in rewards if reward.at <= now and reward.at - reward.requested_at <= policy.window]


class Counting(NamedTuple, Generic[R]):
    """The rewards that a verdict may rest on, in order of arrival, and how many beside them came in time."""

    rewards: list[R]
    left_out: int


def counting(rewards: Sequence[R], policy: Policy, now: datetime) -> Counting[R]:
    """Those of the rewards in time that a verdict may rest on.

    Nobody can say whether two requests without a unit are the same person's, so one client could vote as a crowd: of each API
    key's the first `unnamed_per_key` count. Which those are is settled by what came before, so the test stays valid.
    """
    unnamed, found, came = Counter[str](), list[R](), in_time(rewards, policy, now)
    for reward in came:
        if not reward.unit_given and not reward.agreed:
            unnamed[reward.api_key] += 1
        if reward.unit_given or unnamed[reward.api_key] <= policy.unnamed_per_key:
            found.append(reward)
    return Counting(found, len(came) - len(found))


def arms_of(rollout: Rollout, policy: Policy) -> BestArm:
    """The arms of a rollout before any reward; who is out is out."""
    called = {one.arm: f"version {one.version}" for one in rollout.challengers} if rollout.several else None
    arms = BestArm([one.arm for one in rollout.challengers], policy.alpha, floor_of(rollout, policy), called)
    for one in rollout.challengers:
        if one.out:
            arms.drop(one.arm, one.out)
    return arms


def standing_of(rollout: Rollout, arms: BestArm, now: datetime) -> Standing:
    """What the rewards that `arms` took prove, and of several the shares that are wanted.

    Thompson's draws come from a generator that the salt and the revision seed.
    """
    standing = arms.standing(now)
    if not rollout.several:
        return standing
    seed = int.from_bytes(blake2b(f"{rollout.salt} {rollout.revision}".encode(), digest_size=8).digest())
    return replace(standing, wanted=arms.shares(np.random.default_rng(seed)))


def weighed(rollout: Rollout, rewards: Sequence[Rewarded], policy: Policy, now: datetime) -> Weighed:
    """What a rollout's rewards in order of arrival prove, those left out that do not count.

    It follows from the log and the ledger alone: whoever looks, and however often the controller was started, sees the same.
    """
    return proved(rollout, counting(rewards, policy, now), policy, now)


def proved(rollout: Rollout, counted: Counting[R], policy: Policy, now: datetime) -> Weighed:
    """What rewards that were counted already prove."""
    seen, left_out = counted
    arms = arms_of(rollout, policy)
    told_at = tuple(reward.at for reward in seen if arms.take(reward))
    return Weighed(standing_of(rollout, arms, now), told_at, left_out)


def outlook(rollout: Rollout, proof: Weighed, policy: Policy, now: datetime, watch: Watch = Watch()) -> Outlook:
    """What follows for `rollout` as it stands."""
    since_step = sum(at >= rollout.step_started_at for at in proof.told_at)
    decision = decide(rollout, proof.standing, policy, now, since_step, watch)
    return Outlook(proof.standing, since_step, decision, watch, proof.left_out)
