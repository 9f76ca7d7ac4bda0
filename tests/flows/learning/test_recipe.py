"""That a training is done as its parameters say, the base's and those of an update alike."""

from __future__ import annotations

import pytest

from evermoe.settings import LessonParams, load_params
from flows.learning.recipe import recipe_of

ALIKE = ("batch_size", "text_loss_weight", "seed", "token_split", "join_share", "doubt_share", "label_smoothing")


@pytest.mark.parametrize("params", [load_params().base, load_params().update], ids=["base", "update"])
def test_a_recipe_has_what_its_parameters_say(params: LessonParams) -> None:
    recipe = recipe_of(params, 3)
    assert {name: getattr(recipe, name) for name in ALIKE} == {name: getattr(params, name) for name in ALIKE}
    assert (recipe.epochs, recipe.learning_rate) == (3, params.learning_rate)


def test_another_rate_is_taken_where_one_is_given() -> None:
    assert recipe_of(load_params().update, 1, 0.5).learning_rate == 0.5
