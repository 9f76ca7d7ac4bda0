"""Guardrails: limits on what may go wrong with a version, judged on every unit it meets. They can only stop it, never promote it.

Pure: marks in, verdicts out. Each mark is 0 or 1 for the first request of a unit: it failed; it took longer than `slow_ms` (so that
"the p95 is over the limit" is "more than 5% are slow"); it was answered with nothing, or with a refusal.

**Against the champion** (`against_champion`), while a rollout is open: the challenger's rate may exceed the champion's by a margin.
The bets are those on rewards (`betting.py`), against "the excess is at most the margin". All guardrails of a rollout share
`alpha`: the chance that a challenger within all margins is ever stopped, however often one looks.

**Against the past** (`against_past`), for some days after a promotion: then all units meet the new version and there is no one to
compare with, so its rate is held against the previous champion's before the promotion, at the upper end of what that may have
been (Wilson's interval), plus the margin.

Where they fail. A first request says nothing of what only later requests meet. Harm below the margin passes. The past is no
control group: when the world breaks for every version (a database, a flood of hard requests), the new one is blamed and sent back,
which costs a release and no user; and where the previous champion had few requests its rate is hardly known, so little is found.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

import numpy as np

from evermoe.errors import BadInput
from evermoe.months import MOST_DAYS
from registry.assignment import CHALLENGER, CHAMPION, Drawn, shares_at
from registry.betting import log_wealth, log_wealth_over_limit, outcomes_of

NAMES = ("errors", "slow answers", "empty answers")
_Z = 2.576  # of the 99% upper end of the previous champion's rate


class Marked(Drawn, Protocol):
    """The first request of a unit, with what may have gone wrong in it; `monitoring.events.FirstRequest` is one."""

    @property
    def at(self) -> datetime: ...
    @property
    def failed(self) -> bool: ...
    @property
    def slow(self) -> bool: ...
    @property
    def empty(self) -> bool: ...


@dataclass(frozen=True)
class Limits:
    """What is allowed. Margins are in shares of the units' first requests."""

    alpha: float = 0.01
    errors: float = 0.03
    slow: float = 0.05
    slow_ms: float = 5000.0
    empty: float = 0.05
    refusals: tuple[str, ...] = ()
    days: float = 7.0
    """For which a promoted version is watched."""

    def __post_init__(self) -> None:
        if not 0.0 < self.alpha < 1.0:
            raise BadInput(f"guardrails alpha is {self.alpha}; it must lie between 0 and 1")
        if not 0.0 <= self.days <= MOST_DAYS:
            raise BadInput(f"guardrails days is {self.days}; it must be 0 or more, and at most {MOST_DAYS}")
        if not all(0.0 <= margin < 1.0 for margin in self.margins):
            raise BadInput("guardrail margins are shares of requests: 0 or more, and below 1")

    @property
    def margins(self) -> tuple[float, ...]:
        """In the order of `NAMES`."""
        return self.errors, self.slow, self.empty

    @property
    def threshold(self) -> float:
        """The e-value at which one guardrail is crossed, so that all of them together err with probability `alpha`."""
        return len(NAMES) / self.alpha


@dataclass(frozen=True)
class Guarded:
    """One guardrail at one look. Rates are None where nobody was met."""

    name: str
    crossed: bool
    rate: float | None
    against: float | None
    """The champion's rate, or the previous champion's upper end."""
    e_value: float
    reason: str
    arm: str = CHALLENGER
    """Whose it is."""


def against_champion(units: Sequence[Marked], limits: Limits, arm: str = CHALLENGER) -> tuple[Guarded, ...]:
    """Every guardrail of a challenger's arm over the first requests of a rollout's units, in order of time.

    Of several challengers, each is held against the champion over the units that met either, as if there were no other.
    """
    drawn, chances = [], []
    for one in units:
        if one.arm in (CHAMPION, arm) and 0.0 < (chance := _chance(one, arm)) < 1.0:
            drawn.append(one)
            chances.append(chance)
    arms, shares = np.array([one.arm == arm for one in drawn], dtype=bool), np.array(chances)
    found = []
    for name, margin, marks in zip(NAMES, limits.margins, _marks(drawn), strict=True):
        log_e = log_wealth(outcomes_of(1.0 * arms, marks, shares), margin)  # against: the excess is at most the margin
        e_value = math.exp(min(log_e, 700.0))
        ours, theirs = _mean(marks[arms]), _mean(marks[~arms])
        found.append(_guarded(name, e_value, limits.threshold, ours, theirs, margin, "the champion's", arm))
    return tuple(found)


def _chance(unit: Marked, arm: str) -> float:
    """Of a unit that meets the champion or this arm, the chance that it is the arm."""
    shares = shares_at(unit.arm, unit.propensity, unit.shares)
    return shares.get(arm, 0.0) / (shares.get(arm, 0.0) + shares[CHAMPION])


def against_past(now: Sequence[Marked], before: Sequence[Marked], limits: Limits) -> tuple[Guarded, ...]:
    """Every guardrail over the first requests of a promoted version's units, against those that the version before it met."""
    found = []
    for name, margin, marks, past in zip(NAMES, limits.margins, _marks(now), _marks(before), strict=True):
        usual = _upper(float(past.sum()), len(past))
        limit = min(usual + margin, 1.0)
        bad = float(marks.sum())
        log_e = log_wealth_over_limit(bad, len(marks) - bad, limit) if 0.0 < limit < 1.0 else 0.0
        e_value = math.exp(min(log_e, 700.0))
        found.append(_guarded(name, e_value, limits.threshold, _mean(marks), usual, margin, "before it at most"))
    return tuple(found)


def _marks(units: Sequence[Marked]) -> list[np.ndarray]:
    columns = np.array([(one.failed, one.slow, one.empty) for one in units], dtype=float).reshape(-1, len(NAMES))
    return list(columns.T)


def _guarded(
    name: str,
    e_value: float,
    threshold: float,
    rate: float | None,
    against: float | None,
    margin: float,
    whose: str,
    arm: str = CHALLENGER,
) -> Guarded:
    ours, theirs = (f"{one:.1%}" if one is not None else "unknown" for one in (rate, against))
    said = f"{name} {ours}, {whose} {theirs}, {margin:.0%} more allowed; e-value {e_value:.3g}, {threshold:g} stops"
    return Guarded(name, e_value >= threshold, rate, against, e_value, said, arm)


def _mean(marks: np.ndarray) -> float | None:
    return float(marks.mean()) if len(marks) else None


def _upper(bad: float, count: int) -> float:
    """The upper end of Wilson's 99% interval of a rate; 1 where there is nothing to judge by."""
    if not count:
        return 1.0
    rate, z2 = bad / count, _Z**2
    centre = rate + z2 / (2 * count)
    half = _Z * math.sqrt(rate * (1 - rate) / count + z2 / (4 * count**2))
    return min((centre + half) / (1 + z2 / count), 1.0)
