"""How long a base is trained: by passes over its records, and of few records by more of them."""

from __future__ import annotations

import pytest

from evermoe.settings import load_params
from flows.learning.base import learn
from model import Example, Recipe
from model.batches import steps_of


def recipe_for(count: int, monkeypatch: pytest.MonkeyPatch) -> Recipe:
    """How a base of so many records would be trained."""
    found: list[Recipe] = []

    def train_base(examples: object, config: object, max_length: int, recipe: Recipe, *_: object, **__: object) -> None:
        found.append(recipe)

    monkeypatch.setattr("flows.learning.base.train_base", train_base)
    learn([Example("fix the port", "net")] * count, load_params(), lambda step: None)
    return found[0]


@pytest.mark.parametrize("count", [1200, 2575])
def test_few_records_are_passed_until_there_are_enough_steps(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe, base = recipe_for(count, monkeypatch), load_params().base
    assert recipe.epochs > base.epochs
    assert steps_of(count, recipe.batch_size, recipe.epochs) == base.min_steps


def test_of_very_few_records_the_passes_have_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    assert recipe_for(300, monkeypatch).epochs == load_params().base.most_epochs


def test_of_many_records_the_epochs_decide(monkeypatch: pytest.MonkeyPatch) -> None:
    recipe, base = recipe_for(7000, monkeypatch), load_params().base
    assert recipe.epochs == base.epochs
    assert recipe.token_split == base.token_split > 0
    assert recipe.join_share == base.join_share > 0
    assert recipe.doubt_share == base.doubt_share > 0
    assert recipe.label_smoothing == base.label_smoothing > 0
