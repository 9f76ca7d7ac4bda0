"""How much one caller may ask of this gateway: a token bucket for each.

Knows names and times. Does not know who a name is; buckets are this process's own, so two gateways allow twice as much.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field

MOST_CALLERS = 10_000


@dataclass(frozen=True)
class Limits:
    """`per_second` requests of each caller in the long run, `burst` at once.

    Of a bucket only the moment is kept at which it will be full again: the virtual scheduling form of the leaky bucket (ITU-T
    I.371, GCRA). The buckets of those who asked least recently are forgotten, which fills them.
    """

    per_second: float
    burst: int
    _full_at: OrderedDict[str, float] = field(default_factory=OrderedDict, repr=False, compare=False)

    def wait(self, who: str, now: float) -> float:
        """Take a token of `who` at `now`, in seconds of any one clock. 0, or the seconds until there will be one to take."""
        full_at = max(self._full_at.get(who, now), now) + 1 / self.per_second
        lacking = full_at - now - self.burst / self.per_second
        if lacking > 1e-9:
            return lacking
        self._full_at[who] = full_at
        self._full_at.move_to_end(who)
        if len(self._full_at) > MOST_CALLERS:
            self._full_at.popitem(last=False)
        return 0.0
