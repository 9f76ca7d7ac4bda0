"""Which arm answers a unit: a hash of the unit and the rollout's salt, nothing stored, nothing drawn.

Knows nothing of rollouts, versions or rewards: salt, unit and shares in; arm and propensity out.

**One challenger.** A unit hashes to a point of [0, 1) that is uniform over salts, and the challenger has the points below its
share: raising the share only adds units.

**Several.** Each arm, the champion among them, has a waiting time for the unit, exponential with the arm's share as its rate,
and the arm that comes first has the unit: that is each arm with the probability of its share (weighted rendezvous hashing,
Thaler and Ravishankar 1998, in the logarithmic form of Efraimidis and Spirakis 2006). Of any two arms, a unit goes from one to
the other only where the other's share rose against the one's; an arm whose share becomes 0 sends its own units away and moves
nobody else. With stretches of a line, as one challenger has, no arm of K could ever grow beyond 1/K without moving all others.

The champion's share is what the challengers leave. An arm is known by its name, so another set of arms, with the same salt,
leaves the units of those that stay where their shares do not change.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import blake2b

from evermoe.errors import BadInput

CHAMPION = "champion"
CHALLENGER = "challenger"
"""The arm of a lone challenger; of several, each has an arm `challenger:VERSION` (`arm_of`)."""

_HOLDOUT_SALT = "evermoe holdout"  # one for all rollouts: the same units stay out of each
_ROUNDING = 1e-9  # how far shares such as 0.1 + 0.2 + 0.7 may pass 1


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
    everyone = whole(shares)
    if len(everyone) == 2:
        (arm, share) = next((arm, share) for arm, share in everyone.items() if arm != CHAMPION)
        return (arm, share) if point(salt, unit) < share else (CHAMPION, 1.0 - share)
    waits = [(_wait(salt, unit, arm) / share, arm) for arm, share in everyone.items() if share > 0.0]
    first = min(waits)[1]
    return first, everyone[first]


def _wait(salt: str, unit: str, arm: str) -> float:
    """How long an arm takes to come to a unit at a rate of 1: exponential, independent between arms."""
    return -math.log1p(-point(f"{len(arm)}:{arm}{salt}", unit))


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
