"""What changed from one model to the next, on the same held-out examples. Pure: answers and loads in, changes out.

Every change of accuracy comes with its noise, two standard errors of the paired comparison as in `gates.py`: a change within
its noise is neither better nor worse. Where it fails: a label with three held-out examples can lose all of them and stay
within its noise; the examples that broke are listed one by one for that.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Literal

import torch
from torch import Tensor

from model.evaluate import Evaluation
from model.gates import STANDARD_ERRORS
from model.language import LanguageModel
from model.mixture import Example

KEPT_TEXTS = 3
KEPT_MOVES = 8


@dataclass(frozen=True)
class Examined:
    """A model as its comparison needs it: the labels it knows, its answers, and its experts' load (L, E) as `expert_load`."""

    labels: tuple[str, ...]
    new: Evaluation
    past: Mapping[str, Evaluation]
    load: Tensor


@dataclass(frozen=True)
class Change:
    """Accuracy before and after, 0 to 1, on the examples of a month or of a label. `noise` is in points."""

    name: str
    examples: int
    before: float
    after: float
    noise: float

    @property
    def points(self) -> float:
        """What was won, or lost when negative."""
        return 100 * (self.after - self.before)

    @property
    def verdict(self) -> Literal["better", "worse", "no change beyond chance"]:
        """What the points say, beyond what chance may do."""
        if not abs(self.points) > self.noise:  # nor where there was no example
            return "no change beyond chance"
        return "better" if self.points > 0 else "worse"


@dataclass(frozen=True)
class Confusion:
    """A label taken for another, how often before and after, with a few texts that are newly taken so, or no longer."""

    right: str
    answered: str
    before: int
    after: int
    texts: tuple[str, ...]


@dataclass(frozen=True)
class Flip:
    """An example that one model has right and the other has wrong."""

    text: str
    right: str
    before: str
    after: str


@dataclass(frozen=True)
class Move:
    """An expert whose share of its block's load changed; `block` counts those that route, from 0."""

    block: int
    expert: int
    before: float
    after: float


@dataclass(frozen=True)
class Comparison:
    """Child against parent. `new` and `past` are by month, `labels` over all examples, the worst first; confusions by how much
    they grew or shrank; `moves` the experts whose load changed most; `load_variation` the share of the load that went to other
    experts (total variation, mean over blocks; NaN where the two have not the same blocks); calibration errors on the new
    month, with what a calibrated model would show on as few examples."""

    labels_gained: tuple[str, ...]
    labels_lost: tuple[str, ...]
    new: Change
    past: tuple[Change, ...]
    labels: tuple[Change, ...]
    appeared: tuple[Confusion, ...]
    went: tuple[Confusion, ...]
    fixed: tuple[Flip, ...]
    broken: tuple[Flip, ...]
    moves: tuple[Move, ...]
    load_variation: float
    calibration_before: float
    calibration_after: float
    calibration_noise: float

    @property
    def worse(self) -> tuple[Change, ...]:
        """The months, then the labels, that lost beyond what chance may do; the worst first."""
        return tuple(change for change in (*self._by_points(), *self.labels) if change.verdict == "worse")

    @property
    def better(self) -> tuple[Change, ...]:
        """The months, then the labels, that won beyond what chance may do; the best first."""
        won = (*reversed(self._by_points()), *reversed(self.labels))
        return tuple(change for change in won if change.verdict == "better")

    def _by_points(self) -> tuple[Change, ...]:
        return tuple(sorted((self.new, *self.past), key=lambda change: change.points))


def compare(
    parent: Examined, child: Examined, new: Sequence[Example], past: Mapping[str, Sequence[Example]]
) -> Comparison:
    """What the child does otherwise. `new` and `past` are the examples that both were examined on, past months by name."""
    answered = list(_answered(parent, child, new, past))
    by_label: dict[str, list[Flip]] = defaultdict(list)
    for one in answered:
        by_label[one.right].append(one)
    labels = [
        _change(label, [one.before == label for one in of_label], [one.after == label for one in of_label])
        for label, of_label in sorted(by_label.items())
    ]
    appeared, went = _confusions(answered)
    moves, variation = _moves(parent.load, child.load)
    return Comparison(
        labels_gained=tuple(sorted(set(child.labels) - set(parent.labels))),
        labels_lost=tuple(sorted(set(parent.labels) - set(child.labels))),
        new=_change("the new month", parent.new.hits, child.new.hits),
        past=tuple(_change(month, parent.past[month].hits, child.past[month].hits) for month in past if past[month]),
        labels=tuple(sorted(labels, key=lambda change: change.points)),
        appeared=appeared,
        went=went,
        fixed=tuple(one for one in answered if one.after == one.right != one.before),
        broken=tuple(one for one in answered if one.before == one.right != one.after),
        moves=moves,
        load_variation=variation,
        calibration_before=parent.new.calibration_error,
        calibration_after=child.new.calibration_error,
        calibration_noise=child.new.calibration_noise,
    )


@torch.no_grad()
def expert_load(model: LanguageModel, texts: Sequence[str]) -> Tensor:
    """Each routed expert's share of its block's assignments over the texts, (L, E), rows summing to 1 where a token was routed."""
    network = model.network.eval()
    count = network.config.num_experts
    loads: list[Tensor] = []
    prompts = sorted((model.codec.prompt(text) for text in texts), key=len)
    for _, alike in groupby(prompts, key=len):  # of one length, so that nothing is padding
        expert_LBSK = network.trunk(torch.tensor(list(alike)))[1]
        loads.append(
            torch.stack([torch.bincount(block.flatten() + 1, minlength=count + 1)[1:] for block in expert_LBSK])
            if len(expert_LBSK)
            else torch.zeros(0, count)
        )
    load_LE = torch.stack(loads).sum(0).float() if loads else torch.zeros(0, count)
    return load_LE / load_LE.sum(-1, keepdim=True).clamp(min=1)


def _answered(
    parent: Examined, child: Examined, new: Sequence[Example], past: Mapping[str, Sequence[Example]]
) -> Iterator[Flip]:
    """Every example with both answers."""
    sets = [(new, parent.new, child.new), *((past[month], parent.past[month], child.past[month]) for month in past)]
    for examples, before, after in sets:
        for example, one, other in zip(examples, before.answers, after.answers, strict=True):
            yield Flip(example.text, example.label, one, other)


def _change(name: str, before: Sequence[bool], after: Sequence[bool]) -> Change:
    """Example by example: only those that one model has right and the other wrong count (McNemar, Psychometrika 1947)."""
    count = len(before)
    if not count:
        return Change(name, 0, math.nan, math.nan, math.nan)
    differ = sum(one != other for one, other in zip(before, after, strict=True))
    return Change(
        name, count, sum(before) / count, sum(after) / count, STANDARD_ERRORS * 100 * math.sqrt(differ) / count
    )


def _confusions(answered: Sequence[Flip]) -> tuple[tuple[Confusion, ...], tuple[Confusion, ...]]:
    """The confusions that are more than before, and those that are fewer; the largest change first."""
    before = Counter((one.right, one.before) for one in answered if one.before != one.right)
    after = Counter((one.right, one.after) for one in answered if one.after != one.right)
    found: tuple[list[Confusion], list[Confusion]] = [], []
    for right, wrong in {**before, **after}:
        one, other = before[right, wrong], after[right, wrong]
        if one == other:
            continue
        shrank = other < one
        texts = [
            flip.text
            for flip in answered
            if flip.right == right and flip.before != flip.after and (flip.before if shrank else flip.after) == wrong
        ]
        found[shrank].append(Confusion(right, wrong, one, other, tuple(texts[:KEPT_TEXTS])))
    appeared, went = (
        tuple(sorted(some, key=lambda one: (-abs(one.after - one.before), one.right, one.answered))) for some in found
    )
    return appeared, went


def _moves(before_LE: Tensor, after_LE: Tensor) -> tuple[tuple[Move, ...], float]:
    """The experts that moved most, and how much of the load did. An expert that one of the two has not had no load there."""
    if len(before_LE) != len(after_LE) or not len(before_LE):
        return (), math.nan
    most = max(before_LE.shape[1], after_LE.shape[1])
    before, after = (torch.nn.functional.pad(load, (0, most - load.shape[1])) for load in (before_LE, after_LE))
    moved = (after - before).abs()
    top = moved.flatten().topk(min(KEPT_MOVES, moved.numel()))
    moves = tuple(
        Move(index // most, index % most, float(before.flatten()[index]), float(after.flatten()[index]))
        for index, size in zip(top.indices.tolist(), top.values.tolist(), strict=True)
        if size
    )
    return moves, float(moved.sum(-1).mean() / 2)
