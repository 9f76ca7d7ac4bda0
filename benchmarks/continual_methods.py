"""The ways to keep a model fresh that `continual.py` compares: ours, its parts, and its rivals. Each a function of what is known.

Knows nothing of tables, files or seeds beyond the parameters it is given. Ours is the code of the monthly flow
(`flows/learning/update.py`), its parts are that code with something left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from evermoe.settings import Params
from flows.learning.examples import split
from flows.learning.recipe import recipe_of
from flows.learning.update import (
    PASSES,
    Material,
    Mixture,
    assured,
    averaged,
    compose,
    learn_month,
    teach_challenger,
)
from model import Example, LanguageModel, Step
from model.batches import Batch, Lesson, collate, steps_of
from model.curriculum import one_stage
from model.decoder import MoeForCausalLM
from model.learn import supervised
from model.loop import fit
from model.loss import Term
from model.tasks import Distillation, Language, fingerprint, hidden, language_term
from registry.snapshots import SnapshotRow

EWC_STRENGTH = 100.0
FISHER_EXAMPLES = 512


@dataclass
class Meter:
    """What a method's trainings cost: tokens, each counted once for a forward and a backward pass, a third of that for a forward
    pass alone."""

    tokens: float = 0.0
    teachers: int = field(default=0, repr=False)
    """Forward passes of a teacher that go with each token now."""

    def __call__(self, step: Step) -> None:
        self.tokens += step.tokens * (1 + self.teachers / 3)


@dataclass(frozen=True)
class Month:
    """What one update is made from: what was told in the month, and everything before it."""

    fresh: Sequence[SnapshotRow]
    known: Sequence[SnapshotRow]
    params: Params
    salt: str

    def material(self) -> Material:
        """As the monthly flow composes it."""
        return compose(self.fresh, self.known, self.params.update, 0, salt=self.salt)

    def in_one(self, *, replayed: bool) -> Material:
        """The same for one training that has the passes of both over the month, with the replay of both or none."""
        material = self.material()
        domain = (*material.train.domain, *material.distil.domain)
        return replace(material, train=Mixture(domain, material.replayed if replayed else ()))

    def learned(self, rows: Sequence[SnapshotRow]) -> tuple[Example, ...]:
        """The examples of rows that are not held out."""
        return split(rows, self.salt).train


Method = Callable[[LanguageModel, Month, Meter], LanguageModel]


def frozen(champion: LanguageModel, month: Month, meter: Meter) -> LanguageModel:
    """The base, for ever."""
    return champion


def fine_tuning(champion: LanguageModel, month: Month, meter: Meter) -> LanguageModel:
    """The new month only, with as many passes over it as ours."""
    return learn_month(champion, month.in_one(replayed=False), month.params.update, meter)


def replay_only(champion: LanguageModel, month: Month, meter: Meter) -> LanguageModel:
    """Experience replay: the month among the past, as often and as much of it as in ours; neither distilled nor averaged."""
    return learn_month(champion, month.in_one(replayed=True), month.params.update, meter)


def distillation_only(champion: LanguageModel, month: Month, meter: Meter) -> LanguageModel:
    """Learning without forgetting (Li and Hoiem, arXiv 1606.09282): the new month, held to what the champion answers on it."""
    update, material = month.params.update, month.in_one(replayed=False)
    student = champion.copy([example.label for example in material.domain])
    lessons = [Lesson(example, is_new=False) for example in material.train.domain]
    recipe = recipe_of(update, PASSES)
    objective = Distillation(champion.network, champion.network, update.temperature)
    tasks = supervised(student, one_stage("distillation", len(lessons)), lessons, recipe, objective)
    meter.teachers = 1
    fit(student, tasks, steps_of(len(lessons), recipe.batch_size, recipe.epochs), recipe, meter)
    meter.teachers = 0
    return student


def ewc(champion: LanguageModel, month: Month, meter: Meter) -> LanguageModel:
    """Elastic weight consolidation (Kirkpatrick et al., arXiv 1612.00796): the new month, each weight held as the past needs it."""
    update, material = month.params.update, month.in_one(replayed=False)
    student = champion.copy([example.label for example in material.domain])
    lessons = [Lesson(example) for example in material.train.domain]
    recipe = recipe_of(update, PASSES)
    past = month.learned(month.known)[-FISHER_EXAMPLES:]
    objective = Consolidation(champion.network, fisher(champion, past), EWC_STRENGTH)
    meter.tokens += len(past) * 30  # one gradient of each, at about the length of a note
    tasks = supervised(student, one_stage("consolidation", len(lessons)), lessons, recipe, objective)
    fit(student, tasks, steps_of(len(lessons), recipe.batch_size, recipe.epochs), recipe, meter)
    return student


def not_averaged(champion: LanguageModel, month: Month, meter: Meter) -> LanguageModel:
    """The monthly update without its last step."""
    update, material = month.params.update, month.material()
    new = learn_month(champion, material, update, meter)
    meter.teachers = 1
    guided = teach_challenger(champion, new, material, update, meter)
    meter.teachers = 0
    return guided


def ours(champion: LanguageModel, month: Month, meter: Meter) -> LanguageModel:
    """The monthly update."""
    guided, material = not_averaged(champion, month, meter), month.material()
    return assured(champion, averaged(champion, guided, material, month.params.update)[0], material)


METHODS: dict[str, Method] = {
    "frozen": frozen,
    "fine-tuning": fine_tuning,
    "replay only": replay_only,
    "distillation only": distillation_only,
    "EWC": ewc,
    "not averaged": not_averaged,
    "ours": ours,
}


@dataclass(frozen=True)
class Consolidation:
    """The language loss and a quadratic pull of each weight to where it was, as strong as its Fisher information."""

    champion: MoeForCausalLM
    fisher: dict[str, Tensor]
    strength: float

    def __call__(self, network: MoeForCausalLM, batch: Batch) -> tuple[Term, ...]:
        before = dict(self.champion.named_parameters())
        pull = sum(
            (self.fisher[name] * (weight - before[name]).square()).sum() for name, weight in network.named_parameters()
        )
        return (
            language_term(network, batch, hidden(network, batch)),
            Term(self.strength / 2 * torch.as_tensor(pull), torch.tensor(1.0)),
        )

    def content(self) -> Iterator[str]:
        yield f"consolidation at {self.strength}"
        yield fingerprint(self.champion)


def fisher(model: LanguageModel, past: Sequence[Example]) -> dict[str, Tensor]:
    """Mean squared gradient of the language loss, example by example: the empirical Fisher information of each weight."""
    found = {name: torch.zeros_like(weight) for name, weight in model.network.named_parameters()}
    learner = model.copy().network
    for example in past:
        batch = collate([Lesson(example)], model.codec, 0.0)
        (term,) = Language()(learner, batch)
        learner.zero_grad(set_to_none=True)
        (term.total / term.count).backward()
        for name, weight in learner.named_parameters():
            if weight.grad is not None:
                found[name] += weight.grad.square() / len(past)
    return found
