"""How the pool of experts grows: locked at the start of a training and unlocked step by step, or added to a trained model.

A locked expert has an admission of 0: its affinity counts as nothing, no token is routed to it, and the network computes what it
would without it. Training unlocks it (`adjust`): it begins as a copy of the busiest expert, its admission rises to 1 while the
balancing bias draws tokens to it, and from there it goes its own way. Knows nothing of losses and optimisers.

Sources: an expert that splits off one that has learned, sparse upcycling, arXiv 2212.05055; a residual branch that is silent at
first, Fixup, arXiv 1901.09321.
"""

from __future__ import annotations

import torch
from torch import Tensor

from evermoe.errors import BadInput
from model.decoder import MoeForCausalLM
from model.experts import Experts
from model.parallel import as_in, gathered
from model.routing import Load, Router

UNLOCKED_BY = 0.2
"""Share of a run's steps after which every expert takes full part."""


@torch.no_grad()
def cold_start(network: MoeForCausalLM, first: int) -> None:
    """Lock all experts but the `first` of each block; the run that follows unlocks them one after another in its first fifth.

    The first begin silent, their last matrix zeroed: what they say is learned and not drawn. Raises `BadInput` where the first are
    fewer than one token may have.
    """
    most, pool = network.config.experts_per_tok_bounds[1], network.config.num_experts
    if not most <= first <= pool:
        raise BadInput(f"a cold start with {first} of {pool} experts cannot be: a token may have {most} of them")
    for router, experts in _pairs(network):
        locked = torch.arange(pool) >= first
        _lock(router, locked)
        experts.down_EFD.zero_()


@torch.no_grad()
def adjust(network: MoeForCausalLM, rate: float, progress: float) -> list[Load]:
    """After a training step: `Router.adjust` on each router; what it unlocked begins as a copy of its busiest experts.

    Where ranks share the weights, all of them must ask.
    """
    loads = []
    for router, experts in _pairs(network):
        loads.append(load := router.adjust(rate, progress))
        if len(load.unlocked):
            busiest = load.share_E.argsort(descending=True, stable=True)[: max(1, int((load.share_E > 0).sum()))]
            parents = busiest[torch.arange(len(load.unlocked), device=busiest.device) % len(busiest)]
            for each_E in (experts.gate_up_EDF, experts.down_EFD, router.weight, router.bias):
                whole_E = gathered(each_E)  # itself, where no ranks share it
                whole_E[load.unlocked] = whole_E[parents]
                each_E.copy_(as_in(each_E, whole_E))
    return loads


@torch.no_grad()
def add_experts(network: MoeForCausalLM, count: int) -> MoeForCausalLM:
    """A copy of the network with `count` locked experts more in each block; it computes the same until training unlocks them.

    Raises `BadInput` unless `count` is at least 1.
    """
    if count < 1:
        raise BadInput(f"cannot add {count} experts; add at least 1")
    config = type(network.config)(**network.config.to_dict() | {"num_experts": network.config.num_experts + count})
    grown = MoeForCausalLM(config)
    state = grown.state_dict()
    for name, old in network.state_dict().items():
        new = state[name]
        if new.shape == old.shape:
            new.copy_(old)
        else:  # the first dimension of what grows is the experts
            new[: len(old)].copy_(old)
            new[len(old) :].zero_()
    for router, _ in _pairs(grown):
        pool = config.num_experts
        fresh = torch.arange(pool) >= pool - count
        _lock(router, fresh)
    return grown.train(network.training)


def _pairs(network: MoeForCausalLM) -> list[tuple[Router, Experts]]:
    pairs = ((block.router, block.experts) for block in network.blocks)
    return [(r, e) for r, e in pairs if isinstance(r, Router) and isinstance(e, Experts)]


def _lock(router: Router, locked_E: Tensor) -> None:
    """Lock these experts; they unlock in order, the last of them in time to take full part by `UNLOCKED_BY` of the next run."""
    router.admission[locked_E] = 0.0
    router.unlock_at[locked_E] = torch.linspace(0, UNLOCKED_BY - router.ramp, int(locked_E.sum()))
