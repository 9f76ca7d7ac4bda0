"""The confidence sequences as they narrow: what the evidence said after 1, 2, … some sixty looks, for a chart.

Knows the evidence and rewards in order of arrival; draws nothing. What was seen at a look does not change later, so each is taken
once and kept; looks double their distance when they become too many.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from monitoring.events import Reward
from registry.evidence import Verdict
from registry.rules.best_arm import BestArm

MOST = 60


@dataclass(frozen=True)
class Look:
    """The verdict on a challenger after so many counted rewards of its own and of the champion."""

    rewards: int
    at: datetime
    lift: float
    low: float
    high: float
    e_promote: float
    e_abort: float


class Looks:
    """The looks at one rollout, taken as its rewards come. Not for several threads at once."""

    def __init__(self, arms: Callable[[], BestArm], most: int = MOST) -> None:
        """`arms` are those of the rollout before any reward."""
        self._new, self._most = arms, most
        self._begin()

    def _begin(self) -> None:
        self._arms = self._new()
        self._looks: dict[int, Mapping[str, Look]] = {}  # by the counted rewards of all arms
        self._distance, self._counted, self._taken = 1, 0, 0
        self._last = ""
        self._latest: datetime | None = None

    def take(self, rewards: Sequence[Reward], verdicts: Mapping[str, Verdict]) -> dict[str, tuple[Look, ...]]:
        """The looks at `rewards`, all that came so far in order of arrival, for each challenger; the last ones are `verdicts`,
        which are on all of them.

        Where the rewards taken before are not a beginning of these (one came in between, late), it begins anew.
        """
        if len(rewards) < self._taken or (self._taken and rewards[self._taken - 1].response_id != self._last):
            self._begin()
        for reward in rewards[self._taken :]:
            counted = self._arms.take(reward)
            self._taken, self._last = self._taken + 1, reward.response_id
            self._latest = max(self._latest or reward.at, reward.at)
            if counted:
                self._counted += 1
                if self._counted % self._distance == 0:
                    self._look()
        return {arm: self._at(arm, verdict) for arm, verdict in verdicts.items()}

    def _at(self, arm: str, verdict: Verdict) -> tuple[Look, ...]:
        """The looks at which something new was known of this arm, and the verdict as it stands."""
        now, seen = _look(verdict), {looks[arm].rewards: looks[arm] for looks in self._looks.values()}
        before = (look for rewards, look in seen.items() if 0 < rewards < now.rewards)
        return (*before, *((now,) if now.rewards else ()))

    def _look(self) -> None:
        assert self._latest is not None
        self._looks[self._counted] = {arm: _look(one) for arm, one in self._arms.verdicts(self._latest).items()}
        if len(self._looks) > self._most:
            self._distance *= 2
            self._looks = {count: looks for count, looks in self._looks.items() if count % self._distance == 0}


def _look(verdict: Verdict) -> Look:
    low, high = verdict.interval
    rewards = sum(verdict.rewards.values())
    return Look(rewards, verdict.at, verdict.lift, low, high, verdict.e_promote, verdict.e_abort)
