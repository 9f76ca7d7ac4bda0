"""A model says it is as certain as it has reason to be, and its answers stay what they are."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from evermoe.errors import BadInput
from model import Example, from_pretrained
from model.calibration import calibration_error, temperature_for
from model.language import tempered
from model.manifest import write_manifest


@dataclass(frozen=True)
class Answer:
    label: str
    scores: dict[str, float]


@dataclass(frozen=True)
class Boaster:
    """A model whose logits are `boast` times what they should be: its answers are right as often as its logits alone say."""

    logits_NL: torch.Tensor
    boast: float
    temperature: float = 1.0
    labels: tuple[str, ...] = ("a", "b", "c", "d")

    def at(self, temperature: float) -> Boaster:
        return replace(self, temperature=temperature)

    def classify(self, texts: list[str]) -> list[Answer]:
        score_NL = torch.softmax(self.logits_NL[[int(text) for text in texts]] * self.boast / self.temperature, -1)
        rows = [dict(zip("abcd", row, strict=True)) for row in score_NL.tolist()]
        return [Answer(max(row, key=row.__getitem__), row) for row in rows]


def boaster(boast: float, rows: int = 4000) -> tuple[Boaster, list[Example]]:
    generator = torch.Generator().manual_seed(7)
    logits_NL = 1.5 * torch.randn(rows, 4, generator=generator)
    right = torch.multinomial(torch.softmax(logits_NL, -1), 1, generator=generator).squeeze(1)
    return Boaster(logits_NL, boast), [Example(str(row), "abcd"[label]) for row, label in enumerate(right.tolist())]


def off(model: Boaster, examples: list[Example]) -> float:
    answers = model.classify([example.text for example in examples])
    hit = np.array([answer.label == example.label for answer, example in zip(answers, examples, strict=True)])
    return calibration_error(np.array([answer.scores[answer.label] for answer in answers]), hit)


@pytest.mark.parametrize("boast", [0.7, 1.0, 3.0])
def test_the_temperature_undoes_what_a_model_boasts_on_texts_that_it_was_not_fitted_on(boast: float) -> None:
    model, examples = boaster(boast)
    unseen, later = examples[:2000], examples[2000:]
    found = temperature_for(model, unseen)
    assert found == pytest.approx(boast, rel=0.12)
    assert off(model.at(found), later) < 0.03
    assert boast == 1.0 or off(model, later) > 0.06


def test_a_label_that_the_model_cannot_know_says_nothing_of_its_certainty() -> None:
    model, examples = boaster(2.0)
    strange = [*examples[:2000], *(replace(example, label="new") for example in examples[2000:])]
    assert temperature_for(model, strange) == temperature_for(model, examples[:2000])
    assert temperature_for(model.at(1.2), strange[2000:]) == 1.2


def test_a_month_of_few_rows_moves_the_temperature_little_and_an_empty_one_not_at_all() -> None:
    model, examples = boaster(3.0)
    assert temperature_for(model.at(1.2), []) == 1.2
    assert temperature_for(model, examples[:5]) < temperature_for(model, examples[:50]) < 3.2


@given(st.lists(st.floats(-30, 30), min_size=2, max_size=8, unique=True), st.floats(0.5, 8.0))
def test_no_temperature_changes_an_answer(logits: list[float], temperature: float) -> None:
    score_NL = torch.softmax(torch.tensor([logits]), -1)
    told_NL = tempered(score_NL, temperature)
    assert told_NL.sum().item() == pytest.approx(1, abs=1e-5)
    assert told_NL[0, score_NL.argmax()] == told_NL.max()


def test_a_model_keeps_its_temperature_in_its_folder_and_its_copies(tiny_model_folder, tmp_path) -> None:
    model = from_pretrained(tiny_model_folder)
    softer = model.at(2.0)
    text = "fix the vlan option"
    assert softer.copy(["more"]).temperature == 2.0
    kept = from_pretrained(softer.save(tmp_path / "softer"))
    (plain,), (soft,), (again,) = (one.classify([text]) for one in (model, softer, kept))
    assert soft.label == plain.label
    assert soft.scores[soft.label] < plain.scores[plain.label]
    assert again.scores == soft.scores


def test_a_folder_of_before_has_temperature_one_and_a_senseless_one_is_refused(tiny_model_folder, tmp_path) -> None:
    folder = from_pretrained(tiny_model_folder).at(2.0).save(tmp_path / "model")
    file = folder / "labels.json"
    content = json.loads(file.read_text())
    for wrong in (0, -1.0, "warm", float("inf")):
        write(folder, content | {"temperature": wrong})
        with pytest.raises(BadInput, match=r"labels\.json does not hold .*temperature"):
            from_pretrained(folder)
    del content["temperature"]
    write(folder, content)
    assert from_pretrained(folder).temperature == 1.0


def write(folder, content: dict[str, object]) -> None:
    (folder / "labels.json").write_text(json.dumps(content))
    write_manifest(folder, [file.name for file in folder.iterdir() if file.name != "manifest.json"])
