"""Which arm answers a unit: a hash of the unit and the rollout's salt, nothing stored, nothing drawn.

Knows nothing of rollouts, versions or rewards: salt, unit and shares in; arm and propensity out.

A unit hashes to a point of [0, 1) that is uniform over salts. Each challenger owns one stretch of that line, which grows
from a fixed end as its share rises, so raising a share only adds units, and adds them from the champion alone:

- one challenger takes [0, share);
- two take [0, a) and [1 - b, 1), sorted by name: they grow towards each other and meet only when nothing is left;
- K of three or more take [k/K, k/K + share), sorted by name. A share above 1/K would reach into the next one's stretch, so
  it is refused. No rule can do better: with every share allowed, A(1/2) would have to be the complement of B(1/2) and of
  C(1/2) at once, and so B(1/2) = C(1/2), which must be disjoint.

All arms that may ever take part are named from the start (a share of 0 is fine): naming another one redraws the line, so a
new set of arms needs a new salt.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import blake2b

from evermoe.errors import BadInput

CHAMPION = "champion"
CHALLENGER = "challenger"

_HOLDOUT_SALT = "evermoe holdout"  # one for all rollouts: the same units stay out of each
_ROUNDING = 1e-9  # how far shares such as 0.1 + 0.2 + 0.7 may pass 1


def point(salt: str, unit: str) -> float:
    """The place of `unit` on [0, 1), uniform and independent between salts. The length keeps ("a", "bc") from ("ab", "c")."""
    key = f"{len(salt)}:{salt}{unit}".encode("utf-8", "surrogatepass")
    return (int.from_bytes(blake2b(key, digest_size=8).digest()) >> 11) * 2.0**-53


def assign(salt: str, unit: str, shares: Mapping[str, float]) -> tuple[str, float]:
    """The arm of `unit` and the probability with which that arm is drawn (its propensity).

    `shares` maps arm to share of the units; the champion gets what the others leave, whether it is named or not.
    Raises `BadInput` when a share is negative or not a number, or they pass 1 in sum, or with three or more challengers
    when one of them passes its stretch (see above).
    """
    if len(shares) == 1 and CHALLENGER in shares:  # the common case, kept short: every request comes through here
        share = shares[CHALLENGER]
        if not 0.0 <= share <= 1.0:
            raise BadInput(f"share of {CHALLENGER} is {share}; it must lie between 0 and 1")
        return (CHALLENGER, share) if point(salt, unit) < share else (CHAMPION, 1.0 - share)

    challengers = sorted(arm for arm in shares if arm != CHAMPION)
    for arm, share in shares.items():
        if not 0.0 <= share <= 1.0:
            raise BadInput(f"share of {arm} is {share}; it must lie between 0 and 1")
    if (total := sum(shares.values())) > 1.0 + _ROUNDING:
        raise BadInput(f"the shares add up to {total:g}; they must not pass 1")

    place = point(salt, unit)
    for arm, (start, end) in zip(challengers, _stretches([shares[arm] for arm in challengers]), strict=True):
        if start <= place < end:
            return arm, shares[arm]
    return CHAMPION, max(0.0, 1.0 - sum(shares[arm] for arm in challengers))


@dataclass(frozen=True)
class Apart:
    """Units that take no part in any rollout: a share held out, who meet the champion, and some named with their arm, to test."""

    holdout: float = 0.0
    named: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not 0.0 <= self.holdout < 1.0:
            raise BadInput(f"rollout holdout is {self.holdout}; it must be 0 or more, and below 1")
        for unit, arm in self.named.items():
            if arm not in (CHAMPION, CHALLENGER):
                raise BadInput(f"rollout overrides give {unit!r} the arm {arm!r}; it is {CHAMPION} or {CHALLENGER}")

    def arm(self, unit: str) -> str | None:
        """The arm of a unit that takes no part; None for all others, who are assigned."""
        if unit in self.named:
            return self.named[unit]
        return CHAMPION if self.holdout and point(_HOLDOUT_SALT, unit) < self.holdout else None


def _stretches(shares: list[float]) -> list[tuple[float, float]]:
    """The stretch of the line that each challenger owns at these shares, in the order given."""
    if len(shares) <= 2:
        return (
            [(0.0, shares[0]), (1.0 - shares[1], 1.0)][: len(shares)]
            if len(shares) == 2
            else [(0.0, s) for s in shares]
        )
    if (largest := max(shares)) > 1.0 / len(shares) + _ROUNDING:
        raise BadInput(
            f"a share of {largest:g} does not fit: with {len(shares)} challengers each may hold at most 1/{len(shares)}"
        )
    return [(k / len(shares), k / len(shares) + share) for k, share in enumerate(shares)]
