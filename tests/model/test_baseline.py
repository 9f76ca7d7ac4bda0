"""The rival is as strong as its kind can be: a weak one would flatter every figure beside it."""

from __future__ import annotations

import itertools
import random

import pytest
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from model import Example
from model.baseline import baseline_answers, train_baseline

NOUNS = ["vlan", "port", "route", "table", "index", "query", "button", "form", "menu", "pod", "node", "volume"]
TEAMS = {noun: f"team {number // 3}" for number, noun in enumerate(NOUNS)}
NOTES = [
    Example(f"{verb} the {noun} {way} of the {other}", TEAMS[noun])
    for verb, noun, way, other in itertools.product(["fix", "add"], NOUNS, ["option", "default"], NOUNS)
]


def test_it_answers_as_a_regression_that_was_left_to_converge() -> None:
    shuffled = random.Random(1).sample(NOTES, len(NOTES))
    learned, asked = shuffled[: len(NOTES) // 4], shuffled[len(NOTES) // 4 :]
    texts = [note.text for note in asked]
    slow = make_pipeline(TfidfVectorizer(sublinear_tf=True), LogisticRegression(C=10, max_iter=5000, tol=1e-6))
    slow.fit([note.text for note in learned], [note.label for note in learned])
    answered = baseline_answers(train_baseline(learned), texts)
    same = [one == other for one, other in zip(answered, slow.predict(texts), strict=True)]
    assert sum(same) / len(same) > 0.98


@pytest.mark.parametrize("texts", [["a b", "c d", "e"], ["?!", "...", "1"]])
def test_texts_without_a_word_get_the_commonest_label(texts: list[str]) -> None:
    baseline = train_baseline([Example(text, label) for text, label in zip(texts, "xxy", strict=True)])
    assert baseline_answers(baseline, ["anything", ""]) == ["x", "x"]


def test_one_label_is_the_only_answer() -> None:
    assert baseline_answers(train_baseline([Example("fix the vlan", "net")]), ["add a menu"]) == ["net"]
