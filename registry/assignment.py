"""Which arm answers a unit: a hash of the unit and the rollout's salt, nothing stored, nothing drawn.

Knows nothing of rollouts, versions or rewards: salt, unit and shares in; arm and propensity out.

A unit hashes to a point of [0, 1) that is uniform over salts. Each challenger owns one stretch of that line, which grows
from a fixed end as its share rises, so raising a share only adds units, and adds them from the champion alone; whose share
stays keeps its units:

- one challenger takes [0, share);
- two take [0, a) and [1 - b, 1), sorted by name: they grow towards each other and meet only when nothing is left;
- K of three or more take [k/K, k/K + share), sorted by name. What an arm has above 1/K it takes from what the others' stretches
  leave to the champion, alike from the far end of each. There it may have to move, at the same share, when one of them grows
  into it: no rule can avoid that. With every share allowed, A(1/2) would have to be the complement of B(1/2) and of C(1/2) at
  once, and so B(1/2) = C(1/2), which must be disjoint.

All arms that ever take part are named from the start to the end (a share of 0 is fine): naming another one redraws the line,
so a new set of arms needs a new salt.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Protocol

from evermoe.errors import BadInput

CHAMPION = "champion"
CHALLENGER = "challenger"
"""The arm of a lone challenger; of several, each has an arm `challenger:VERSION` (`arm_of`)."""

_HOLDOUT_SALT = "evermoe holdout"  # one for all rollouts: the same units stay out of each
_ROUNDING = 1e-9  # how far shares such as 0.1 + 0.2 + 0.7 may pass 1


class Drawn(Protocol):
    """A unit's draw, as its first request logs it; `monitoring.events.FirstRequest` is one."""

    @property
    def arm(self) -> str: ...
    @property
    def propensity(self) -> float: ...
    @property
    def shares(self) -> Mapping[str, float] | None: ...


def arm_of(version: str, alone: bool) -> str:
    """How the arm of a challenger is called in shares and in the event log."""
    return CHALLENGER if alone else f"{CHALLENGER}:{version}"


def is_drawn(arm: str) -> bool:
    """Whether units are drawn into an arm of that name; those who are not chose their version, or are apart."""
    return arm == CHAMPION or arm.partition(":")[0] == CHALLENGER


def shares_at(arm: str, propensity: float, shares: Mapping[str, float] | None) -> Mapping[str, float]:
    """The shares of all arms when a unit was drawn, from what is logged: with one challenger, the propensity says it all."""
    if shares is not None:
        return shares
    share = propensity if arm == CHALLENGER else 1.0 - propensity
    return {CHAMPION: 1.0 - share, CHALLENGER: share}


def whole(shares: Mapping[str, float]) -> dict[str, float]:
    """The shares of the challengers and, in front, what they leave to the champion."""
    challengers = {arm: share for arm, share in shares.items() if arm != CHAMPION}
    return {CHAMPION: max(0.0, 1.0 - math.fsum(challengers.values())), **challengers}


def point(salt: str, unit: str) -> float:
    """The place of `unit` on [0, 1), uniform and independent between salts. The length keeps ("a", "bc") from ("ab", "c")."""
    key = f"{len(salt)}:{salt}{unit}".encode("utf-8", "surrogatepass")
    return (int.from_bytes(blake2b(key, digest_size=8).digest()) >> 11) * 2.0**-53


def assign(salt: str, unit: str, shares: Mapping[str, float]) -> tuple[str, float]:
    """The arm of `unit` and the probability with which that arm is drawn (its propensity).

    `shares` maps arm to share of the units; the champion gets what the others leave, whether it is named or not.
    Raises `BadInput` when a share is negative or not a number, or they pass 1 in sum.
    """
    if len(shares) == 1 and CHALLENGER in shares:  # the common case, kept short: every request comes through here
        share = shares[CHALLENGER]
        if not 0.0 <= share <= 1.0:
            raise BadInput(f"share of {CHALLENGER} is {share}; it must lie between 0 and 1")
        return (CHALLENGER, share) if point(salt, unit) < share else (CHAMPION, 1.0 - share)

    for arm, share in shares.items():
        if not 0.0 <= share <= 1.0:
            raise BadInput(f"share of {arm} is {share}; it must lie between 0 and 1")
    if (total := sum(shares.values())) > 1.0 + _ROUNDING:
        raise BadInput(f"the shares add up to {total:g}; they must not pass 1")
    place = point(salt, unit)
    for arm, owned in stretches(shares).items():
        if any(start <= place < end for start, end in owned):
            return arm, shares[arm]
    return CHAMPION, whole(shares)[CHAMPION]


def stretches(shares: Mapping[str, float]) -> dict[str, tuple[tuple[float, float], ...]]:
    """The stretches of the line that each challenger owns at these shares, as start and end; the rest is the champion's."""
    arms = sorted(arm for arm in shares if arm != CHAMPION)
    if len(arms) <= 2:
        ends = [(0.0, shares[arm]) for arm in arms[:1]] + [(1.0 - shares[arm], 1.0) for arm in arms[1:]]
        return {arm: (end,) for arm, end in zip(arms, ends, strict=True)}
    count = len(arms)
    own = [(k / count, k / count + min(shares[arm], 1.0 / count)) for k, arm in enumerate(arms)]
    free = [(end, (k + 1) / count) for k, (_, end) in enumerate(own)]  # what each stretch leaves to the champion
    found = {}
    for k, arm in enumerate(arms):
        owned = [own[k]]
        if (lacking := shares[arm] - 1.0 / count) > 0.0:
            depth = _depth(lacking, [end - start for start, end in free])
            for other, (start, end) in enumerate(free):
                if (taken := min(depth, end - start)) > 0.0:
                    owned.append((end - taken, end))
                    free[other] = (start, end - taken)
        found[arm] = tuple(owned)
    return found


def _depth(wanted: float, rooms: Sequence[float]) -> float:
    """How much to take of each room, or all there is, so that it adds up to what is wanted."""
    each = wanted
    for taken, room in enumerate(sorted(rooms)):
        each = wanted / (len(rooms) - taken)
        if room >= each:
            break
        wanted -= room
    return each


@dataclass(frozen=True)
class Apart:
    """Units that take no part in any rollout: a share held out, who meet the champion, and some named with their arm, to test.

    A unit is named with `champion`, `challenger` (of several, the first that is in), or a version.
    """

    holdout: float = 0.0
    named: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not 0.0 <= self.holdout < 1.0:
            raise BadInput(f"rollout holdout is {self.holdout}; it must be 0 or more, and below 1")
        for unit, arm in self.named.items():
            if arm not in (CHAMPION, CHALLENGER) and not arm.isdecimal():
                raise BadInput(
                    f"rollout overrides give {unit!r} the arm {arm!r}; it is {CHAMPION}, {CHALLENGER} or the number of a version"
                )

    def arm(self, unit: str) -> str | None:
        """The arm, or version, of a unit that takes no part; None for all others, who are assigned."""
        if unit in self.named:
            return self.named[unit]
        return CHAMPION if self.holdout and point(_HOLDOUT_SALT, unit) < self.holdout else None
