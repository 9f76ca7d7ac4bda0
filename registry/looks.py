"""The confidence sequence as it narrows: what the evidence said after 1, 2, … some sixty looks, for a chart.

Knows the evidence and rewards in order of arrival; draws nothing. What was seen at a look does not change later, so each is taken
once and kept; looks double their distance when they become too many.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from monitoring.events import Reward
from registry.evidence import Evidence, Verdict

MOST = 60


@dataclass(frozen=True)
class Look:
    """The verdict after so many counted rewards."""

    rewards: int
    at: datetime
    lift: float
    low: float
    high: float
    e_promote: float
    e_abort: float


class Looks:
    """The looks at one rollout, taken as its rewards come. Not for several threads at once."""

    def __init__(self, alpha: float, most: int = MOST) -> None:
        self._alpha, self._most = alpha, most
        self._begin()

    def _begin(self) -> None:
        self._evidence = Evidence(self._alpha)
        self._looks: list[Look] = []
        self._distance, self._counted, self._taken = 1, 0, 0
        self._last = ""
        self._latest: datetime | None = None

    def take(self, rewards: Sequence[Reward], verdict: Verdict) -> tuple[Look, ...]:
        """The looks at `rewards`, all that came so far in order of arrival; the last one is `verdict`, which is on all of them.

        Where the rewards taken before are not a beginning of these (one came in between, late), it begins anew.
        """
        if len(rewards) < self._taken or (self._taken and rewards[self._taken - 1].response_id != self._last):
            self._begin()
        for reward in rewards[self._taken :]:
            counted = not reward.agreed and self._evidence.observe(
                reward.arm, reward.reward, reward.propensity, reward.unit, reward.at
            )
            self._taken, self._last = self._taken + 1, reward.response_id
            self._latest = max(self._latest or reward.at, reward.at)
            if counted:
                self._counted += 1
                if self._counted % self._distance == 0:
                    self._look()
        now = _look(sum(verdict.rewards.values()), verdict)
        return (*(look for look in self._looks if look.rewards < now.rewards), *((now,) if now.rewards else ()))

    def _look(self) -> None:
        assert self._latest is not None
        self._looks.append(_look(self._counted, self._evidence.verdict(self._latest)))
        if len(self._looks) > self._most:
            self._distance *= 2
            self._looks = [look for look in self._looks if look.rewards % self._distance == 0]


def _look(counted: int, verdict: Verdict) -> Look:
    low, high = verdict.interval
    return Look(counted, verdict.at, verdict.lift, low, high, verdict.e_promote, verdict.e_abort)
