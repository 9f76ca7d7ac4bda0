"""From parameters to a recipe: the same for the base and for an update's trainings. Pure."""

from __future__ import annotations

from evermoe.settings import LessonParams
from model import Recipe


def recipe_of(params: LessonParams, epochs: float, learning_rate: float | None = None) -> Recipe:
    """The recipe of one training of so many passes over its lessons, at the parameters' own rate where no other is given."""
    return Recipe(
        epochs=epochs,
        batch_size=params.batch_size,
        learning_rate=params.learning_rate if learning_rate is None else learning_rate,
        text_loss_weight=params.text_loss_weight,
        seed=params.seed,
        token_split=params.token_split,
        join_share=params.join_share,
        doubt_share=params.doubt_share,
        label_smoothing=params.label_smoothing,
    )
