"""What the experts compute. Knows nothing of how tokens were assigned to them.

T tokens, D model width, E experts, K experts a token, F hidden width of an expert, R = T * K rows of work.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import grouped_mm, linear, silu


class Experts(nn.Module):
    """E SwiGLU feed-forwards as two stacked weights, so that one grouped product serves all of them.

    Rows are sorted by expert and `grouped_mm` multiplies each run of rows by its expert's matrix: no padding, no loop,
    and only the chosen experts are touched.
    """

    def __init__(self, hidden_size: int, experts: int, expert_size: int) -> None:
        super().__init__()
        self.experts = experts
        self.gate_up_EDF = nn.Parameter(torch.empty(experts, hidden_size, 2 * expert_size))
        self.down_EFD = nn.Parameter(torch.empty(experts, expert_size, hidden_size))

    def forward(self, x_TD: Tensor, weight_TK: Tensor, index_TK: Tensor) -> Tensor:
        """Return the weighted sum (T, D) of the K chosen experts' outputs for each token."""
        tokens, chosen = index_TK.shape
        expert_R, order_R = index_TK.flatten().sort()
        ends_E = torch.bincount(expert_R, minlength=self.experts).cumsum(0).to(torch.int32)
        x_RD = x_TD[order_R // chosen]
        gate_RF, up_RF = grouped_mm(x_RD, self.gate_up_EDF, offs=ends_E).chunk(2, dim=-1)
        y_RD = grouped_mm(silu(gate_RF) * up_RF, self.down_EFD, offs=ends_E)
        back_R = torch.empty_like(order_R).scatter_(0, order_R, torch.arange(order_R.numel(), device=order_R.device))
        return (weight_TK.unsqueeze(1) @ y_RD[back_R].view(tokens, chosen, -1)).squeeze(1)


class SharedExpert(nn.Module):
    """One SwiGLU feed-forward that every token passes: what all texts have in common need not be learned E times.

    Source: DeepSeekMoE, arXiv 2401.06066, section 3.2.
    """

    def __init__(self, hidden_size: int, expert_size: int) -> None:
        super().__init__()
        self.gate_up = nn.Linear(hidden_size, 2 * expert_size, bias=False)
        self.down = nn.Linear(expert_size, hidden_size, bias=False)

    def forward(self, x_TD: Tensor) -> Tensor:
        """(T, D) to (T, D)."""
        gate_TF, up_TF = linear(x_TD, self.gate_up.weight).chunk(2, dim=-1)
        return self.down(silu(gate_TF) * up_TF)
