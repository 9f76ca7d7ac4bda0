"""The two trainings of a month: a copy of the champion learns it, and teaches it to the challenger. Pure.

Examples and parameters in, a model out: the monthly flow, the benchmark of continual learning and `evermoe reproduce` all call
this, so what one of them shows holds for the others.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from evermoe.settings import UpdateParams
from flows.examples import Split, split
from model import Checkpoints, Example, LanguageModel, Recipe, distil, mix, train_month
from model.learn import Report
from registry.snapshots import SnapshotRow

LOOK_BACK_MONTHS = 12

Training = Callable[[Report, Checkpoints | None], LanguageModel]
"""A training that is ready to run."""


@dataclass(frozen=True)
class Material:
    """What one update learns from: new rows and replay to train on, and both held out for the examination."""

    domain: tuple[Example, ...]
    past: tuple[Example, ...]
    new_exam: tuple[Example, ...]
    past_exam: dict[str, tuple[Example, ...]]


@dataclass(frozen=True)
class Taught:
    """What an update makes: the *new* model, which was a teacher, and the challenger."""

    new: LanguageModel
    challenger: LanguageModel


def compose(
    fresh: Iterable[SnapshotRow], known: Iterable[SnapshotRow], params: UpdateParams, examples_per_month: int
) -> Material:
    """3 parts of what the champion has not learned, 7 parts of what it has; one row in seven of both kept for the examination.

    `fresh` and `known` are in the order of time. Of each past month at most `examples_per_month` examine.
    """
    new: Split = split(fresh)
    old: Split = split(known)
    domain, past = mix(new.train, old.train, params.domain_share, random.Random(params.seed)) if new.train else ([], [])
    past_exam = {month: old.held_out[month][:examples_per_month] for month in sorted(old.held_out)[-LOOK_BACK_MONTHS:]}
    return Material(tuple(domain), tuple(past), new.examination, past_exam)


def update(
    champion: LanguageModel, material: Material, params: UpdateParams, conduct: Callable[[str, Training], LanguageModel]
) -> Taught:
    """All trainings of an update, one after the other: the one way from a champion and its material to a challenger.

    `conduct(name, training)` runs each: within the monthly flow as a task with curves and checkpoints, in a rebuild by itself.
    """
    new = conduct("new", lambda report, kept: learn_month(champion, material, params, report, kept))
    challenger = conduct(
        "challenger", lambda report, kept: teach_challenger(champion, new, material, params, report, kept)
    )
    return Taught(new, challenger)


def learn_month(
    champion: LanguageModel,
    material: Material,
    params: UpdateParams,
    report: Report,
    checkpoints: Checkpoints | None = None,
) -> LanguageModel:
    """The *new* model: a copy of the champion, trained on the new month and replay."""
    recipe = recipe_of(params, params.epochs, params.learning_rate)
    return train_month(champion, material.domain, material.past, recipe, report, checkpoints=checkpoints)


def teach_challenger(
    champion: LanguageModel,
    new: LanguageModel,
    material: Material,
    params: UpdateParams,
    report: Report,
    checkpoints: Checkpoints | None = None,
) -> LanguageModel:
    """The challenger: a copy of the champion, guided by the new model on the new month and by its own frozen self on replay."""
    recipe = recipe_of(params, params.distil_epochs, params.distil_learning_rate)
    return distil(
        champion, new, material.domain, material.past, recipe, params.temperature, report, checkpoints=checkpoints
    )


def recipe_of(params: UpdateParams, epochs: float, learning_rate: float) -> Recipe:
    """The recipe of one of the update's two trainings."""
    return Recipe(
        epochs=epochs,
        batch_size=params.batch_size,
        learning_rate=learning_rate,
        text_loss_weight=params.text_loss_weight,
        seed=params.seed,
    )
