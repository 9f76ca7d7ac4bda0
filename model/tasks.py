"""What a stage of a run trains on: a batch at a time, and what it is worth. Knows nothing of steps, rates or optimisers.

B sequences, S tokens, D model width, R rows of tokens to predict, V vocabulary.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from evermoe.errors import BadInput
from model.batches import Batch, Lesson, collate
from model.curriculum import Stage
from model.decoder import MoeForCausalLM
from model.loss import Term, divergence, weighted_cross_entropy
from model.parallel import ALONE, Ranks
from model.tokens import Codec
from model.variations import Variation


@dataclass(frozen=True)
class Worth:
    """What a network does on this rank's part of a batch: the terms whose means add up to the loss and the tokens it took; and in
    alignment, over all ranks, how far the network is from its reference, in nats a token."""

    terms: tuple[Term, ...]
    tokens: int
    moved: float = 0.0


class Task(Protocol):
    """One stage's work. `fit` calls `begin` before its first step, `worth` at each, `end` after its last."""

    @property
    def stage(self) -> Stage: ...

    @property
    def lengths(self) -> Sequence[int]:
        """Of all that the stage's indices name."""

    def worth(self, network: MoeForCausalLM, group: Sequence[int], ranks: Ranks = ALONE) -> Worth:
        """The loss on this rank's part of the examples of these indices, with its graph."""

    def begin(self, network: MoeForCausalLM, ranks: Ranks = ALONE) -> None: ...

    def end(self, network: MoeForCausalLM, ranks: Ranks = ALONE) -> float:
        """Leave the network as the stage owes it. Returns how far it has moved, as in `Worth`."""

    def state(self) -> tuple[dict[str, float], dict[str, Tensor]]:
        """What a checkpoint must hold beside the network."""

    def restore(
        self, network: MoeForCausalLM, numbers: Mapping[str, float], tensors: Mapping[str, Tensor], ranks: Ranks = ALONE
    ) -> None:
        """Take up again what `state` gave."""

    def content(self) -> Iterator[str]:
        """All that decides what is taught, for the fingerprint of a checkpoint."""


class Objective(Protocol):
    """What an answer is held against."""

    def __call__(self, network: MoeForCausalLM, batch: Batch) -> tuple[Term, ...]: ...

    def content(self) -> Iterator[str]:
        """As `Task.content`."""


@dataclass(frozen=True)
class Supervised:
    """Right answers to learn. Has no state of its own."""

    stage: Stage
    lessons: Sequence[Lesson]
    codec: Codec
    text_loss_weight: float
    objective: Objective
    variations: Sequence[Variation] = ()

    @property
    def lengths(self) -> Sequence[int]:
        return [len(lesson.example.text) for lesson in self.lessons]

    def worth(self, network: MoeForCausalLM, group: Sequence[int], ranks: Ranks = ALONE) -> Worth:
        lessons = [self.lessons[i] for i in ranks.part(group)]
        for vary in self.variations:
            lessons = vary(lessons)
        batch = collate(lessons, self.codec, self.text_loss_weight).to(ranks.device)
        return Worth(self.objective(network, batch), batch.tokens)

    def begin(self, network: MoeForCausalLM, ranks: Ranks = ALONE) -> None: ...

    def end(self, network: MoeForCausalLM, ranks: Ranks = ALONE) -> float:
        return 0.0

    def state(self) -> tuple[dict[str, float], dict[str, Tensor]]:
        return {}, {}

    def restore(
        self, network: MoeForCausalLM, numbers: Mapping[str, float], tensors: Mapping[str, Tensor], ranks: Ranks = ALONE
    ) -> None: ...

    def content(self) -> Iterator[str]:
        yield from (repr(lesson) for lesson in self.lessons)
        yield from self.objective.content()


@dataclass(frozen=True)
class Language:
    """Cross-entropy of answers and, by weight, of texts, with `smoothing` as in `weighted_cross_entropy`. Logits are made only
    where a token weighs something. Raises `BadInput` for a smoothing outside [0, 1)."""

    smoothing: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.smoothing < 1:
            raise BadInput(f"label_smoothing {self.smoothing} is no share from 0 to below 1")

    def __call__(self, network: MoeForCausalLM, batch: Batch) -> tuple[Term, ...]:
        return (language_term(network, batch, hidden(network, batch), self.smoothing),)

    def content(self) -> Iterator[str]:
        yield f"language, smoothed by {self.smoothing}"


@dataclass(frozen=True)
class Distillation:
    """The language loss, plus the divergence from the new model on new examples and from the frozen champion on replayed ones,
    as a mean over all tokens of answers."""

    new: MoeForCausalLM
    champion: MoeForCausalLM
    temperature: float

    def __call__(self, network: MoeForCausalLM, batch: Batch) -> tuple[Term, ...]:
        token_BS, answer_BS = batch.token_BS[:, :-1], batch.label_BS[:, 1:]
        hidden_BSD = hidden(network, batch)
        apart = hidden_BSD.new_zeros((), dtype=torch.float32)
        for teacher, followed_B in ((self.new, batch.is_new_B), (self.champion, ~batch.is_new_B)):
            if not followed_B.any():
                continue
            with torch.no_grad():
                taught_BSD, _ = teacher.trunk(token_BS[followed_B])
                taught_RV = teacher.lm_head(taught_BSD[answer_BS[followed_B]])
            student_RV = network.lm_head(hidden_BSD[followed_B][answer_BS[followed_B]])
            apart = apart + divergence(student_RV, taught_RV, self.temperature)
        return language_term(network, batch, hidden_BSD), Term(apart, answer_BS.sum())

    def content(self) -> Iterator[str]:
        yield f"distillation at {self.temperature}"
        yield from (fingerprint(teacher) for teacher in (self.new, self.champion))


def hidden(network: MoeForCausalLM, batch: Batch) -> Tensor:
    """The last hidden states (B, S - 1, D): of every token that another follows.

    The last token of a shorter row becomes padding, as that of the longest is cut off: what the routers count of a row must not
    depend on the rows beside it.
    """
    token_BS, pad = batch.token_BS[:, :-1], network.config.pad_token_id
    if pad is not None:
        token_BS = token_BS.masked_fill(batch.token_BS[:, 1:] == pad, pad)
    hidden_BSD, _ = network.trunk(token_BS)
    return hidden_BSD


def language_term(network: MoeForCausalLM, batch: Batch, hidden_BSD: Tensor, smoothing: float = 0.0) -> Term:
    """The cross-entropy of the tokens that weigh something."""
    counted = batch.weight_BS[:, 1:] > 0
    logits_RV = network.lm_head(hidden_BSD[counted])
    weight_R = batch.weight_BS[:, 1:][counted]
    return weighted_cross_entropy(logits_RV, batch.token_BS[:, 1:][counted], weight_R, smoothing)


def fingerprint(network: nn.Module) -> str:
    """SHA-256 of the weights and the buffers that are saved with them, in hex."""
    digest = hashlib.sha256()
    for name, tensor in network.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()
