"""Which experts work on which token. Knows nothing of what an expert computes.

T tokens, D model width, E experts, K experts a token.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Router(nn.Module):
    """Sigmoid affinities, top-K by affinity plus a balancing bias; the bias chooses, it never weighs.

    Balance comes from the bias alone, so no auxiliary loss bends the gradient: after each step an expert with more than
    the mean load is made a little less likely, one with less a little more likely.

    Source: DeepSeek-V3 technical report, arXiv 2412.19437, section 2.1.2.
    """

    bias: Tensor
    load: Tensor

    def __init__(self, hidden_size: int, experts: int, experts_per_token: int) -> None:
        super().__init__()
        self.experts_per_token = experts_per_token
        self.weight = nn.Parameter(torch.empty(experts, hidden_size))
        self.register_buffer("bias", torch.zeros(experts))
        self.register_buffer("load", torch.zeros(experts), persistent=False)

    def forward(self, x_TD: Tensor, real_T: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return the weights (T, K), summing to 1 for each token, and the expert indices (T, K).

        `real_T` is False for padding, which is routed like a token but is no load to balance; None: all are real.
        """
        affinity_TE = torch.sigmoid(torch.nn.functional.linear(x_TD, self.weight).float())
        index_TK = (affinity_TE + self.bias).topk(self.experts_per_token, dim=-1).indices
        weight_TK = affinity_TE.gather(-1, index_TK)
        weight_TK = weight_TK / weight_TK.sum(-1, keepdim=True)
        if self.training:
            counted = index_TK if real_T is None else index_TK[real_T]
            self.load += torch.bincount(counted.flatten(), minlength=self.bias.numel()).to(self.load.dtype)
        return weight_TK.to(x_TD.dtype), index_TK

    @torch.no_grad()
    def balance(self, rate: float) -> Tensor:
        """Move the bias one step against the load counted since the last call. Returns that load as shares of the whole (E,)."""
        share = self.load / self.load.sum().clamp(min=1)
        self.bias += rate * torch.sign(share.mean() - share)
        self.load.zero_()
        return share


def balance(network: nn.Module, rate: float) -> list[Tensor]:
    """`Router.balance` on every router of a network; one load (E,) for each, first block first."""
    return [module.balance(rate) for module in network.modules() if isinstance(module, Router)]
