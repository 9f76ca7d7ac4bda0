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
class Outlook:
    """What the rewards prove, how many of them came since the share last changed, and what follows from it."""

    verdict: Verdict
    since_step: int
    next: Decision
    watch: Watch


def outlook(
    rollout: Rollout, rewards: Sequence[Reward], policy: Policy, now: datetime, watch: Watch = Watch()
) -> Outlook:
    """The outlook of `rollout` on its rewards in order of arrival, those after `now` left out."""
    seen = [reward for reward in rewards if reward.at <= now]
    since_step = sum(reward.at >= rollout.step_started_at and not reward.agreed for reward in seen)
    verdict = weigh(seen, policy.alpha, now, policy.window)
    return Outlook(verdict, since_step, decide(rollout, verdict, policy, now, since_step, watch), watch)
