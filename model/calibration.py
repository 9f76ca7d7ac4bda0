"""How sure a model may say it is: what its certainty is worth, and the temperature that puts it right.

Certainty is the probability of the answer that is given. A model that was trained until it knew its texts by heart is as
certain of texts that it has never seen, and right less often. One number mends that without changing an answer: the logarithms
of the scores are divided by a temperature (Guo et al., On calibration of modern neural networks, arXiv 1706.04599).

Where it fails: one number for all labels cannot make a rare label as honest as a frequent one, and what a month brings that the
model cannot know, a new label above all, it is as sure of as of the rest.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch

from model.language import LanguageModel, tempered
from model.mixture import Example

BINS = 10
TEMPERATURES = np.geomspace(0.5, 8.0, 140).round(2)
USUAL_CHANGE = 0.25
"""Standard deviation of the temperature's logarithm from one month to the next, as far as is known before looking: with a few
dozen rows it moves little."""


def temperature_for(model: LanguageModel, unseen: Sequence[Example]) -> float:
    """The temperature at which the model's certainty on texts that it has not learned agrees best with how often it is right.

    The likeliest for what it got right and wrong there, and for the temperature that it has. Texts with labels that the model
    cannot know are left out.
    """
    asked = [example for example in unseen if example.label in model.labels]
    if not asked:
        return model.temperature
    answers = model.at(1.0).classify([example.text for example in asked])
    hit = np.array([answer.label == example.label for answer, example in zip(answers, asked, strict=True)])
    score_NL = torch.tensor([list(answer.scores.values()) for answer in answers])
    losses = [
        _surprise(tempered(score_NL, temperature).amax(1).double().numpy(), hit)
        + (math.log(temperature / model.temperature) / USUAL_CHANGE) ** 2 / 2
        for temperature in TEMPERATURES.tolist()
    ]
    return float(TEMPERATURES[int(np.argmin(losses))])


def _surprise(sure: np.ndarray, hit: np.ndarray) -> float:
    """Minus the log-likelihood of right and wrong answers, if each is right with just the probability that its certainty says."""
    likely = np.where(hit, sure, 1.0 - sure)
    return float(-np.log(np.maximum(likely, 1e-6)).sum())


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
