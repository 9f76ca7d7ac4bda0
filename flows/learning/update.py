"""The trainings of a month: a copy of the champion learns it and teaches it to the challenger, which thumbs then align. Pure.

Examples and parameters in, a model out: the monthly flow, the benchmark of continual learning and `evermoe reproduce` all call
this, so what one of them shows holds for the others.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple

from evermoe.settings import UpdateParams
from flows.learning.caps import capped
from flows.learning.examples import split
from flows.learning.recipe import recipe_of
from model import Checkpoints, Example, LanguageModel, Thumb, align, beside, distil, replay, settle, train_month
from model.calibration import temperature_for
from model.learn import Report
from registry.snapshots import SnapshotRow

Training = Callable[[Report, Checkpoints | None], LanguageModel]
"""A training that is ready to run."""
PASSES = 1
"""A mixture has its passes in it and is seen once."""


class Mixture(NamedTuple):
    """What a training sees, once each: the month, as often as there are passes over it, and other replay for each of them."""

    domain: tuple[Example, ...]
    past: tuple[Example, ...]


@dataclass(frozen=True)
class Material:
    """What one update learns from: new rows and replay to train on, and both held out for the examination.

    `train` and `distil` are what the two trainings are made of. `texts` are new ones that nobody judged, `thumbs` new answers of
    which only the liking is known.
    """

    domain: tuple[Example, ...]
    train: Mixture
    distil: Mixture
    new_exam: tuple[Example, ...]
    past_exam: dict[str, tuple[Example, ...]]
    texts: tuple[str, ...] = ()
    thumbs: tuple[Thumb, ...] = ()

    @property
    def replayed(self) -> tuple[Example, ...]:
        """All replay; no example twice, unless the past is small."""
        return (*self.train.past, *self.distil.past)


@dataclass(frozen=True)
class Taught:
    """What an update makes: the *new* model, which was a teacher, and the challenger.

    `taught_share` is the share of what it was taught in its weights, where they were averaged with the champion's: 1 is all. How
    certain it says it is, its `temperature`, is what would have made the champion honest about this month (`assured`).
    """

    new: LanguageModel
    challenger: LanguageModel
    taught_share: float


def compose(
    fresh: Iterable[SnapshotRow],
    known: Iterable[SnapshotRow],
    params: UpdateParams,
    examples_per_month: int,
    examples_in_all: int | None = None,
    *,
    salt: str = "",
) -> Material:
    """What the champion has not learned among what it has; one row in seven of both kept for the examination.

    The new model sees 3 parts to 7 (`domain_share`); the challenger, which the users get, sees more of the past
    (`distil_domain_share`). New rows are seen as often as the trainings have passes. Of replay no row
    comes more than twice in all of them, while the past has enough: a hundred steps on the same few hundred rows learn those by
    heart and forget the others.

    `fresh` and `known` are in the order of time. Every past month examines, with at most `examples_per_month`, and with fewer
    where all of them together would be more than `examples_in_all`. Of bare texts at most as many are taken as there are new
    examples, drawn by the seed, so that a busy month with few answers costs no more than its answers are worth. `salt` is that
    of `split`.
    """
    known, fresh = capped(known, fresh, params.unit_share, params.unit_rows)
    new, old = split(fresh, salt), split(known, salt)
    generator = random.Random(params.seed)
    train, distil = new.train * params.epochs, new.train * params.distil_epochs
    counts = (beside(len(train), params.domain_share), beside(len(distil), params.distil_domain_share))
    past = replay(old.train, sum(counts), generator)
    mixtures = Mixture(train, tuple(past[: counts[0]])), Mixture(distil, tuple(past[counts[0] :]))
    texts = generator.sample(new.texts, min(len(new.texts), len(new.train)))
    most = evenly(map(len, old.held_out.values()), examples_in_all or sys.maxsize)
    past_exam = {month: old.held_out[month][: min(most, examples_per_month)] for month in sorted(old.held_out)}
    return Material(new.train, *mixtures, new.examination, past_exam, tuple(texts), new.thumbs)


def evenly(sizes: Iterable[int], total: int) -> int:
    """The most that can be taken of each, 1 at least, so that all together are no more than `total`; small ones give what they
    have."""
    ordered, share = sorted(sizes), 0
    for number, size in enumerate(ordered):
        share = max(1, total // (len(ordered) - number))
        if size > share:
            break
        total -= size
    return share


def update(
    champion: LanguageModel, material: Material, params: UpdateParams, conduct: Callable[[str, Training], LanguageModel]
) -> Taught:
    """All trainings of an update, one after the other: the one way from a champion and its material to a challenger.

    `conduct(name, training)` runs each: within the monthly flow as a task with curves and checkpoints, in a rebuild by itself.
    """
    new = conduct("new", lambda report, kept: learn_month(champion, material, params, report, kept))
    guided = conduct("challenger", lambda report, kept: teach_challenger(champion, new, material, params, report, kept))
    challenger, taught_share = averaged(champion, guided, material, params)
    if len(material.thumbs) >= params.min_thumbs:
        settled = challenger
        challenger = conduct("aligned", lambda report, kept: align_challenger(settled, material, params, report, kept))
    return Taught(new, assured(champion, challenger, material), taught_share)


def learn_month(
    champion: LanguageModel,
    material: Material,
    params: UpdateParams,
    report: Report,
    checkpoints: Checkpoints | None = None,
) -> LanguageModel:
    """The *new* model: a copy of the champion, trained on the new month and replay."""
    texts = material.texts * params.epochs
    recipe = recipe_of(params, PASSES)
    return train_month(champion, *material.train, recipe, report, texts=texts, checkpoints=checkpoints)


def teach_challenger(
    champion: LanguageModel,
    new: LanguageModel,
    material: Material,
    params: UpdateParams,
    report: Report,
    checkpoints: Checkpoints | None = None,
) -> LanguageModel:
    """The challenger: a copy of the champion, guided by the new model on the new month and by its own frozen self on replay."""
    texts = material.texts * params.distil_epochs
    recipe = recipe_of(params, PASSES, params.distil_learning_rate)
    heat = params.temperature
    return distil(champion, new, *material.distil, recipe, heat, report, texts=texts, checkpoints=checkpoints)


def averaged(
    champion: LanguageModel, guided: LanguageModel, material: Material, params: UpdateParams
) -> tuple[LanguageModel, float]:
    """The guided model's weights averaged with the champion's as far as the month allows, and its share in them."""
    if params.averaging_loss is None:
        return guided, 1.0
    return settle(champion, guided, material.domain, params.averaging_loss / 100)


def assured(champion: LanguageModel, challenger: LanguageModel, material: Material) -> LanguageModel:
    """The challenger, as certain as it has reason to be in the month to come.

    What it learned says nothing of that: it is sure of it and right. But the champion had not seen this month, and stands to it
    as the challenger to the next; so the temperature that suits the champion's answers on it is the challenger's. New labels
    are left out: the challenger has learned them, so the errors that they cost the champion are not its own.
    """
    return challenger.at(temperature_for(champion, material.domain))


def align_challenger(
    challenger: LanguageModel,
    material: Material,
    params: UpdateParams,
    report: Report,
    checkpoints: Checkpoints | None = None,
) -> LanguageModel:
    """The challenger, aligned with the month's thumbs; its answers on replay move no further than the bound of `Alignment`."""
    recipe = recipe_of(params, params.align_epochs, params.distil_learning_rate)
    return align(challenger, material.thumbs, material.replayed, recipe, report, checkpoints=checkpoints)
