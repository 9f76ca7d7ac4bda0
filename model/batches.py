"""From examples to padded batches, and in which order a run sees them. Knows nothing of networks or losses.

B sequences, S tokens.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle

import torch
from torch import Tensor

from model.mixture import Example
from model.tokens import Codec

STRETCH = 16
"""Batches of a stretch, within which examples are sorted by length, so that little is padded."""


@dataclass(frozen=True)
class Lesson:
    """An example and, in distillation, whose answer to follow: the new model's on the new month, the champion's on the past.

    One that is not labelled is a text of which only the language is learned.
    """

    example: Example
    is_new: bool = True
    is_labelled: bool = True


@dataclass(frozen=True)
class Batch:
    """Sequences padded on the right, which a causal model never looks at."""

    token_BS: Tensor
    weight_BS: Tensor
    label_BS: Tensor
    is_new_B: Tensor

    @property
    def tokens(self) -> int:
        """Tokens that a network works on, padding included."""
        return self.token_BS.numel()

    def rows(self, chosen: slice) -> Batch:
        """Some of the sequences."""
        return Batch(self.token_BS[chosen], self.weight_BS[chosen], self.label_BS[chosen], self.is_new_B[chosen])

    def to(self, device: torch.device) -> Batch:
        """The same on a device."""
        moved = (one.to(device) for one in (self.token_BS, self.weight_BS, self.label_BS, self.is_new_B))
        return Batch(*moved)


def collate(lessons: Sequence[Lesson], codec: Codec, text_loss_weight: float) -> Batch:
    """One batch: every token of the answer weighs 1, every token of the text `text_loss_weight`, padding nothing."""
    prompts = [codec.prompt(lesson.example.text) for lesson in lessons]
    answers = [codec.answer(lesson.example.label) if lesson.is_labelled else [] for lesson in lessons]
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


def groups(
    passes: Sequence[Sequence[int]], lengths: Sequence[int], batch_size: int, order: random.Random
) -> Iterator[tuple[int, ...]]:
    """Batches of indices without end: pass by pass, each shuffled anew; after the last pass the first comes again.

    `lengths` are those of all examples, in any unit: within stretches of 16 batches near lengths come together.
    Raises ValueError where every pass is empty.
    """
    if not any(passes):
        raise ValueError("there is nothing to draw batches from")
    for one in cycle(passes):
        shuffled = list(one)
        order.shuffle(shuffled)
        found: list[tuple[int, ...]] = []
        for start in range(0, len(shuffled), STRETCH * batch_size):
            near = sorted(shuffled[start : start + STRETCH * batch_size], key=lengths.__getitem__)
            found += [tuple(near[i : i + batch_size]) for i in range(0, len(near), batch_size)]
        order.shuffle(found)
        yield from found


def steps_of(lessons: int, batch_size: int, epochs: float) -> int:
    """Steps of a run over `lessons` examples: the measure of its length, whatever stages it is parted into."""
    per_epoch = -(-lessons // batch_size)
    return max(1, round(per_epoch * epochs))
