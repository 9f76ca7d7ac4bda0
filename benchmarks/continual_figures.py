"""What a course through the months amounts to, and its picture. Answers in, figures out; knows nothing of models or files.

Shares are 0 to 1. A figure of which there is no case is NaN.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import numpy as np

from benchmarks.continual_course import Answers, Cell
from model.evaluate import calibration_error

ABSENT_MONTHS = 6


@dataclass(frozen=True)
class Figures:
    """One method with one seed. `compute` is tokens x parameters of all updates, `seconds` those of one update.

    `changes` holds, by past month, for each held-out example what was lost (-1) or won (1) since the month was learned.
    """

    next: float
    past: float
    changes: dict[str, list[int]]
    new_hits: list[bool]
    kept_then: int
    kept_now: int
    calibration_error: float
    compute: float
    seconds: float
    by_month: dict[str, float]

    @property
    def transfer(self) -> float:
        """Backward transfer over all examples."""
        return mean(change for month in self.changes.values() for change in month)

    @property
    def new(self) -> float:
        """Recall of labels in the month after their first."""
        return mean(self.new_hits)

    @property
    def kept(self) -> float:
        """What is left of the recall of labels that were absent for long."""
        return self.kept_now / self.kept_then if self.kept_then else math.nan


def figures(cells: Sequence[Cell], following: Sequence[str]) -> Figures:
    """Of the base's cell and then each update's, in order; `following` names the month that each was asked."""
    updates, final = cells[1:], cells[-1]
    asked = [hits(cell.next) for cell in updates]
    sure = np.array([value for cell in updates for value in cell.next.sure])
    every = [hit for month in asked for hit in month]
    then, now = kept(cells)
    return Figures(
        next=mean(every),
        past=mean(hit for answers in final.past.values() for hit in hits(answers)),
        changes=changes(cells),
        new_hits=[hit for before, cell in zip(cells, updates, strict=False) for hit in new_labels(before, cell)],
        kept_then=then,
        kept_now=now,
        calibration_error=calibration_error(sure, np.array(every)),
        compute=sum(cell.tokens * cell.active for cell in updates),
        seconds=mean(cell.seconds for cell in updates),
        by_month={name: mean(month) for name, month in zip(following[1:], asked, strict=True)},
    )


def hits(answers: Answers) -> list[bool]:
    """Which were answered right."""
    return [right == given for right, given in zip(answers.right, answers.given, strict=True)]


def changes(cells: Sequence[Cell]) -> dict[str, list[int]]:
    """By past month: each held-out example's hit after the last update less that just after the month was learned."""
    final, found = cells[-1], dict[str, list[int]]()
    for month, answers in final.past.items():
        first = next(cell for cell in cells if month in cell.past)
        pairs = zip(hits(answers), hits(first.past[month]), strict=True)
        found[month] = [now - then for now, then in pairs]
    return found


def new_labels(before: Cell, cell: Cell) -> list[bool]:
    """Hits on the next month's examples whose label first appeared in the month that `cell` learned."""
    appeared = set(cell.known) - set(before.known)
    return [hit for hit, right in zip(hits(cell.next), cell.next.right, strict=True) if right in appeared]


def kept(cells: Sequence[Cell]) -> tuple[int, int]:
    """Held-out examples answered right as their label was last learned, and of the same ones after the last update.

    Of labels that none of the last six months and more taught.
    """
    last = {label: at for at, cell in enumerate(cells) for label in cell.taught}
    final, then, now = cells[-1], 0, 0
    for label, at in last.items():
        if len(cells) - 1 - at < ABSENT_MONTHS:
            continue
        for month, answers in cells[at].past.items():
            rows = zip(hits(answers), hits(final.past[month]), answers.right, strict=True)
            mine = [(before, after) for before, after, right in rows if right == label]
            then += sum(before for before, _ in mine)
            now += sum(after for _, after in mine)
    return then, now


def worst(seeds: Sequence[Figures], fewest: int = 30) -> tuple[str, float, float]:
    """The month that lost most, all seeds' examples together: its name, its change, and the standard error of that.

    Months with fewer than `fewest` examples are passed over; ("", NaN, NaN) where all are.
    """
    pooled: dict[str, list[int]] = {}
    for one in seeds:
        for month, change in one.changes.items():
            pooled.setdefault(month, []).extend(change)
    enough = {month: change for month, change in pooled.items() if len(change) >= fewest}
    if not enough:
        return "", math.nan, math.nan
    name = min(enough, key=lambda month: mean(enough[month]))
    change = enough[name]
    return name, mean(change), math.sqrt(sum(map(abs, change))) / len(change)


def mean(values: Iterable[float]) -> float:
    """NaN of nothing."""
    held = list(values)
    return fmean(held) if held else math.nan


def picture(found: Mapping[str, Sequence[Figures]], title: str, file: Path) -> None:
    """Accuracy on the next month by month, and what was kept of the past against what it cost."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(13, 4.8), width_ratios=(3, 2), layout="constrained")
    for method, seeds in found.items():
        months = list(seeds[0].by_month)
        line = [100 * mean(one.by_month[month] for one in seeds) for month in months]
        (drawn,) = left.plot(
            months, line, marker="o", markersize=3, linewidth=2.5 if method == "ours" else 1.2, label=method
        )
        past, following = (100 * mean(getattr(one, name) for one in seeds) for name in ("past", "next"))
        right.scatter([past], [following], s=90 if method == "ours" else 40, color=drawn.get_color())
        place = (-34, 4) if method == "ours" else (6, 4)  # not on its neighbour's name
        name = {"xytext": place, "textcoords": "offset points", "fontsize": 9, "color": drawn.get_color()}
        right.annotate(method, (past, following), **name)
    left.set(title=f"{title}: accuracy on the next month, %", ylim=(0, 100))
    left.tick_params(axis="x", rotation=60)
    left.legend(fontsize=8)
    right.margins(0.2)
    right.set(title="the old and the new", xlabel="all past months after the last update, %", ylabel="next month, %")
    for axes in (left, right):
        axes.grid(alpha=0.3)
    figure.savefig(file, dpi=110)
    pyplot.close(figure)
