"""Whether a rollout's traffic is what was asked for. A signal can only pause: the comparison is in doubt, not the version.

Pure: counts in, signals out. Knows nothing of rewards.

**The sample ratio.** The first request of each unit is a fair draw with the propensity that was logged with it. Bets against that
(`betting.log_ratio_of_counts`) alarm at 1/`ALPHA`, so a healthy rollout alarms with probability at most 1 in 1,000 *ever*, however
often one looks and however the share moves (Ville). A fault of 45:55 where 50:50 was asked for takes 1,500 units in the median;
a test that looked once, at 2,000 units, would find 88% of such faults (`tests/registry/rules/test_signals.py` measures ours).
What it finds: rows of one arm that are lost, units that are named differently on the way, an arm whose clients give up.

With several challengers there is such a bet for each arm, on whether a unit meets it or another, and the mean of their wealths is
one as good (a mean of e-values is an e-value).

**Crossed units.** A unit that met arms at shares at which no point on the line has met them all: two gateways with different
plans, salts or names of units. There is no healthy reason for it. The rule is here; `EventLog.units` is a sieve before it in
the database, which leaves out the moves that it knows to be healthy, so that not every row is read.

Where they fail: a fault that hits both arms alike is no fault of the ratio; one that began late is diluted by the units before it.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from monitoring.events import Met, Units
from registry.assignment import CHAMPION, Drawn, is_drawn, shares_at, stretches
from registry.betting import log_ratio_of_counts

ALPHA = 0.001
CROSSED_SHARE = 0.01  # of the units
_ROUNDING = 1e-9  # of shares that were added up


@dataclass(frozen=True)
class Signal:
    """One thing that was looked at: whether it alarms, and what was seen, in words."""

    name: str
    alarm: bool
    reason: str


def sample_ratio(units: Iterable[Drawn]) -> Signal:
    """Whether the units met the arms as often as their propensities say."""
    seen: dict[str, dict[float, list[int]]] = defaultdict(lambda: defaultdict(lambda: [0, 0]))
    count = 0
    for unit in units:
        if is_drawn(unit.arm) and 0.0 < unit.propensity < 1.0:
            count += 1
            for arm, share in shares_at(unit.arm, unit.propensity, unit.shares).items():
                if 0.0 < (rounded := round(share, 9)) < 1.0:
                    seen[arm][rounded][unit.arm == arm] += 1
    if not seen:
        return Signal("sample ratio", False, "no unit was drawn yet")
    bets = {arm: _bet(at_shares) for arm, at_shares in seen.items()}
    e_value = math.exp(min(float(np.logaddexp.reduce([bet.log_e for bet in bets.values()])), 700.0)) / len(bets)
    arm, bet = max(((arm, bet) for arm, bet in bets.items() if arm != CHAMPION), key=lambda one: one[1].log_e)
    said = f"{bet.met} of {count} units met the {arm.replace(':', ' ')}, {bet.expected:.0f} were expected"
    return Signal("sample ratio", e_value >= 1.0 / ALPHA, f"{said}; e-value {e_value:.3g}, {1 / ALPHA:g} alarms")


@dataclass(frozen=True)
class _Bet:
    """What betting on one arm's units earned, in logarithms, and how many there were."""

    log_e: float
    met: int
    expected: float


def _bet(at_shares: Mapping[float, Sequence[int]]) -> _Bet:
    """On how many units met an arm, and how many another, at each share that it had."""
    shares = np.array(list(at_shares))
    others, own = np.array(list(at_shares.values())).T
    return _Bet(float(log_ratio_of_counts(shares, own, others)), int(own.sum()), float(np.sum(shares * (own + others))))


def crossed(units: Units) -> Signal:
    """Whether more than a few units met arms that no point on the line has met."""
    across = sum(not _explained(met) for met in units.moved)
    said = f"{across} of {units.count} units met arms at shares that do not explain it"
    return Signal("crossed units", across > CROSSED_SHARE * units.count, said)


def _explained(met: Sequence[Met]) -> bool:
    """Whether one point belonged to each of these arms at the shares at which it was met."""
    common = [(0.0, 1.0)]
    for one in met:
        owned = stretches(shares_at(one.arm, one.propensity, one.shares))
        ours = (
            owned[one.arm]
            if one.arm != CHAMPION
            else _between(sorted(stretch for o in owned.values() for stretch in o))
        )
        common = [(max(a, c), min(b, d)) for a, b in common for c, d in ours if min(b, d) > max(a, c) + _ROUNDING]
    return bool(common)


def _between(taken: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """What these stretches, in order, leave of the line."""
    return list(zip((0.0, *(end for _, end in taken)), (*(start for start, _ in taken), 1.0), strict=True))
