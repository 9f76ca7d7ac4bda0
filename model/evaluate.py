"""How good, how sure, how fast and how large a model is. Knows nothing of limits; `gates.py` judges."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from sklearn.metrics import accuracy_score, f1_score

from model.calibration import calibration_error, calibration_noise
from model.language import Classification, LanguageModel
from model.mixture import Example

TIMED_TEXTS = 20


@dataclass(frozen=True)
class Evaluation:
    """Figures on one set of examples. Shares are 0 to 1; `mistakes` are (text, right label, answered label); `hits` tells of
    each example of `asked` whether it was answered right, and `answers` with what, so that two models can be compared example by
    example. `calibration_noise` is the calibration error that a perfectly calibrated model of these
    certainties shows on as few examples, on average. `latency_ms` is the median to answer one text alone, NaN where it was
    not measured, and `memory_bytes` what weights and buffers take, 0 where that was not."""

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
    asked: tuple[Example, ...] = ()


def evaluate(
    model: LanguageModel, examples: Sequence[Example], kept_mistakes: int = 10, timed: int = TIMED_TEXTS
) -> Evaluation:
    """Answer every example with the labels the model has learned. A label it has not learned is a mistake, as for a user.

    Accuracy, latency and memory are told together (source document, section 4.1); the latency is of up to `timed` of the
    examples, one by one. To compare two models' latency use `latencies`: a figure taken at another time is of another moment.
    """
    texts = [example.text for example in examples]
    found = score(examples, model.classify(texts) if texts else [], kept_mistakes)
    return replace(found, latency_ms=latencies([model], texts[:timed])[0], memory_bytes=weight_bytes(model))


def score(examples: Sequence[Example], answers: Sequence[Classification], kept_mistakes: int = 10) -> Evaluation:
    """The figures of answers that were given already; so one round of answers is looked at by month and by slice."""
    if not examples:
        return Evaluation(0, math.nan, math.nan, math.nan, math.nan, (), ())
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
        answers=tuple(answered),
        asked=tuple(examples),
    )


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
