"""The confidence sequence as a picture: where its band, its line and its marks lie, in the units of an SVG that is stretched.

Pure geometry. Knows looks and decisions; the template writes the words beside it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from registry.analysis.looks import Look
from registry.book.audit import AuditRow
from registry.evidence import Verdict

WIDTH, HEIGHT = 1000.0, 300.0
LIMITS = (0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0)
TABLE_ROWS = 12
MOVES = ("advance", "share", "shift", "drop")  # what changes shares while a rollout goes on


@dataclass(frozen=True)
class Label:
    """A word beside the picture, at so many percent of its height or width."""

    percent: float
    value: float


@dataclass(frozen=True)
class Span:
    """An interval as a bar: where it begins and how wide it is, and where its lift lies, in percent of the width."""

    left: float
    width: float
    middle: float


@dataclass(frozen=True)
class Spans:
    """Intervals on one scale, which ends at `limit` either way; by arm."""

    limit: float
    bars: Mapping[str, Span]


@dataclass(frozen=True)
class Chart:
    """`band` and `line` are points of a polygon and a polyline; `marks` are where the share changed; `table` is for who reads."""

    band: str
    line: str
    zero: float
    lifts: tuple[Label, ...]
    rewards: tuple[Label, ...]
    marks: tuple[Label, ...]
    table: tuple[Look, ...]


def charts(
    looks: Mapping[str, Sequence[Look]], history: Sequence[AuditRow], versions: Mapping[str, str]
) -> dict[str, Chart]:
    """The pictures of all arms' looks on one scale, with the share that each decision of `history` gave to an arm's version.

    An arm has none before its second look.
    """
    drawn = {arm: seen for arm, seen in looks.items() if len(seen) > 1}
    limit = max((_limit(seen) for seen in drawn.values()), default=1.0)
    return {arm: _chart(seen, _marks(history, versions[arm], seen[-1].rewards), limit) for arm, seen in drawn.items()}


def _chart(looks: Sequence[Look], marks: tuple[Label, ...], limit: float) -> Chart:
    end = looks[-1].rewards

    def x(rewards: int) -> float:
        return WIDTH * rewards / end

    def y(lift: float) -> float:
        return HEIGHT / 2 * (1 - min(max(lift / limit, -1.0), 1.0))

    there = [f"{x(look.rewards):.1f},{y(look.high):.1f}" for look in looks]
    back = [f"{x(look.rewards):.1f},{y(look.low):.1f}" for look in reversed(looks)]
    return Chart(
        band=" ".join((f"0,{y(1):.1f}", *there, *back, f"0,{y(-1):.1f}")),
        line=" ".join(f"{x(look.rewards):.1f},{y(look.lift):.1f}" for look in looks),
        zero=y(0.0),
        lifts=tuple(Label(100 * y(lift) / HEIGHT, lift) for lift in (limit, limit / 2, 0.0, -limit / 2, -limit)),
        rewards=tuple(Label(100 * part, round(end * part)) for part in (0.0, 0.25, 0.5, 0.75, 1.0)),
        marks=marks,
        table=_rows(looks),
    )


def spans(verdicts: Mapping[str, Verdict]) -> Spans:
    """The confidence intervals of several challengers side by side."""
    widest = max(max(abs(end) for end in verdict.interval) for verdict in verdicts.values())
    limit = next((limit for limit in LIMITS if limit >= widest), 1.0)

    def percent(lift: float) -> float:
        return 50.0 * (1.0 + min(max(lift / limit, -1.0), 1.0))

    bars = {}
    for arm, verdict in verdicts.items():
        low, high = (percent(end) for end in verdict.interval)
        bars[arm] = Span(low, high - low, percent(verdict.lift))
    return Spans(limit, bars)


def _limit(looks: Sequence[Look]) -> float:
    """How far the axis goes, up and down: the last half of the looks fits on it, where the band is narrow enough to read."""
    late = [look for look in looks if look.rewards >= looks[-1].rewards / 2]
    widest = max(max(abs(look.low), abs(look.high)) for look in late)
    return next((limit for limit in LIMITS if limit >= widest), 1.0)


def _marks(history: Sequence[AuditRow], version: str, end: int) -> tuple[Label, ...]:
    """Where the share of a version changed, by the rewards that its decision names."""
    marks, before = [], None
    for row in history:
        share = row.shares.get(version, row.share)
        known = row.evidence.get("arms", {}).get(version, row.evidence)
        counts = [known.get(f"rewards_{arm}") for arm in ("champion", "challenger")]
        if row.action in MOVES and share != before and all(isinstance(count, int) for count in counts):
            marks.append(Label(min(100.0 * sum(counts) / end, 100.0), share))
        before = share
    return tuple(marks[-8:])


def _rows(looks: Sequence[Look]) -> tuple[Look, ...]:
    """So many looks, evenly spread, the last among them."""
    apart = max(1, -(-len(looks) // TABLE_ROWS))
    return tuple(reversed(looks[::-1][::apart]))
