"""A rollout of three versions, and simulated users who live through it under the whole controller."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np

from monitoring.events import Reward
from registry.analysis.outlook import outlook, weighed
from registry.assignment import assign, whole
from registry.rollout import Policy, Rollout, new_rollout, transition

OPENED = datetime(2025, 6, 1, tzinfo=UTC)
POLICY = Policy()


def opened(policy: Policy = POLICY, salt: str = "salt", **changes: Any) -> Rollout:
    return replace(new_rollout("june", "2025-06", "1", ("5", "6", "7"), salt, policy, OPENED), **changes)


@dataclass
class World:
    """Users who ask one by one and tell at once; the whole controller looks every `every` units, and keeps nothing between."""

    means: dict[str, float]
    seed: int
    policy: Policy = field(default_factory=lambda: Policy(shares=(0.25, 0.5), max_days=1e4))
    every: int = 40

    def live(self, units: int) -> tuple[Rollout, list[Reward]]:
        draw, seen = np.random.default_rng(self.seed), list[Reward]()
        rollout = opened(self.policy, f"salt-{self.seed}")
        for number in range(units):
            now = OPENED + timedelta(minutes=number)
            if number % self.every == 0:
                rollout = self.look(rollout, seen, now)
                if not rollout.open:
                    break
            arm, propensity = assign(rollout.salt, f"u{number}", rollout.shares)
            told = float(draw.random() < self.means[rollout.version(arm)])
            shares = whole(rollout.shares)
            seen.append(Reward(f"r{number}", f"u{number}", True, arm, "", propensity, told, now, now, False, shares))
        return rollout, seen

    def look(self, rollout: Rollout, seen: list[Reward], now: datetime) -> Rollout:
        ahead = outlook(rollout, weighed(rollout, seen, self.policy, now), self.policy, now)
        return transition(rollout, ahead.next, now)
