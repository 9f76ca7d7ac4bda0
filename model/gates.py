"""What a challenger must pass before it meets a user. Pure: figures and limits in, verdicts with reasons out.

A past month is examined on a few dozen held-out examples, so its figure is noisy and the worst of twelve is noisier. A loss
on the past therefore fails a challenger when it is beyond its limit by two standard errors of the paired comparison: the more
examples, the closer the gate comes to its limit. The worst of many months is by chance worse than the worst of a few, so beyond
a year of them it takes more (`standard_errors`). Slices (model/slices.py) are held as a month is, on the new and the past rows
together. Where it fails: on very few examples it lets a real loss pass, and only the rollout sees it. The calibration error,
whose chance is never below 0, is held against what a perfectly calibrated model shows.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import NormalDist, fmean

from model.evaluate import Evaluation
from model.slices import LONG_TEXTS, RARE_LABELS, SHORT_TEXTS

STANDARD_ERRORS = 2.0
MONTHS = 12
"""Past months up to which the worst is held against `STANDARD_ERRORS`."""
SHOWN = 5
NEW_MONTH, EVERY_MONTH, PAST_AVERAGE = "new month", "every past month", "past on average"
CALIBRATION, LATENCY, MEMORY = "calibration", "latency", "memory"
GATES = (
    NEW_MONTH,
    EVERY_MONTH,
    PAST_AVERAGE,
    RARE_LABELS,
    SHORT_TEXTS,
    LONG_TEXTS,
    CALIBRATION,
    LATENCY,
    MEMORY,
)
"""The names of all verdicts, in their order."""


@dataclass(frozen=True)
class Limits:
    """Accuracies in points (0 to 100), ratios against the champion; `params.yaml`'s section `gates` says what each is for."""

    new_month_gain: float
    past_month_loss: float
    past_average_loss: float
    calibration_error: float
    latency_ratio: float
    memory_ratio: float
    slice_loss: float = 5.0


@dataclass(frozen=True)
class Lost:
    """An example that the champion answers right and the challenger wrong."""

    text: str
    right: str
    champion: str
    challenger: str


@dataclass(frozen=True)
class Gate:
    """One verdict: the figure, the limit it was held against, the sentence a reviewer reads, and examples where it failed."""

    name: str
    passed: bool
    value: float
    limit: float
    reason: str
    examples: tuple[Lost, ...] = ()


@dataclass(frozen=True)
class Contest:
    """The figures of one model beside the other's: by past month, on the new one, what it costs to run, and by slice of both."""

    new: Evaluation
    past: Mapping[str, Evaluation]
    latency_ms: float
    weight_bytes: int
    slices: Mapping[str, Evaluation] = field(default_factory=dict)


def judge(champion: Contest, challenger: Contest, limits: Limits) -> tuple[Gate, ...]:
    """Every gate, passed or not, in the order a reviewer asks: better on the new, no worse on the old, honest, fast, small."""
    return (
        _new_month(champion, challenger, limits),
        *_past_months(champion, challenger, limits),
        *_slices(champion, challenger, limits),
        _calibration(challenger, limits),
        _ratio(LATENCY, challenger.latency_ms / champion.latency_ms, limits.latency_ratio),
        _ratio(MEMORY, challenger.weight_bytes / champion.weight_bytes, limits.memory_ratio),
    )


def standard_errors(months: int) -> float:
    """How many the worst of so many months is held against: two for a year, 2.35 for six.

    The tail falls with the root of the months. That keeps an equal challenger's chance to fail at that of a year, 2% where the
    models differ on a fifth of the rows (`python -m benchmarks.checks`); in full (Bonferroni) it would fall to a tenth of that,
    since a loss must be beyond its limit too, and half of the real losses would pass.
    """
    normal = NormalDist()
    return normal.inv_cdf(1 - (1 - normal.cdf(STANDARD_ERRORS)) * math.sqrt(MONTHS / max(MONTHS, months)))


def lost(champion: Evaluation, challenger: Evaluation) -> tuple[Lost, ...]:
    """Every example that the champion answers right and the challenger wrong."""
    return tuple(
        Lost(example.text, example.label, before, after)
        for example, before, after in zip(champion.asked, champion.answers, challenger.answers, strict=True)
        if before == example.label != after
    )


def _new_month(champion: Contest, challenger: Contest, limits: Limits) -> Gate:
    gain = 100 * (challenger.new.accuracy - champion.new.accuracy)
    return _gate(
        NEW_MONTH,
        gain >= limits.new_month_gain,
        gain,
        limits.new_month_gain,
        "gains {:+.1f} points, needs {:+.1f}",
        lost(champion.new, challenger.new),
    )


def _past_months(champion: Contest, challenger: Contest, limits: Limits) -> list[Gate]:
    losses = {
        month: _loss(champion.past[month], evaluation)
        for month, evaluation in challenger.past.items()
        if evaluation.examples
    }
    if not losses:
        return []
    errors = standard_errors(len(losses))
    worst = max(losses, key=lambda month: losses[month].beyond(errors))
    average = _Loss(
        fmean(loss.points for loss in losses.values()),
        math.hypot(*(loss.error for loss in losses.values())) / len(losses),
    )
    everywhere = tuple(one for month in reversed(losses) for one in lost(champion.past[month], challenger.past[month]))
    return [
        _gate(
            EVERY_MONTH,
            losses[worst].beyond(errors) <= limits.past_month_loss,
            losses[worst].points,
            limits.past_month_loss,
            f"loses {{:.1f}} ± {errors * losses[worst].error:.1f} points on {worst}, the worst of {len(losses)} months, "
            "may lose {:.1f}",
            lost(champion.past[worst], challenger.past[worst]),
        ),
        _gate(
            PAST_AVERAGE,
            average.certain <= limits.past_average_loss,
            average.points,
            limits.past_average_loss,
            f"loses {{:.1f}} ± {average.noise:.1f} points on average over {len(losses)} past months, may lose {{:.1f}}",
            everywhere,
        ),
    ]


def _slices(champion: Contest, challenger: Contest, limits: Limits) -> list[Gate]:
    gates = []
    for name, evaluation in challenger.slices.items():
        before, loss = champion.slices[name], _loss(champion.slices[name], evaluation)
        words = f"loses {{:.1f}} ± {loss.noise:.1f} points on {evaluation.examples} rows, may lose {{:.1f}}"
        passed = loss.certain <= limits.slice_loss
        gates.append(_gate(name, passed, loss.points, limits.slice_loss, words, lost(before, evaluation)))
    return gates


def _calibration(challenger: Contest, limits: Limits) -> Gate:
    error, noise = challenger.new.calibration_error, challenger.new.calibration_noise
    return _gate(
        CALIBRATION,
        error - noise <= limits.calibration_error,
        error,
        limits.calibration_error,
        f"is off by {{:.2f}} between certainty and accuracy, may be by {{:.2f}} beyond the {noise:.2f} of chance",
    )


def _ratio(name: str, ratio: float, most: float) -> Gate:
    return _gate(name, ratio <= most, ratio, most, "takes {:.2f} of the champion's, may take {:.2f}")


@dataclass(frozen=True)
class _Loss:
    """Points lost, and their standard error."""

    points: float
    error: float

    @property
    def noise(self) -> float:
        """What chance alone may do to the points."""
        return STANDARD_ERRORS * self.error

    @property
    def certain(self) -> float:
        """The loss that is beyond what chance may do."""
        return self.beyond(STANDARD_ERRORS)

    def beyond(self, errors: float) -> float:
        """The loss that is beyond so many standard errors."""
        return self.points - errors * self.error


def _loss(champion: Evaluation, challenger: Evaluation) -> _Loss:
    """Example by example: only those that one model has right and the other wrong count (McNemar, Psychometrika 1947)."""
    changes = [a - b for a, b in zip(champion.hits, challenger.hits, strict=True)]
    count = len(changes)
    return _Loss(100 * sum(changes) / count, 100 * math.sqrt(sum(map(abs, changes))) / count)


def _gate(name: str, passed: bool, value: float, limit: float, words: str, examples: tuple[Lost, ...] = ()) -> Gate:
    passed = passed and not math.isnan(value)
    return Gate(name, passed, value, limit, words.format(value, limit), () if passed else examples[:SHOWN])
