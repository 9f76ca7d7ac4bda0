"""Alignment with what users liked, from unpaired thumbs, within a bound on how far old abilities may move.

The policy is the network in training, the reference its frozen copy at the start of the stage. Where it fails: thumbs that
contradict each other cancel out, and a bound that is too tight leaves the preference where it was.

B sequences, S tokens, R tokens of answers, V vocabulary, M thumbs, A anchors.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, log_softmax

from model.batches import Batch, Lesson, collate
from model.curriculum import Stage
from model.decoder import MoeForCausalLM, whole_texts
from model.language import LanguageModel
from model.loss import Term, divergence, kto
from model.mixture import Example
from model.parallel import ALONE, Ranks, copy_places, places
from model.tasks import Worth, hidden
from model.tokens import Codec

HALVINGS = 12
"""Of the way back to the reference: the weights come to within 1/4096 of the farthest place that keeps the bound."""


@dataclass(frozen=True)
class Thumb:
    """An answer that a user was given, and whether the user liked it. No text needs both."""

    text: str
    answer: str
    up: bool


@dataclass(frozen=True)
class Alignment:
    """How to align: `beta` is how fast a reward saturates, `bound` how far old answers may move, in nats a token on average over
    `anchors` old examples; training itself aims at the share `aim` of the bound, from an anchor weight of `anchor_weight`.

    `replay_weight` is that of the anchors' right answers, which goes on teaching what the reference has not learned well.
    """

    beta: float = 0.1
    bound: float = 0.05
    anchors: int = 1024
    aim: float = 0.5
    anchor_weight: float = 1.0
    replay_weight: float = 1.0


class Preferences:
    """The task of the alignment stage: KTO on thumbs; on old examples replay, and the divergence from the reference.

    The anchor weight follows the divergence as the penalty of Ziegler et al., arXiv 1909.08593, section 2.2: it rises where the
    network strays beyond the aim. What strays beyond the bound in the end is drawn back towards the reference (`draw_back`).
    """

    def __init__(
        self, stage: Stage, thumbs: Sequence[Thumb], anchors: Sequence[Example], codec: Codec, recipe: Alignment
    ) -> None:
        self.stage, self.thumbs, self.anchors, self.codec, self.recipe = stage, thumbs, anchors, codec, recipe
        self.weights = balance_of(thumbs)
        self.anchor_weight = recipe.anchor_weight
        self.next_anchor = 0
        self.reference: MoeForCausalLM | None = None

    @property
    def lengths(self) -> Sequence[int]:
        return [len(thumb.text) for thumb in self.thumbs]

    def begin(self, network: MoeForCausalLM, ranks: Ranks = ALONE) -> None:
        """Freeze the reference."""
        self.anchor_weight, self.next_anchor = self.recipe.anchor_weight, 0
        self.reference = ranks.whole(network).eval().requires_grad_(False)

    def worth(self, network: MoeForCausalLM, group: Sequence[int], ranks: Ranks = ALONE) -> Worth:
        assert self.reference is not None
        part, weight = ranks.part(range(len(group))), ranks.weight(len(group))
        judged = [self.thumbs[group[i]] for i in part]
        beside = [self.thumbs[group[(i + 1) % len(group)]] for i in part]
        drawn = self._turn(len(group))
        old = [drawn[i] for i in part]
        # Thumbs, then anchors; the mismatched pairs, each text with its neighbour's answer, only place the reference point.
        pairs = [Example(thumb.text, thumb.answer) for thumb in judged]
        mismatched = [Example(one.text, other.answer) for one, other in zip(judged, beside, strict=True)]
        every = collate([Lesson(e) for e in (*pairs, *old, *mismatched)], self.codec, 0.0).to(ranks.device)
        trained, last = every.rows(slice(0, len(pairs) + len(old))), every.rows(slice(len(pairs) + len(old), None))
        with torch.no_grad():
            reference_RV = answer_logits(self.reference, every)
            network.eval()  # what is only measured is no load to balance
            last_M = log_probabilities(answer_logits(network, last), last)
            network.train()
        with whole_texts(network):
            policy_RV = answer_logits(network, trained)
        reference_B = log_probabilities(reference_RV, every)
        reward_M = (log_probabilities(policy_RV, trained) - reference_B[: len(trained.label_BS)])[: len(pairs)]
        strayed_M = last_M - reference_B[len(trained.label_BS) :]
        strayed = float(ranks.total(weight * strayed_M.sum())) / len(group)
        reference_point = max(0.0, strayed) if len(group) > 1 else 0.0
        up_M = torch.tensor([thumb.up for thumb in judged], device=reward_M.device)
        liking = kto(reward_M, up_M, reference_point, self.recipe.beta, self.weights)
        begin, end = (int(every.label_BS[:rows].sum()) for rows in (len(pairs), len(trained.label_BS)))
        apart = divergence(policy_RV[begin:end], reference_RV[begin:end])
        tokens = torch.tensor(float(end - begin), device=apart.device)
        far, over = ranks.total(weight * torch.stack([apart, tokens])).tolist()
        moved = far / over
        right_R = every.token_BS[:, 1:][every.label_BS[:, 1:]][begin:end]
        again = cross_entropy(policy_RV[begin:end].float(), right_R, reduction="sum")
        terms = (
            liking,
            Term(self.anchor_weight * apart, tokens),
            Term(self.recipe.replay_weight * again, tokens),
        )
        self._follow(moved)
        return Worth(terms, every.tokens, moved)

    def end(self, network: MoeForCausalLM, ranks: Ranks = ALONE) -> float:
        """Hold the bound, and let the reference go. Returns the divergence on all anchors, in nats a token."""
        assert self.reference is not None
        reference, self.reference = self.reference, None
        whole = ranks.whole(network).eval()
        moved = draw_back(whole, reference, self.recipe.bound, lambda: self._strayed(whole, reference, ranks))
        copy_places(whole, network)
        return moved

    def state(self) -> tuple[dict[str, float], dict[str, Tensor]]:
        if self.reference is None:
            return {}, {}
        return {"anchor_weight": self.anchor_weight, "next_anchor": self.next_anchor}, places(self.reference)

    @torch.no_grad()
    def restore(
        self, network: MoeForCausalLM, numbers: Mapping[str, float], tensors: Mapping[str, Tensor], ranks: Ranks = ALONE
    ) -> None:
        self.begin(network, ranks)
        assert self.reference is not None
        for name, tensor in places(self.reference).items():
            tensor.copy_(tensors[name])
        self.anchor_weight, self.next_anchor = numbers["anchor_weight"], int(numbers["next_anchor"])

    def content(self) -> Iterator[str]:
        yield repr(self.recipe)
        yield from map(repr, self.thumbs)
        yield from map(repr, self.anchors)

    def _turn(self, count: int) -> list[Example]:
        """The next `count` anchors, round and round."""
        chosen = [self.anchors[(self.next_anchor + i) % len(self.anchors)] for i in range(count)]
        self.next_anchor = (self.next_anchor + count) % len(self.anchors)
        return chosen

    def _follow(self, moved: float) -> None:
        aim = max(self.recipe.aim * self.recipe.bound, 1e-9)
        self.anchor_weight *= 1 + 0.1 * min(0.2, max(-0.2, moved / aim - 1))

    @torch.no_grad()
    def _strayed(self, network: MoeForCausalLM, reference: MoeForCausalLM, ranks: Ranks) -> float:
        """Mean KL(reference || policy) over all tokens of the anchors' answers. Each rank measures its part of them."""
        anchors, sums = ranks.part(self.anchors), torch.zeros(2, device=ranks.device)
        for start in range(0, len(anchors), 64):
            batch = collate([Lesson(e) for e in anchors[start : start + 64]], self.codec, 0.0).to(ranks.device)
            sums[0] += divergence(answer_logits(network, batch), answer_logits(reference, batch))
            sums[1] += batch.label_BS.sum()
        total, tokens = ranks.total(ranks.weight(len(self.anchors)) * sums).tolist()
        return total / tokens


def balance_of(thumbs: Sequence[Thumb]) -> tuple[float, float]:
    """lambda_D and lambda_U: the liked and the disliked weigh the same in sum, and a thumb 1 on average.

    The paper wants lambda_D n_D / (lambda_U n_U) between 1 and 4/3 (section 4.2, on data that lean to one side); this is 1.
    """
    up = sum(thumb.up for thumb in thumbs)
    return len(thumbs) / (2 * max(1, up)), len(thumbs) / (2 * max(1, len(thumbs) - up))


def answer_logits(network: MoeForCausalLM, batch: Batch) -> Tensor:
    """Logits (R, V) of the tokens of the answers, row by row."""
    return network.lm_head(hidden(network, batch)[batch.label_BS[:, 1:]])


def log_probabilities(logits_RV: Tensor, batch: Batch) -> Tensor:
    """Log-probability of each sequence's answer given its text (B,), in nats, summed over the answer's tokens."""
    answer_BS = batch.label_BS[:, 1:]
    token_R = log_softmax(logits_RV.float(), -1).gather(-1, batch.token_BS[:, 1:][answer_BS].unsqueeze(-1)).squeeze(-1)
    spread_BS = torch.zeros_like(answer_BS, dtype=token_R.dtype).masked_scatter(answer_BS, token_R)
    return spread_BS.sum(-1)


@torch.no_grad()
def draw_back(network: nn.Module, reference: nn.Module, bound: float, measure: Callable[[], float]) -> float:
    """Move the weights and the routers' state from `network` towards `reference`, as little as keeps `measure` within `bound`.

    By halving the way: theta = reference + share (theta - reference). What `measure` says of the final weights is returned, and
    is at most `bound` wherever it is 0 for the reference itself, whether it falls evenly on the way or not.
    """
    moved = measure()
    if moved <= bound:
        return moved
    here, there = places(network), places(reference)
    learned = {name: tensor.clone() for name, tensor in here.items() if tensor.is_floating_point()}

    def go(share: float) -> float:
        for name, tensor in learned.items():
            here[name].copy_(there[name] + share * (tensor - there[name]))
        return measure()

    least, most = 0.0, 1.0
    for _ in range(HALVINGS):
        share = (least + most) / 2
        least, most = (share, most) if go(share) <= bound else (least, share)
    return go(least)


@torch.no_grad()
def preference(model: LanguageModel, thumbs: Sequence[Thumb], batch_size: int = 64) -> float:
    """How well the model tells liked answers from disliked ones: area under the ROC curve, 0.5 is a guess, 1 is always.

    What is ranked is the log-probability of the answer given the text, a token. NaN where the thumbs all point one way.
    """
    if len({thumb.up for thumb in thumbs}) < 2:
        return math.nan
    model.network.eval()
    scores: list[float] = []
    for start in range(0, len(thumbs), batch_size):
        asked = [Lesson(Example(thumb.text, thumb.answer)) for thumb in thumbs[start : start + batch_size]]
        batch = collate(asked, model.codec, 0.0)
        total_B = log_probabilities(answer_logits(model.network, batch), batch)
        scores += (total_B / batch.label_BS.sum(-1)).tolist()
    return float(roc_auc_score([thumb.up for thumb in thumbs], scores))
