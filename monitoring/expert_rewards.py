"""Which experts served good answers, and which bad ones: each expert's answers against the answers it took no part in.

Pure: rated answers in, a comparison out. Knows neither what an expert is nor where the rows come from.

**What is compared.** Within one version, the mean reward of the answers that an expert served less that of the others. An
answer is served by many experts, so the differences overlap, and none is a cause: an expert of hard questions looks bad.

**When it is more than chance.** Of 128 differences the largest is large by chance alone, so one is a claim only when it passes
Bonferroni's bound over all that were compared (1 in 20 that any is claimed where none differs). Answers to one unit are alike, so
the standard error takes each unit as one cluster (Liang & Zeger 1986). With fewer than `FEWEST` units on either side an
expert is not compared at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from monitoring.glance import Rated

FEWEST = 30
ERROR_RATE = 0.05


@dataclass(frozen=True)
class ExpertReward:
    """One expert: `answers` it served and their mean reward, the `others` and theirs. `sure`: more than chance would show."""

    expert: int
    answers: int
    mean: float
    others: int
    mean_of_others: float
    error: float
    sure: bool

    @property
    def difference(self) -> float:
        """Above 0: its answers were liked better than those it took no part in."""
        return self.mean - self.mean_of_others


@dataclass(frozen=True)
class ExpertRewards:
    """The experts of one version that differ most, the best and the worst first; `compared` had rewards enough."""

    version: str
    rated: int
    compared: int
    best: tuple[ExpertReward, ...]
    worst: tuple[ExpertReward, ...]


def compare(version: str, rated: Sequence[Rated], *, most: int = 3, fewest: int = FEWEST) -> ExpertRewards:
    """The experts of `version` on its rated answers, at most `most` on each side."""
    rows = [row for row in rated if row.version == version and row.experts]
    if not rows:
        return ExpertRewards(version, 0, 0, (), ())
    names = sorted({expert for row in rows for expert in row.experts})
    column = {expert: number for number, expert in enumerate(names)}
    served_NE = np.zeros((len(rows), len(names)))
    served_NE[
        np.repeat(np.arange(len(rows)), [len(row.experts) for row in rows]),
        [column[expert] for row in rows for expert in row.experts],
    ] = 1.0
    rewards_N = np.array([row.reward for row in rows])
    _, unit_N = np.unique([row.unit for row in rows], return_inverse=True)
    with np.errstate(divide="ignore", invalid="ignore"):  # an expert that served all, or none, is not compared
        mean_2E, error_E, units_2E = _differences(served_NE, rewards_N, unit_N)
    enough_E = (units_2E >= fewest).all(axis=0) & np.isfinite(error_E) & (error_E > 0)
    compared = int(enough_E.sum())
    if not compared:
        return ExpertRewards(version, len(rows), 0, (), ())
    bound = NormalDist().inv_cdf(1.0 - ERROR_RATE / (2 * compared))
    counts_E = served_NE.sum(axis=0)
    found = [
        ExpertReward(
            expert=names[e],
            answers=int(counts_E[e]),
            mean=float(mean_2E[1, e]),
            others=len(rows) - int(counts_E[e]),
            mean_of_others=float(mean_2E[0, e]),
            error=float(error_E[e]),
            sure=bool(abs(mean_2E[1, e] - mean_2E[0, e]) > bound * error_E[e]),
        )
        for e in np.flatnonzero(enough_E)
    ]
    found.sort(key=lambda one: one.difference)
    worst = tuple(one for one in found[:most] if one.difference < 0)
    best = tuple(one for one in found[: -most - 1 : -1] if one.difference > 0)
    return ExpertRewards(version, len(rows), compared, best, worst)


def _differences(
    served_NE: NDArray[np.float64], rewards_N: NDArray[np.float64], unit_N: NDArray[np.intp]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Mean reward without and with each expert (2, E); the standard error of their difference (E); units on each side (2, E)."""
    with_E = served_NE.sum(axis=0)
    without_E = len(rewards_N) - with_E
    sum_E = rewards_N @ served_NE
    mean_2E = np.stack([(rewards_N.sum() - sum_E) / without_E, sum_E / with_E])
    # How far each answer pulls the difference, summed within units: their squares add up to its variance.
    pull_NE = served_NE * (rewards_N[:, None] - mean_2E[1]) / with_E
    pull_NE -= (1.0 - served_NE) * (rewards_N[:, None] - mean_2E[0]) / without_E
    order = np.argsort(unit_N, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(unit_N[order]) > 0])
    error_E = np.sqrt((np.add.reduceat(pull_NE[order], starts, axis=0) ** 2).sum(axis=0))
    served_by_unit = np.add.reduceat(served_NE[order], starts, axis=0)
    size_of_unit = np.add.reduceat(np.ones(len(order)), starts)[:, None]
    units_2E = np.stack([(served_by_unit < size_of_unit).sum(axis=0), (served_by_unit > 0).sum(axis=0)])
    return mean_2E, error_E, units_2E.astype(float)
