"""The cheap rival every figure stands beside: TF-IDF and logistic regression, retrained on all the past."""

from __future__ import annotations

from collections.abc import Sequence

from sklearn.dummy import DummyClassifier
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline

from model.mixture import Example


def train_baseline(examples: Sequence[Example], seed: int = 0) -> Pipeline:
    """Fit words and word pairs to labels. With one label only, answers that label. Raises ValueError without examples."""
    texts, labels = [e.text for e in examples], [e.label for e in examples]
    regression = LogisticRegression(C=10, max_iter=100, tol=1e-2, random_state=seed)
    classifier = regression if len(set(labels)) > 1 else DummyClassifier(strategy="most_frequent")
    return make_pipeline(TfidfVectorizer(sublinear_tf=True, max_features=20_000), classifier).fit(texts, labels)


def baseline_answers(baseline: Pipeline, texts: Sequence[str]) -> list[str]:
    """The baseline's label for each text."""
    return [str(label) for label in baseline.predict(list(texts))]
