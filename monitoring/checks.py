"""Whether a month's rows are fit to be learned: are its labels drawn by lot, is it in a foreign language, is it one unit's.

Each check is one figure of the month, held against the same figure of the past months, each of which is looked at as it was
then: with only its own past, and thinned to as many rows. What counts is the excess, (figure - usual) / (most - usual), less
one standard error, of the month's rows and of how the past months differ: 0 is a month like the others, 1 is as bad as can be.
So a stream that is always hard, always full of new words or always one author's is measured by itself, and few rows must be
worse than many to be stopped.

`label noise`: how badly a row's label fits its text, which is the share of the month's labels that fit better. A label fits by
the cosine of the text's word weights and the sum of those of its rows (Rocchio), the row itself left out; among the month's
labels a right one stands near the top even in a month of new teams, a label drawn by lot anywhere.
`language`: the share of a text's words that no text before the month has.
`one unit`: the largest share of the rows that one unit sent. Usual is what that unit sent before, or the largest share that
any unit had in the last months, whichever is more: who sends most changes from month to month, as commits to a repository do.

Where they fail: docs/gates.md, with the false alarms and the detections that were measured (`python -m benchmarks.checks`).
Knows nothing of models, of where rows come from, or of what is done about a month that fails.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Protocol, TypeVar

import numpy as np

from evermoe.words import TELLING_WORD, WORD

LABEL_NOISE, LANGUAGE, ONE_UNIT = "label noise", "language", "one unit"
ENOUGH = "enough rows"
"""The check that there is anything to learn from; who learns says how much that is."""
LEAST_SUPPORT = 3
"""A label with fewer rows than this says nothing of where its texts belong."""
SHOWN = 5
_WORD = re.compile(WORD)


class Row(Protocol):
    """A labelled text and who sent it, where that is known."""

    @property
    def text(self) -> str: ...
    @property
    def label(self) -> str: ...
    @property
    def unit(self) -> str | None: ...


AnyRow = TypeVar("AnyRow", bound=Row)


@dataclass(frozen=True)
class CheckPolicy:
    """Limits of the excess over the usual, 0 to 1. A month of fewer than `min_rows` rows is too small to tell; usual is what
    the last `past_months` were; a label's place is learned from the last `known_rows` before the month."""

    label_noise: float
    language: float
    one_unit: float
    min_rows: int
    past_months: int
    known_rows: int


@dataclass(frozen=True)
class Check:
    """One verdict: the excess, the limit it was held against, the sentence a reviewer reads, and rows that show it."""

    name: str
    passed: bool
    value: float
    limit: float
    reason: str
    examples: tuple[str, ...] = ()


@dataclass(frozen=True)
class Figures:
    """A month's three figures, each 0 to 1."""

    label_noise: float
    language: float
    one_unit: float


@dataclass(frozen=True)
class Usual:
    """What a figure was in the last months, and by how much it moved from one to the next (a standard deviation)."""

    value: float
    spread: float


@dataclass(frozen=True)
class UsualFigures:
    """What each figure usually is."""

    label_noise: Usual
    language: Usual
    one_unit: Usual


def usual_figures(past: Sequence[Sequence[Row]], rows: int, policy: CheckPolicy) -> UsualFigures | None:
    """What the last months were, each with its own past; None without a month that can be looked at.

    Each is thinned to `rows`, as many as the month has that is to be compared: in few rows a new label has little to be known
    by, so a small month is never like a large one.
    """
    if rows < policy.min_rows:
        return None
    found: list[Figures] = []
    for place in range(len(past) - 1, 0, -1):
        before = [row for month in past[:place] for row in month]
        if min(len(past[place]), len(before)) >= policy.min_rows:
            found.append(figures(thinned(past[place], rows), before, policy))
        if len(found) == policy.past_months:
            break
    if not found:
        return None
    return UsualFigures(
        _usual([one.label_noise for one in found]),
        _usual([one.language for one in found]),
        Usual(max(one.one_unit for one in found), 0.0),
    )


def figures(rows: Sequence[Row], known: Sequence[Row], policy: CheckPolicy) -> Figures:
    """Of a month that came after the rows `known`."""
    return Figures(
        _mean(misplacement(rows, known[-policy.known_rows :])[0]), _mean(unseen_words(rows, known)), _largest(rows)[1]
    )


def thinned(rows: Sequence[AnyRow], count: int) -> Sequence[AnyRow]:
    """At most so many of the rows, evenly over the month."""
    if len(rows) <= count:
        return rows
    return [rows[place * len(rows) // count] for place in range(count)]


def _usual(values: Sequence[float]) -> Usual:
    """The median, and the spread by the median deviation from it, so that one odd month widens nothing."""
    middle = median(values)
    return Usual(middle, 1.4826 * median(abs(value - middle) for value in values))


def inspect(
    rows: Sequence[Row], known: Sequence[Row], usual: UsualFigures | None, policy: CheckPolicy
) -> tuple[Check, ...]:
    """Every check of a month's `rows`, which came after the rows `known` (oldest first), against what is usual."""
    return tuple(look(rows, known, usual, policy) for look in CHECKS.values())


def language(rows: Sequence[Row], known: Sequence[Row], usual: UsualFigures | None, policy: CheckPolicy) -> Check:
    """Whether the month's words are known words."""
    if usual is None or len(rows) < policy.min_rows:
        return _too_few(LANGUAGE, rows, policy.language, policy)
    unseen = unseen_words(rows, known)
    worst = _worst(unseen)
    return _verdict(
        LANGUAGE,
        _Seen(_mean(unseen), math.hypot(_error(unseen), usual.language.spread), usual.language.value, 1.0),
        policy.language,
        f"{_mean(unseen):.1%} of a text's words are in no text before, usually {usual.language.value:.1%}",
        tuple(_short(rows[row].text) for row in worst),
    )


def label_noise(rows: Sequence[Row], known: Sequence[Row], usual: UsualFigures | None, policy: CheckPolicy) -> Check:
    """Whether the month's labels belong to its texts."""
    if usual is None or len(rows) < policy.min_rows:
        return _too_few(LABEL_NOISE, rows, policy.label_noise, policy)
    misplaced, better = misplacement(rows, known[-policy.known_rows :])
    return _verdict(
        LABEL_NOISE,
        _Seen(_mean(misplaced), math.hypot(_error(misplaced), usual.label_noise.spread), usual.label_noise.value, 0.5),
        policy.label_noise,
        f"of the month's labels {_mean(misplaced):.1%} fit a text better than the one given, usually {usual.label_noise.value:.1%}",
        tuple(f"{_short(rows[row].text)}: given {rows[row].label}, fits {better[row]}" for row in _worst(misplaced)),
    )


def one_unit(rows: Sequence[Row], known: Sequence[Row], usual: UsualFigures | None, policy: CheckPolicy) -> Check:
    """Whether the month is told by many."""
    if usual is None or len(rows) < policy.min_rows:
        return _too_few(ONE_UNIT, rows, policy.one_unit, policy)
    unit, share = _largest(rows)
    before = sum(row.unit == unit for row in known) / max(1, len(known)) if unit else 0.0
    who = (
        f"unit {_short(unit)} sent {share:.0%} of the rows and {before:.0%} of those before"
        if unit
        else "nobody is known"
    )
    return _verdict(
        ONE_UNIT,
        _Seen(share, (share * (1 - share) / len(rows)) ** 0.5, max(before, usual.one_unit.value), 1.0),
        policy.one_unit,
        f"{who}, the largest unit of a past month {usual.one_unit.value:.0%}",
        tuple(f"{_short(row.text)}: {row.label}" for row in rows if row.unit == unit)[:SHOWN],
    )


Look = Callable[[Sequence[Row], Sequence[Row], UsualFigures | None, CheckPolicy], Check]
CHECKS: dict[str, Look] = {LANGUAGE: language, LABEL_NOISE: label_noise, ONE_UNIT: one_unit}


@dataclass(frozen=True)
class _Seen:
    """A month's figure and its error, what is usual, and the most that can be (0.5 is what labels drawn by lot come to)."""

    figure: float
    error: float
    usual: float
    most: float

    @property
    def excess(self) -> float:
        """How far beyond the usual, of the way to the most, certainly."""
        return (self.figure - self.error - self.usual) / max(self.most - self.usual, 1e-9)


def _verdict(name: str, seen: _Seen, limit: float, words: str, examples: tuple[str, ...]) -> Check:
    passed = seen.excess <= limit
    reason = f"{words}: {max(0.0, seen.excess):.2f} of the way from usual to worst, may be {limit:.2f}"
    return Check(name, passed, seen.excess, limit, reason, () if passed else examples)


def _too_few(name: str, rows: Sequence[Row], limit: float, policy: CheckPolicy) -> Check:
    least = policy.min_rows
    why = f"{len(rows)} rows" if len(rows) < least else f"no past month of {least} rows to compare with"
    return Check(name, True, 0.0, limit, f"too little to tell: {why} ({least} are needed)")


# ---- label noise


def misplacement(rows: Sequence[Row], known: Sequence[Row]) -> tuple[np.ndarray, list[str]]:
    """Of each row, the share of the month's other labels that fit its text better than its own, and the label that fits best.

    Ties count half. Of a label with too few rows to tell it is NaN, and a half, as if it were drawn by lot, where the label is new:
    a ticket's number or a free text in the place of a label is another one in each row.
    """
    from scipy.sparse import csr_matrix
    from sklearn.feature_extraction.text import TfidfVectorizer

    every = [*known, *rows]
    labels = sorted({row.label for row in every})
    place = {label: number for number, label in enumerate(labels)}
    label_N = np.array([place[row.label] for row in every])
    support_L = np.bincount(label_N, minlength=len(labels))
    try:
        word_NV = (
            TfidfVectorizer(sublinear_tf=True, token_pattern=TELLING_WORD)
            .fit_transform([row.text for row in every])
            .tocsr()
        )
    except ValueError:  # not a word in any text
        return np.full(len(rows), np.nan), [row.label for row in rows]
    belongs_NL = csr_matrix((np.ones(len(every)), (np.arange(len(every)), label_N)), shape=(len(every), len(labels)))
    centre_LV = (belongs_NL.T @ word_NV).tocsr()
    norm_L = np.asarray(centre_LV.multiply(centre_LV).sum(1)).ravel()
    word_RV, own_R, row_R = word_NV[len(known) :], label_N[len(known) :], np.arange(len(rows))
    dot_RL = (word_RV @ centre_LV.T).toarray()
    fit_RL = dot_RL / np.sqrt(np.maximum(norm_L, 1e-12))
    # the row's own label without the row itself: |c - x|² = |c|² - 2 c·x + |x|²
    square_R = np.asarray(word_RV.multiply(word_RV).sum(1)).ravel()
    dot_R = dot_RL[row_R, own_R]
    norm_R = norm_L[own_R] - 2 * dot_R + square_R
    fit_RL[row_R, own_R] = np.where(norm_R > 1e-9, (dot_R - square_R) / np.sqrt(np.maximum(norm_R, 1e-9)), 0.0)
    present = np.unique(own_R)
    rivals = present if len(present) > 1 else np.arange(len(labels))
    own_fit_R = fit_RL[row_R, own_R]
    above_R = (fit_RL[:, rivals] > own_fit_R[:, None]).sum(1)
    level_R = (fit_RL[:, rivals] == own_fit_R[:, None]).sum(1) - 1
    misplaced = (above_R + 0.5 * level_R) / max(1, len(rivals) - 1)
    best = [labels[number] for number in rivals[fit_RL[:, rivals].argmax(1)]]
    before = {row.label for row in known}
    untold_R = np.where([row.label in before for row in rows], np.nan, 0.5)
    return np.where(support_L[own_R] >= LEAST_SUPPORT, misplaced, untold_R), best


# ---- language


def unseen_words(rows: Sequence[Row], known: Sequence[Row]) -> np.ndarray:
    """Of each row, the share of its words that no text of `known` has; NaN for a text without a word."""
    vocabulary = {word for row in known for word in _WORD.findall(row.text.lower())}
    shares = []
    for row in rows:
        words = _WORD.findall(row.text.lower())
        shares.append(sum(word not in vocabulary for word in words) / len(words) if words else np.nan)
    return np.array(shares, dtype=float)


# ---- one unit


def _largest(rows: Sequence[Row]) -> tuple[str, float]:
    """The unit that sent most, and its share of all rows, those of nobody known included."""
    units = Counter(row.unit for row in rows if row.unit is not None)
    unit, count = min(units.items(), key=lambda item: (-item[1], item[0]), default=("", 0))
    return unit, count / max(1, len(rows))


# ---- figures


def _mean(values: np.ndarray) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else 0.0


def _error(values: np.ndarray) -> float:
    """The standard error of the mean."""
    known = values[~np.isnan(values)]
    return float(known.std() / len(known) ** 0.5) if len(known) else 0.0


def _worst(values: np.ndarray) -> list[int]:
    """The rows with the highest figures."""
    return sorted(map(int, np.flatnonzero(~np.isnan(values))), key=lambda row: -float(values[row]))[:SHOWN]


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 120 else f"{line[:117]}..."
