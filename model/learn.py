"""The lessons the model is given: a base from nothing, a new month, a distillation, an alignment.

Knows nothing of months, trackers or schedulers: examples in, a changed model and a report per step out.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence

import torch

from model.batches import Lesson, steps_of
from model.checkpoint import Checkpoints
from model.config import MoeConfig
from model.curriculum import ALIGNMENT, Stage, curriculum, one_stage
from model.decoder import MoeForCausalLM
from model.growth import cold_start
from model.language import LanguageModel
from model.loop import Recipe, Report, Step, fit
from model.mixture import Example, replay
from model.parallel import Ranks
from model.preferences import Alignment, Preferences, Thumb
from model.splitting import SplittingCodec
from model.tasks import Distillation, Language, Objective, Supervised, Task
from model.tokens import train_tokenizer
from model.variations import Doubting, Joining, Variation

TENTHS = 10

__all__ = ["Recipe", "Report", "Step", "align", "average", "distil", "fit", "settle", "train_base", "train_month"]


def untrained(
    examples: Sequence[Example], config: MoeConfig, max_length: int, seed: int, labels: Iterable[str] = ()
) -> LanguageModel:
    """A model that has learned a tokenizer from `examples` and nothing else; `labels` are known beside the examples' own."""
    tokenizer = train_tokenizer((t for e in examples for t in (e.text, e.label)), config.vocab_size)
    torch.manual_seed(seed)
    config.vocab_size = len(tokenizer)
    for name in ("pad", "bos", "eos"):
        setattr(config, f"{name}_token_id", getattr(tokenizer, f"{name}_token_id"))
    network = MoeForCausalLM(config)
    return LanguageModel(network, tokenizer, [*(e.label for e in examples), *labels], max_length)


def bare(texts: Iterable[str]) -> list[Lesson]:
    """Lessons without an answer."""
    return [Lesson(Example(text, ""), is_labelled=False) for text in texts]


def supervised(
    model: LanguageModel, stages: Iterable[Stage], lessons: Sequence[Lesson], recipe: Recipe, objective: Objective
) -> list[Task]:
    """A task for each stage, all on the same lessons."""
    split = recipe.token_split
    codec = SplittingCodec(model.tokenizer, model.max_length, split) if split else model.codec
    vary = variations(lessons, recipe)
    return [Supervised(stage, lessons, codec, recipe.text_loss_weight, objective, vary) for stage in stages]


def variations(lessons: Sequence[Lesson], recipe: Recipe) -> list[Variation]:
    """How the recipe has lessons differ from time to time."""
    found: list[Variation] = []
    if recipe.doubt_share:
        found.append(Doubting(lessons, recipe.doubt_share, recipe.seed))
    if recipe.join_share:
        found.append(Joining(lessons, recipe.join_share))
    return found


def preferences(
    model: LanguageModel,
    stage: Stage,
    thumbs: Sequence[Thumb],
    past: Sequence[Example],
    recipe: Recipe,
    alignment: Alignment,
) -> Preferences:
    """The task of an alignment; its anchors are drawn from `past`, as even over the labels as it allows."""
    anchors = replay(past, alignment.anchors, random.Random(recipe.seed))
    return Preferences(stage, thumbs, anchors, model.codec, alignment)


def train_base(
    examples: Sequence[Example],
    config: MoeConfig,
    max_length: int,
    recipe: Recipe,
    report: Report,
    *,
    experts_at_first: int | None = None,
    thumbs: Sequence[Thumb] = (),
    alignment: Alignment | None = None,
    checkpoints: Checkpoints | None = None,
) -> LanguageModel:
    """A model from nothing: the tokenizer and then the weights are learned from `examples`, by the curriculum.

    With `experts_at_first` the pool of experts starts as small as that and is unlocked over the first fifth of the steps. With
    `thumbs` the last 30% of the steps align it with them and teach no more examples, so the same number of epochs shows each
    example less often; liked answers become labels it knows.
    """
    model = untrained(examples, config, max_length, recipe.seed, (thumb.answer for thumb in thumbs if thumb.up))
    if experts_at_first is not None:
        cold_start(model.network, experts_at_first)
    stages = curriculum(examples, recipe.epochs, len(thumbs))
    taught = [stage for stage in stages if stage.name != ALIGNMENT]
    tasks = supervised(model, taught, [Lesson(e) for e in examples], recipe, Language(recipe.label_smoothing))
    tasks += [
        preferences(model, stage, thumbs, examples, recipe, alignment or Alignment())
        for stage in stages
        if stage.name == ALIGNMENT
    ]
    fit(model, tasks, steps_of(len(examples), recipe.batch_size, recipe.epochs), recipe, report, checkpoints)
    return model


def train_month(
    champion: LanguageModel,
    domain: Sequence[Example],
    past: Sequence[Example],
    recipe: Recipe,
    report: Report,
    *,
    texts: Sequence[str] = (),
    checkpoints: Checkpoints | None = None,
) -> LanguageModel:
    """The *new* model: the champion's copy, trained on the new month and replay; of `texts` only the language is learned."""
    new = champion.copy([e.label for e in domain])
    lessons = [*(Lesson(e) for e in (*domain, *past)), *bare(texts)]
    tasks = supervised(new, one_stage("month", len(lessons)), lessons, recipe, Language(recipe.label_smoothing))
    fit(new, tasks, steps_of(len(lessons), recipe.batch_size, recipe.epochs), recipe, report, checkpoints)
    return new


def distil(
    champion: LanguageModel,
    new: LanguageModel,
    domain: Sequence[Example],
    past: Sequence[Example],
    recipe: Recipe,
    temperature: float,
    report: Report,
    *,
    texts: Sequence[str] = (),
    checkpoints: Checkpoints | None = None,
) -> LanguageModel:
    """The challenger: the champion's copy, guided by the new model on the new month and by the frozen champion on the past.

    Of `texts` only the language is learned.
    """
    challenger = champion.copy(new.labels)
    lessons = [*(Lesson(e) for e in domain), *(Lesson(e, is_new=False) for e in past), *bare(texts)]
    ranks = Ranks.here()
    objective = Distillation(ranks.place(new.network), ranks.place(champion.network), temperature)
    tasks = supervised(challenger, one_stage("distillation", len(lessons)), lessons, recipe, objective)
    fit(challenger, tasks, steps_of(len(lessons), recipe.batch_size, recipe.epochs), recipe, report, checkpoints)
    return challenger


@torch.no_grad()
def average(champion: LanguageModel, taught: LanguageModel, share: float) -> LanguageModel:
    """A copy of `taught` whose weights are `share` its own and for the rest the champion's, from which it was trained.

    Between a model and its fine-tuned copy the loss has no ridge, so on the way there is more of what both know than at either
    end (Wortsman et al., Robust fine-tuning of zero-shot models, arXiv 2109.01903). Routers' biases, which training sets by
    counting and not by gradients, are those of `taught`. Raises ValueError for a share outside (0, 1].
    """
    if not 0 < share <= 1:
        raise ValueError(f"share {share} is not in (0, 1]")
    averaged = taught.copy()
    before = dict(champion.network.named_parameters())
    for name, weight in averaged.network.named_parameters():
        weight.lerp_(before[name], 1 - share)
    return averaged


def settle(
    champion: LanguageModel, taught: LanguageModel, month: Sequence[Example], loss: float
) -> tuple[LanguageModel, float]:
    """The average nearest to the champion that still knows the month, and the share of `taught` in it, in tenths.

    It may be `loss` (0 to 1) less certain of the month's right answers than `taught` is: of all of them, and of those whose label
    is new to the champion, for whom its weights speak against every new label. Certainty is the probability of the right label:
    what was learned by heart is still answered right long after it has stopped to help with texts that are like it. More of
    `taught` is taken to know the month no worse, so the share is found by halving. Where the champion's weights help nothing, the
    share is 1.
    """
    is_new = [example.label not in champion.labels for example in month]

    def known(model: LanguageModel) -> tuple[float, ...]:
        answers = model.at(1.0).classify([example.text for example in month])
        sure = [answer.scores.get(example.label, 0.0) for answer, example in zip(answers, month, strict=True)]
        parts = (sure, [one for one, new in zip(sure, is_new, strict=True) if new])
        return tuple(sum(part) / len(part) for part in parts if part)

    wanted, below, enough, found = known(taught), 0, TENTHS, taught
    while enough - below > 1:
        middle = (below + enough) // 2
        tried = average(champion, taught, middle / TENTHS)
        if all(has >= wants - loss for has, wants in zip(known(tried), wanted, strict=True)):
            enough, found = middle, tried
        else:
            below = middle
    return found, enough / TENTHS


def align(
    champion: LanguageModel,
    thumbs: Sequence[Thumb],
    past: Sequence[Example],
    recipe: Recipe,
    report: Report,
    *,
    alignment: Alignment | None = None,
    checkpoints: Checkpoints | None = None,
) -> LanguageModel:
    """The champion's copy, aligned with `thumbs` for `recipe.epochs` over them, old answers on `past` kept within the bound."""
    aligned = champion.copy([thumb.answer for thumb in thumbs if thumb.up])
    (stage,) = one_stage(ALIGNMENT, len(thumbs))
    task = preferences(aligned, stage, thumbs, past, recipe, alignment or Alignment())
    fit(aligned, [task], steps_of(len(thumbs), recipe.batch_size, recipe.epochs), recipe, report, checkpoints)
    return aligned
