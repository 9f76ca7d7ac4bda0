"""What a challenger must pass before it meets a user. Pure: figures and limits in, verdicts with reasons out.

A past month is examined on a few dozen held-out examples, so its figure is noisy and the worst of twelve is noisier. A loss
on the past therefore fails a challenger when it is beyond its limit by two standard errors of the paired comparison: the more
examples, the closer the gate comes to its limit. Where it fails: on very few examples it lets a real loss pass, and only the
rollout sees it. The calibration error, whose chance is never below 0, is held against what a perfectly calibrated model shows.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean

from model.evaluate import Evaluation

STANDARD_ERRORS = 2.0


@dataclass(frozen=True)
class Limits:
    """Accuracies in points (0 to 100), ratios against the champion; `params.yaml`'s section `gates` says what each is for."""

    new_month_gain: float
    past_month_loss: float
    past_average_loss: float
    calibration_error: float
    latency_ratio: float
    memory_ratio: float


@dataclass(frozen=True)
class Gate:
    """One verdict: the figure, the limit it was held against, and the sentence a reviewer reads."""

    name: str
    passed: bool
    value: float
    limit: float
    reason: str


@dataclass(frozen=True)
class Contest:
    """The figures of one model beside the other's: by past month, on the new one, and what it costs to run."""

    new: Evaluation
    past: Mapping[str, Evaluation]
    latency_ms: float
    weight_bytes: int


def judge(champion: Contest, challenger: Contest, limits: Limits) -> tuple[Gate, ...]:
    """Every gate, passed or not, in the order a reviewer asks: better on the new, no worse on the old, honest, fast, small."""
    gain = 100 * (challenger.new.accuracy - champion.new.accuracy)
    losses = {
        month: _loss(champion.past[month], evaluation)
        for month, evaluation in challenger.past.items()
        if evaluation.examples
    }
    gates = [
        _gate(
            "new month",
            gain >= limits.new_month_gain,
            gain,
            limits.new_month_gain,
            "gains {:+.1f} points, needs {:+.1f}",
        )
    ]
    if losses:
        worst = max(losses, key=lambda month: losses[month].certain)
        average = _Loss(
            fmean(loss.points for loss in losses.values()),
            math.hypot(*(loss.error for loss in losses.values())) / len(losses),
        )
        gates += [
            _gate(
                "every past month",
                losses[worst].certain <= limits.past_month_loss,
                losses[worst].points,
                limits.past_month_loss,
                f"loses {{:.1f}} ± {losses[worst].noise:.1f} points on {worst}, its worst month, may lose {{:.1f}}",
            ),
            _gate(
                "past on average",
                average.certain <= limits.past_average_loss,
                average.points,
                limits.past_average_loss,
                f"loses {{:.1f}} ± {average.noise:.1f} points on average over {len(losses)} past months, may lose {{:.1f}}",
            ),
        ]
    ratios = (
        ("latency", challenger.latency_ms / champion.latency_ms, limits.latency_ratio),
        ("memory", challenger.weight_bytes / champion.weight_bytes, limits.memory_ratio),
    )
    error, noise = challenger.new.calibration_error, challenger.new.calibration_noise
    gates.append(
        _gate(
            "calibration",
            error - noise <= limits.calibration_error,
            error,
            limits.calibration_error,
            f"is off by {{:.2f}} between certainty and accuracy, may be by {{:.2f}} beyond the {noise:.2f} of chance",
        )
    )
    gates += [
        _gate(name, ratio <= most, ratio, most, "takes {:.2f} of the champion's, may take {:.2f}")
        for name, ratio, most in ratios
    ]
    return tuple(gates)


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
        return self.points - self.noise


def _loss(champion: Evaluation, challenger: Evaluation) -> _Loss:
    """Example by example: only those that one model has right and the other wrong count (McNemar, Psychometrika 1947)."""
    changes = [a - b for a, b in zip(champion.hits, challenger.hits, strict=True)]
    count = len(changes)
    return _Loss(100 * sum(changes) / count, 100 * math.sqrt(sum(map(abs, changes))) / count)


def _gate(name: str, passed: bool, value: float, limit: float, words: str) -> Gate:
    return Gate(name, passed and not math.isnan(value), value, limit, words.format(value, limit))
