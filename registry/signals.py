"""Whether a rollout's traffic is what was asked for. A signal can only pause: the comparison is in doubt, not the version.

Pure: counts in, signals out. Knows nothing of rewards.

**The sample ratio.** The first request of each unit is a fair draw with the propensity that was logged with it. Bets against that
(`betting.log_ratio_of_counts`) alarm at 1/`ALPHA`, so a healthy rollout alarms with probability at most 1 in 1,000 *ever*, however
often one looks and however the share moves (Ville). A fault of 45:55 where 50:50 was asked for takes 1,500 units in the median;
a test that looked once, at 2,000 units, would find 88% of such faults (`tests/registry/test_signals.py` measures ours).
What it finds: rows of one arm that are lost, units that are named differently on the way, an arm whose clients give up.

**Crossed units.** A unit that met both arms at shares that no point on the line explains (`EventLog.crossings`): two gateways with
different plans, salts or names of units. There is no healthy reason for it.

Where they fail: a fault that hits both arms alike is no fault of the ratio; one that began late is diluted by the units before it.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from registry.assignment import CHALLENGER, CHAMPION
from registry.betting import log_ratio_of_counts

ALPHA = 0.001
CROSSED_SHARE = 0.01  # of the units


class Drawn(Protocol):
    """The first request of a unit; `monitoring.events.FirstRequest` is one."""

    @property
    def arm(self) -> str: ...
    @property
    def propensity(self) -> float: ...


@dataclass(frozen=True)
class Signal:
    """One thing that was looked at: whether it alarms, and what was seen, in words."""

    name: str
    alarm: bool
    reason: str


def sample_ratio(units: Iterable[Drawn]) -> Signal:
    """Whether the units met the arms as often as their propensities say."""
    seen: dict[float, list[int]] = defaultdict(lambda: [0, 0])
    for unit in units:
        if unit.arm in (CHAMPION, CHALLENGER) and 0.0 < unit.propensity < 1.0:
            is_challenger = unit.arm == CHALLENGER
            seen[round(unit.propensity if is_challenger else 1.0 - unit.propensity, 9)][is_challenger] += 1
    if not seen:
        return Signal("sample ratio", False, "no unit was drawn yet")
    shares = np.array(list(seen))
    champions, challengers = np.array(list(seen.values())).T
    log_e = float(log_ratio_of_counts(shares, challengers, champions))
    expected = float(np.sum(shares * (champions + challengers)))
    said = f"{challengers.sum()} of {champions.sum() + challengers.sum()} units met the challenger, {expected:.0f} were expected"
    e_value = math.exp(min(log_e, 700.0))
    return Signal("sample ratio", e_value >= 1.0 / ALPHA, f"{said}; e-value {e_value:.3g}, {1 / ALPHA:g} alarms")


def crossed(units: int, across: int) -> Signal:
    """Whether more than a few units met both arms against the rule of assignment."""
    said = f"{across} of {units} units met both arms at shares that do not explain it"
    return Signal("crossed units", across > CROSSED_SHARE * units, said)
