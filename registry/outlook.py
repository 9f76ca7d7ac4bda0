"""What the automatic steps would do with an open rollout if they looked now, and why: for people, who ask why it holds.

Changes nothing. The look that does is `flows/rollout.py`'s.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from monitoring.events import Reward
from registry.evidence import Verdict, weigh
from registry.rollout import Decision, Policy, Rollout, Watch, decide


@dataclass(frozen=True)
class Weighed:
    """What the rewards of a rollout prove, and when each of those came that tell the arms apart."""

    verdict: Verdict
    told_at: tuple[datetime, ...]


@dataclass(frozen=True)
class Outlook:
    """What the rewards prove, how many of them came since the share last changed, and what follows from it."""

    verdict: Verdict
    since_step: int
    next: Decision
    watch: Watch


def in_time(rewards: Sequence[Reward], policy: Policy, now: datetime) -> list[Reward]:
    """The rewards that had arrived by `now` and within the policy's window after their request."""
    return [reward for reward in rewards if reward.at <= now and reward.at - reward.requested_at <= policy.window]


def weighed(rewards: Sequence[Reward], policy: Policy, now: datetime) -> Weighed:
    """What rewards in order of arrival prove, those left out that are not in time."""
    seen = in_time(rewards, policy, now)
    return Weighed(weigh(seen, policy.alpha, now), tuple(reward.at for reward in seen if not reward.agreed))


def outlook(rollout: Rollout, proof: Weighed, policy: Policy, now: datetime, watch: Watch = Watch()) -> Outlook:
    """What follows for `rollout` as it stands."""
    since_step = sum(at >= rollout.step_started_at for at in proof.told_at)
    decision = decide(rollout, proof.verdict, policy, now, since_step, watch)
    return Outlook(proof.verdict, since_step, decision, watch)
