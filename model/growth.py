"""How the pool of experts grows: locked at the start of a training and unlocked step by step, or added to a trained model.

A locked expert has an admission of 0: its affinity counts as nothing, no token is routed to it, and the network computes what it
would without it. Training unlocks it (`Router.adjust`): its admission rises to 1 while the balancing bias draws tokens to it.
Knows nothing of losses and optimisers.
"""

from __future__ import annotations

import torch
from torch import Tensor

from evermoe.errors import BadInput
from model.decoder import MoeForCausalLM
from model.experts import Experts
from model.routing import Router

UNLOCKED_BY = 0.2
"""Share of a run's steps after which every expert takes full part."""


@torch.no_grad()
def cold_start(network: MoeForCausalLM, first: int) -> None:
    """Lock all experts but the `first` of each block; the run that follows unlocks them one after another in its first fifth.

    A locked expert's last matrix is zeroed, so that it starts with nothing to say. Raises `BadInput` where the first are fewer than
    one token may have.
    """
    most, pool = network.config.experts_per_tok_bounds[1], network.config.num_experts
    if not most <= first <= pool:
        raise BadInput(f"a cold start with {first} of {pool} experts cannot be: a token may have {most} of them")
    for router, experts in _pairs(network):
        locked = torch.arange(pool) >= first
        _lock(router, experts, locked, UNLOCKED_BY - router.ramp)


@torch.no_grad()
def add_experts(network: MoeForCausalLM, count: int, generator: torch.Generator) -> MoeForCausalLM:
    """A copy of the network with `count` fresh experts more in each block; it computes the same until it is trained.

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
    for router, experts in _pairs(grown):
        pool = config.num_experts
        fresh = torch.arange(pool) >= pool - count
        for tensor in (router.weight, experts.gate_up_EDF):
            tensor[fresh] = torch.randn(tensor[fresh].shape, generator=generator) * config.initializer_range
        _lock(router, experts, fresh, UNLOCKED_BY - router.ramp)
    return grown.train(network.training)


def _pairs(network: MoeForCausalLM) -> list[tuple[Router, Experts]]:
    pairs = ((block.router, block.experts) for block in network.blocks)
    return [(r, e) for r, e in pairs if isinstance(r, Router) and isinstance(e, Experts)]


def _lock(router: Router, experts: Experts, locked_E: Tensor, last: float) -> None:
    """Lock these experts; they unlock in order, the last of them at the share `last` of the next run."""
    router.admission[locked_E] = 0.0
    router.bias[locked_E] = 0.0
    router.unlock_at[locked_E] = torch.linspace(0, last, int(locked_E.sum()))
    experts.down_EFD[locked_E] = 0.0
