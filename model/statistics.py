"""How routers spread their tokens, under the field's names. Knows nothing of training: routes in, numbers out.

T tokens, E experts, L blocks with experts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from model.routing import Routes


@dataclass(frozen=True)
class RouterStatistics:
    """Over the tokens given, one figure a block (L,) unless it says otherwise.

    expert_load: each expert's share of all assignments, (L, E), rows summing to 1.
    active_experts: mean experts a token; `active_spread`: its standard deviation between tokens.
    router_entropy: mean entropy of a token's affinities over all experts, in nats; log(E) when a router is indifferent.
    dead_expert_frac: share of experts without a token.
    expert_diversity: how many evenly loaded experts would have the load's entropy, as a share of E (Hill, Ecology 1973).
    """

    expert_load: Tensor
    active_experts: Tensor
    active_spread: Tensor
    router_entropy: Tensor
    dead_expert_frac: Tensor
    expert_diversity: Tensor


@torch.no_grad()
def router_statistics(routes: Sequence[Routes], real_T: Tensor | None, experts: int) -> RouterStatistics:
    """Statistics of each block's routes over the real tokens; `real_T` is None where all are."""
    rows: list[tuple[Tensor, ...]] = []
    for one in routes:
        chosen_TK = one.chosen() if real_T is None else one.chosen()[real_T]
        count_T = (chosen_TK >= 0).sum(-1).float()
        load_E = torch.bincount(chosen_TK.flatten() + 1, minlength=experts + 1)[1:].float()
        share_E = load_E / load_E.sum().clamp(min=1)
        diversity = entropy(share_E).exp() / experts
        spread = count_T.std(correction=0)
        rows.append(
            (share_E, count_T.mean(), spread, _indecision(one, real_T), (load_E == 0).float().mean(), diversity)
        )
    return RouterStatistics(*(torch.stack(column) for column in zip(*rows, strict=True)))


def entropy(share: Tensor) -> Tensor:
    """Entropy over the last dimension, in nats, of shares that sum to 1."""
    return torch.special.entr(share).sum(-1)


def _indecision(routes: Routes, real_T: Tensor | None) -> Tensor:
    assert routes.affinity_TE is not None
    affinity_TE = routes.affinity_TE if real_T is None else routes.affinity_TE[real_T]
    return entropy(affinity_TE / affinity_TE.sum(-1, keepdim=True)).mean()
