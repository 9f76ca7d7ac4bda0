"""The cheap rival every figure stands beside: TF-IDF and logistic regression, retrained on all the past."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from sklearn.dummy import DummyClassifier
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline

from evermoe.words import TELLING_WORD
from model.mixture import Example


def train_baseline(examples: Sequence[Example], seed: int = 0) -> Pipeline:
    """Fit words to labels. With one label only, or texts without a word, answers the commonest label.

    Raises ValueError without examples.
    """
    texts, labels = [e.text for e in examples], [e.label for e in examples]
    # saga on float32 converges in seconds where lbfgs takes half a minute; stopped early, either loses twenty points
    regression = LogisticRegression(C=10, solver="saga", max_iter=100, tol=1e-3, random_state=seed)
    words = TfidfVectorizer(sublinear_tf=True, dtype=np.float32, token_pattern=TELLING_WORD)
    commonest = DummyClassifier(strategy="most_frequent")
    if len(set(labels)) < 2 or not any(map(words.build_analyzer(), texts)):
        return make_pipeline(commonest).fit(texts, labels)
    return make_pipeline(words, regression).fit(texts, labels)


def baseline_answers(baseline: Pipeline, texts: Sequence[str]) -> list[str]:
    """The baseline's label for each text."""
    return [str(label) for label in baseline.predict(list(texts))]
