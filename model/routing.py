"""Which experts work on which token, and how many. Knows nothing of what an expert computes.

Three things hold without a loss of their own, so that no auxiliary gradient bends the one that teaches:
- balance: an expert with more than the mean load is made a little less likely to be chosen (the bias);
- the budget: a controller moves the share of affinity that a token's experts must cover, so that on average
  `num_experts_per_tok` work while a token takes what it needs within bounds (the threshold);
- growth: an expert that is new, or still locked, has its affinity multiplied by a gain that rises from 0 to 1 (the admission).

T tokens, D model width, E experts, K the most experts that one token may have.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from model.config import MoeConfig

MATURE = -1.0
"""`unlock_at` of an expert that takes full part."""


@dataclass(frozen=True)
class Routes:
    """The experts of each token, likeliest first: `weight_TK` and `index_TK`.

    `active_TK` says which of the K take part, always the first few of a row; None: all do. The weight of the others is 0.
    """

    weight_TK: Tensor
    index_TK: Tensor
    active_TK: Tensor | None = None
    affinity_TE: Tensor | None = None
    """What it was chosen from, for statistics."""

    def chosen(self) -> Tensor:
        """`index_TK` with -1 where no expert works."""
        return self.index_TK if self.active_TK is None else self.index_TK.masked_fill(~self.active_TK, -1)


@dataclass(frozen=True)
class Load:
    """What a router saw since the last step: each expert's share of the work (E,), and the mean of active experts a token."""

    share_E: Tensor
    active: float
    unlocked: Tensor
    """The experts that take part from the next step on, and did not before."""


class Router(nn.Module):
    """Affinities to all experts; the likeliest few are chosen by affinity plus a balancing bias, which chooses and never weighs.

    Sources: the bias, DeepSeek-V3, arXiv 2412.19437, section 2.1.2; the threshold and its proportional-integral controller,
    DTop-p, arXiv 2512.13996. Ours is one threshold a router, so each block holds the average by itself.
    """

    bias: Tensor
    admission: Tensor
    unlock_at: Tensor
    threshold: Tensor
    error: Tensor
    load: Tensor
    tokens: Tensor

    proportional, integral = 0.2, 0.2
    ramp = 0.05
    """Share of a run over which a newly unlocked expert's admission rises to 1."""

    def __init__(self, config: MoeConfig) -> None:
        super().__init__()
        experts = config.num_experts
        self.target = config.num_experts_per_tok
        self.least, self.most = config.experts_per_tok_bounds
        self.score, self.normalise = config.router_score, config.norm_topk_prob
        self.weight = nn.Parameter(torch.empty(experts, config.hidden_size))
        self.register_buffer("bias", torch.zeros(experts))
        self.register_buffer("admission", torch.ones(experts))
        self.register_buffer("unlock_at", torch.full((experts,), MATURE))
        self.register_buffer("threshold", torch.tensor(self.target / experts))
        self.register_buffer("error", torch.tensor(0.0))
        self.register_buffer("load", torch.zeros(experts), persistent=False)
        self.register_buffer("tokens", torch.tensor(0.0), persistent=False)

    @torch.no_grad()
    def reset(self, spread: float) -> None:
        """A router that has learned nothing."""
        nn.init.normal_(self.weight, std=spread)
        for buffer in (self.bias, self.error, self.load, self.tokens):
            nn.init.zeros_(buffer)
        nn.init.ones_(self.admission)
        nn.init.constant_(self.unlock_at, MATURE)
        nn.init.constant_(self.threshold, self.target / len(self.admission))

    @property
    def is_dynamic(self) -> bool:
        """Whether tokens differ in how many experts they have."""
        return self.least < self.most

    def affinity(self, x_TD: Tensor) -> Tensor:
        """Affinity of each token to each expert (T, E), not negative, in float32."""
        logit_TE = nn.functional.linear(x_TD, self.weight).float()
        if self.score == "sigmoid":
            return torch.sigmoid(logit_TE) * self.admission
        return torch.softmax(logit_TE + self.admission.log(), -1)

    def forward(self, x_TD: Tensor, real_T: Tensor | None = None) -> Routes:
        """The routes of each token; the weights of a token sum to 1 where the configuration says so.

        `real_T` is False for padding, which is routed like a token but is no load to balance; None: all are real.
        """
        affinity_TE = self.affinity(x_TD)
        preference_TE = affinity_TE.detach() + self.bias.masked_fill(self.admission == 0, -torch.inf)
        index_TK = preference_TE.topk(self.most, dim=-1).indices
        weight_TK = affinity_TE.gather(-1, index_TK)
        active_TK = self._active(affinity_TE, weight_TK, index_TK) if self.is_dynamic else None
        if active_TK is not None:
            weight_TK = weight_TK * active_TK
        if self.normalise:
            weight_TK = weight_TK / weight_TK.sum(-1, keepdim=True)
        routes = Routes(weight_TK.to(x_TD.dtype), index_TK, active_TK, affinity_TE.detach())
        if self.training:
            self._count(routes, real_T)
        return routes

    def _active(self, affinity_TE: Tensor, weight_TK: Tensor, index_TK: Tensor) -> Tensor:
        """The first experts that together cover the threshold's share of the token's affinity, within the bounds."""
        with torch.no_grad():
            share_TK = weight_TK / affinity_TE.sum(-1, keepdim=True)
            before_TK = share_TK.cumsum(-1) - share_TK
            active_TK = before_TK < self.threshold
            active_TK[:, : self.least] = True
            return active_TK & (self.admission[index_TK] > 0)

    @torch.no_grad()
    def _count(self, routes: Routes, real_T: Tensor | None) -> None:
        chosen_TK = routes.chosen() if real_T is None else routes.chosen()[real_T]
        self.load += torch.bincount(chosen_TK.flatten() + 1, minlength=len(self.load) + 1)[1:].to(self.load.dtype)
        self.tokens += len(chosen_TK)

    @torch.no_grad()
    def adjust(self, rate: float, progress: float) -> Load:
        """After a training step: balance, hold the budget, admit. `progress` is the share of the run's steps that are done."""
        share_E = self.load / self.load.sum().clamp(min=1)
        admitted = self.admission > 0
        self.bias += rate * torch.sign(1 / admitted.sum() - share_E) * admitted
        active = self.load.sum() / self.tokens.clamp(min=1)
        if self.is_dynamic and self.tokens > 0:
            error = (self.target - active) / self.target
            change = self.proportional * (error - self.error) + self.integral * error
            self.threshold.mul_(change.exp()).clamp_(min=1e-6, max=1.0)
            self.error.copy_(error)
        growing, locked = self.unlock_at > MATURE, self.admission == 0
        if growing.any():
            gain = ((progress - self.unlock_at) / self.ramp).clamp(0, 1)
            self.admission.copy_(torch.where(growing, gain, self.admission))
            self.unlock_at.masked_fill_(growing & (self.admission >= 1), MATURE)
        self.load.zero_()
        self.tokens.zero_()
        return Load(share_E, float(active), torch.nonzero(locked & (self.admission > 0)).flatten())


def routers(network: nn.Module) -> list[Router]:
    """The routers of a network, first block first."""
    return [module for module in network.modules() if isinstance(module, Router)]
