"""How good, how sure, how fast and how large a model is. Knows nothing of limits; `gates.py` judges."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from sklearn.metrics import accuracy_score, f1_score

from model.language import LanguageModel
from model.mixture import Example

TIMED_TEXTS = 20


@dataclass(frozen=True)
class Evaluation:
    """Figures on one set of examples. Shares are 0 to 1; `mistakes` are (text, right label, answered label); `hits` tells of
    each example whether it was answered right, and `answers` with what, so that two models can be compared example by example.
    `calibration_noise` is the calibration error that a perfectly calibrated model of these certainties shows on as few examples,
    on average. `latency_ms` is the median to answer one text alone, NaN without examples, and `memory_bytes` what weights and
    buffers take."""

    examples: int
    accuracy: float
    macro_f1: float
    calibration_error: float
    calibration_noise: float
    mistakes: tuple[tuple[str, str, str], ...]
    hits: tuple[bool, ...]
    latency_ms: float = math.nan
    memory_bytes: int = 0
    answers: tuple[str, ...] = ()


def evaluate(
    model: LanguageModel, examples: Sequence[Example], kept_mistakes: int = 10, timed: int = TIMED_TEXTS
) -> Evaluation:
    """Answer every example with the labels the model has learned. A label it has not learned is a mistake, as for a user.

    Accuracy, latency and memory are told together (source document, section 4.1); the latency is of up to `timed` of the
    examples, one by one. To compare two models' latency use `latencies`: a figure taken at another time is of another moment.
    """
    if not examples:
        return Evaluation(0, math.nan, math.nan, math.nan, math.nan, (), (), memory_bytes=weight_bytes(model))
    answers = model.classify([example.text for example in examples])
    right = [example.label for example in examples]
    answered = [answer.label for answer in answers]
    hit = np.array([a == r for a, r in zip(answered, right, strict=True)])
    sure = np.array([answer.scores[answer.label] for answer in answers])
    wrong = [(e.text, e.label, a) for e, a in zip(examples, answered, strict=True) if a != e.label]
    return Evaluation(
        examples=len(examples),
        accuracy=float(accuracy_score(right, answered)),
        macro_f1=float(f1_score(right, answered, average="macro", zero_division=0)),
        calibration_error=calibration_error(sure, hit),
        calibration_noise=calibration_noise(sure),
        mistakes=tuple(wrong[:kept_mistakes]),
        hits=tuple(hit.tolist()),
        latency_ms=latencies([model], [example.text for example in examples[:timed]])[0],
        memory_bytes=weight_bytes(model),
        answers=tuple(answered),
    )


BINS = 10


def calibration_error(sure: np.ndarray, hit: np.ndarray) -> float:
    """Expected calibration error: mean gap between certainty and accuracy over equal-width bins (Guo et al., arXiv 1706.04599)."""
    which = _bin(sure)
    gaps = [abs(sure[which == b].mean() - hit[which == b].mean()) * (which == b).mean() for b in np.unique(which)]
    return float(sum(gaps))


def calibration_noise(sure: np.ndarray) -> float:
    """The mean of `calibration_error` when each answer is right with just the probability that its certainty says.

    A bin's hits are then a sum of independent draws, whose mean absolute deviation is sqrt(2 / pi) of the standard one.
    """
    which = _bin(sure)
    spreads = [np.sqrt((sure[which == b] * (1 - sure[which == b])).sum()) for b in np.unique(which)]
    return float(np.sqrt(2 / np.pi) * sum(spreads) / len(sure))


def _bin(sure: np.ndarray) -> np.ndarray:
    found: np.ndarray = np.clip((sure * BINS).astype(int), 0, BINS - 1)
    return found


def latencies(
    models: Sequence[LanguageModel], texts: Sequence[str], clock: Callable[[], float] = time.perf_counter
) -> list[float]:
    """Median milliseconds to answer one text, for each model; taken in turn on each text, so that a slow moment hits all alike."""
    spent: list[list[float]] = [[] for _ in models]
    for text in texts:
        for model, seconds in zip(models, spent, strict=True):
            began = clock()
            model.classify([text])
            seconds.append(clock() - began)
    return [1000 * statistics.median(seconds) if seconds else float("nan") for seconds in spent]


def weight_bytes(model: LanguageModel) -> int:
    """Bytes of the weights and buffers in memory; a weight that two layers share counts once."""
    held = (*model.network.parameters(), *model.network.buffers())
    return sum(tensor.numel() * tensor.element_size() for tensor in held)
