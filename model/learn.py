"""How the model learns: one loop, and the three lessons it is given — a base from nothing, a new month, a distillation.

Knows nothing of files, months, trackers or schedulers: examples in, a changed model and a report per step out.

B sequences, S tokens, R rows of labels to predict, V vocabulary.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from model.config import MoeConfig
from model.decoder import MoeForCausalLM
from model.language import LanguageModel
from model.loss import distillation, weighted_cross_entropy
from model.mixture import Example
from model.routing import balance
from model.schedule import warmup_cosine
from model.tokens import Codec, train_tokenizer


@dataclass(frozen=True)
class Recipe:
    """How long and how hard to train. `text_loss_weight` is the weight of predicting a text token beside a label token."""

    epochs: float
    batch_size: int
    learning_rate: float
    text_loss_weight: float
    seed: int
    warmup: float = 0.05
    weight_decay: float = 0.05
    clip: float = 1.0
    balance_rate: float = 0.02


@dataclass(frozen=True)
class Step:
    """What one step reports: losses in nats, the learning rate, and the busiest expert's load against the mean."""

    number: int
    of: int
    loss: float
    learning_rate: float
    tokens: int
    peak_load: float


@dataclass(frozen=True)
class Lesson:
    """An example and, in distillation, whose answer to follow: the new model's on the new month, the champion's on the past."""

    example: Example
    is_new: bool = True


@dataclass(frozen=True)
class Batch:
    """Sequences padded on the right, which a causal model never looks at."""

    token_BS: Tensor
    weight_BS: Tensor
    label_BS: Tensor
    is_new_B: Tensor


Report = Callable[[Step], None]
LossOf = Callable[[MoeForCausalLM, Batch], Tensor]


def collate(lessons: Sequence[Lesson], codec: Codec, text_loss_weight: float) -> Batch:
    """One batch: every token of the answer weighs 1, every token of the text `text_loss_weight`, padding nothing."""
    prompts = [codec.prompt(lesson.example.text) for lesson in lessons]
    answers = [codec.answer(lesson.example.label) for lesson in lessons]
    longest = max(len(p) + len(a) for p, a in zip(prompts, answers, strict=True))
    token = torch.full((len(lessons), longest), codec.pad)
    weight, label = torch.zeros(len(lessons), longest), torch.zeros(len(lessons), longest, dtype=torch.bool)
    for row, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
        end = len(prompt) + len(answer)
        token[row, :end] = torch.tensor([*prompt, *answer])
        weight[row, 1 : len(prompt) - 1] = text_loss_weight
        weight[row, len(prompt) : end] = 1.0
        label[row, len(prompt) : end] = True
    return Batch(token, weight, label, torch.tensor([lesson.is_new for lesson in lessons]))


def batches(lessons: Sequence[Lesson], codec: Codec, recipe: Recipe) -> Iterator[Batch]:
    """The run's batches in order: each epoch shuffled anew, then sorted by length within stretches of 16 batches to pad little."""
    order = random.Random(recipe.seed)
    stretch = 16 * recipe.batch_size
    for _ in range(epochs_of(recipe)):
        shuffled = list(lessons)
        order.shuffle(shuffled)
        found: list[list[Lesson]] = []
        for start in range(0, len(shuffled), stretch):
            near = sorted(shuffled[start : start + stretch], key=lambda lesson: len(lesson.example.text))
            found += [near[i : i + recipe.batch_size] for i in range(0, len(near), recipe.batch_size)]
        order.shuffle(found)
        for group in found:
            yield collate(group, codec, recipe.text_loss_weight)


def epochs_of(recipe: Recipe) -> int:
    """Whole passes to draw batches from; the number of steps cuts the last one short."""
    return max(1, -int(-recipe.epochs // 1))


def steps_of(lessons: int, recipe: Recipe) -> int:
    """Steps of a run over `lessons` examples."""
    per_epoch = -(-lessons // recipe.batch_size)
    return max(1, round(per_epoch * recipe.epochs))


def fit(model: LanguageModel, lessons: Sequence[Lesson], recipe: Recipe, loss_of: LossOf, report: Report) -> None:
    """The loop. Changes `model` in place; deterministic for one recipe, data and machine."""
    network, steps = model.network, steps_of(len(lessons), recipe)
    torch.manual_seed(recipe.seed)
    network.train()
    optimizer = torch.optim.AdamW(
        network.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay, betas=(0.9, 0.98), fused=True
    )
    for number, batch in zip(range(steps), batches(lessons, model.codec, recipe), strict=False):
        rate = recipe.learning_rate * warmup_cosine(number, steps, recipe.warmup)
        for group in optimizer.param_groups:
            group["lr"] = rate
        loss = loss_of(network, batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), recipe.clip)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        loads = balance(network, recipe.balance_rate)
        peak = max(float(load.max() * load.numel()) for load in loads)
        report(Step(number, steps, float(loss.detach()), rate, batch.token_BS.numel(), peak))
    network.eval()


def language_loss(network: MoeForCausalLM, batch: Batch) -> Tensor:
    """Cross-entropy of answers and, by weight, of texts. Logits are made only where a token weighs something."""
    hidden_BSD, _ = network.trunk(batch.token_BS[:, :-1])
    counted = batch.weight_BS[:, 1:] > 0
    logits_RV = network.lm_head(hidden_BSD[counted])
    return weighted_cross_entropy(logits_RV, batch.token_BS[:, 1:][counted], batch.weight_BS[:, 1:][counted])


def distillation_loss(new: MoeForCausalLM, champion: MoeForCausalLM, temperature: float) -> LossOf:
    """The language loss, plus the divergence from the new model on new examples and from the frozen champion on replayed ones."""

    def loss_of(network: MoeForCausalLM, batch: Batch) -> Tensor:
        token_BS, answer_BS = batch.token_BS[:, :-1], batch.label_BS[:, 1:]
        hidden_BSD, _ = network.trunk(token_BS)
        counted = batch.weight_BS[:, 1:] > 0
        logits_RV = network.lm_head(hidden_BSD[counted])
        loss = weighted_cross_entropy(logits_RV, batch.token_BS[:, 1:][counted], batch.weight_BS[:, 1:][counted])
        for teacher, followed_B in ((new, batch.is_new_B), (champion, ~batch.is_new_B)):
            if not followed_B.any():
                continue
            with torch.no_grad():
                taught_BSD, _ = teacher.trunk(token_BS[followed_B])
                taught_RV = teacher.lm_head(taught_BSD[answer_BS[followed_B]])
            student_RV = network.lm_head(hidden_BSD[followed_B][answer_BS[followed_B]])
            share = float(followed_B.float().mean())
            loss = loss + share * distillation(student_RV, taught_RV, temperature)
        return loss

    return loss_of


def train_base(
    examples: Sequence[Example], config: MoeConfig, max_length: int, recipe: Recipe, report: Report
) -> LanguageModel:
    """A model from nothing: the tokenizer and then the weights are learned from `examples`."""
    tokenizer = train_tokenizer((t for e in examples for t in (e.text, e.label)), config.vocab_size)
    torch.manual_seed(recipe.seed)
    config.vocab_size = len(tokenizer)
    for name in ("pad", "bos", "eos"):
        setattr(config, f"{name}_token_id", getattr(tokenizer, f"{name}_token_id"))
    network = MoeForCausalLM(config)
    model = LanguageModel(network, tokenizer, [e.label for e in examples], max_length)
    fit(model, [Lesson(e) for e in examples], recipe, language_loss, report)
    return model


def train_month(
    champion: LanguageModel, domain: Sequence[Example], past: Sequence[Example], recipe: Recipe, report: Report
) -> LanguageModel:
    """The *new* model: the champion's copy, trained on the new month and replay."""
    new = champion.copy([e.label for e in domain])
    fit(new, [Lesson(e) for e in (*domain, *past)], recipe, language_loss, report)
    return new


def distil(
    champion: LanguageModel,
    new: LanguageModel,
    domain: Sequence[Example],
    past: Sequence[Example],
    recipe: Recipe,
    temperature: float,
    report: Report,
) -> LanguageModel:
    """The challenger: the champion's copy, guided by the new model on the new month and by the frozen champion on the past."""
    challenger = champion.copy(new.labels)
    lessons = [*(Lesson(e) for e in domain), *(Lesson(e, is_new=False) for e in past)]
    fit(challenger, lessons, recipe, distillation_loss(new.network, champion.network, temperature), report)
    return challenger
