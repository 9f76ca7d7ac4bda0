"""What the experts compute. Knows nothing of how tokens were assigned to them.

T tokens, D model width, E experts, K the most experts that one token may have, F hidden width of an expert, R rows of work:
one for each active expert of each token.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding_bag, grouped_mm, linear, silu

from model.communication import ExpertCommunication
from model.config import MoeConfig
from model.routing import Routes

FEW_ROWS = 64
"""Without a gradient, up to this many rows are multiplied one by one, as in decoding: there is little to group."""

CACHED = 3 << 18
"""So many elements of input, 3 MiB of float32, are worked on at a time: what one product writes, the next finds in the cache."""


class Experts(nn.Module):
    """E SwiGLU feed-forwards as two stacked weights, of which only the active experts' are read, and none is copied."""

    def __init__(self, config: MoeConfig) -> None:
        super().__init__()
        self.experts = config.num_experts
        size = config.moe_intermediate_size
        self.gate_up_EDF = nn.Parameter(torch.empty(self.experts, config.hidden_size, 2 * size))
        self.down_EFD = nn.Parameter(torch.empty(self.experts, size, config.hidden_size))
        self.communication = ExpertCommunication(config) if config.expert_communication else None

    def reset(self, spread: float) -> None:
        """Experts that have learned nothing."""
        nn.init.normal_(self.gate_up_EDF, std=spread)
        nn.init.normal_(self.down_EFD, std=spread)
        if self.communication is not None:
            self.communication.reset(spread)

    def forward(self, x_TD: Tensor, routes: Routes) -> Tensor:
        """The weighted sum of each token's active experts' outputs (T, D), and what these experts tell each other."""
        device = x_TD.device.type
        if not torch.is_autocast_enabled(device):
            return self._forward(x_TD, routes, self.gate_up_EDF, self.down_EFD)
        dtype = torch.get_autocast_dtype(device)
        with torch.autocast(device, enabled=False):
            return self._forward(x_TD.to(dtype), routes, self.gate_up_EDF.to(dtype), self.down_EFD.to(dtype))

    def _forward(self, x_TD: Tensor, routes: Routes, gate_up_EDF: Tensor, down_EFD: Tensor) -> Tensor:
        few = x_TD.device.type == "cpu" and routes.index_TK.numel() <= FEW_ROWS and not torch.is_grad_enabled()
        work = self._few if few else self._many
        return work(x_TD, routes.index_TK, routes.weight_TK.to(x_TD.dtype), routes.active_TK, gate_up_EDF, down_EFD)

    def _few(
        self,
        x_TD: Tensor,
        index_TK: Tensor,
        weight_TK: Tensor,
        active_TK: Tensor | None,
        gate_up_EDF: Tensor,
        down_EFD: Tensor,
    ) -> Tensor:
        """Each row by itself. With one token, as in decoding, every operation that is left out counts."""
        expert_R, weight_R = active_of(index_TK, active_TK), active_of(weight_TK, active_TK)
        if len(x_TD) == 1:
            slot_R, x_RD = None, x_TD.expand(len(expert_R), -1)
        else:
            slot_R = active_of(torch.arange(index_TK.numel()).view_as(index_TK), active_TK)
            x_RD = x_TD.index_select(0, slot_R // index_TK.shape[1])
        gate_RF, up_RF = rows_times(x_RD, gate_up_EDF, expert_R).chunk(2, dim=-1)
        y_RD = rows_times(silu(gate_RF).mul_(up_RF), down_EFD, expert_R)
        talk = self.communication
        if slot_R is None:
            out_TD = (y_RD * weight_R[:, None]).sum(0, keepdim=True)
            return out_TD if talk is None else out_TD.add_(talk.between(y_RD, weight_R))
        out_TD = torch.zeros_like(x_TD).index_add_(0, slot_R // index_TK.shape[1], y_RD * weight_R[:, None])
        return out_TD if talk is None else out_TD.add_(talk(y_RD, slot_R, weight_TK, active_TK))

    def _many(
        self,
        x_TD: Tensor,
        index_TK: Tensor,
        weight_TK: Tensor,
        active_TK: Tensor | None,
        gate_up_EDF: Tensor,
        down_EFD: Tensor,
    ) -> Tensor:
        """Rows sorted by expert, then by token."""
        slot_R = active_of(torch.arange(index_TK.numel(), device=x_TD.device).view_as(index_TK), active_TK)
        # 16 bits sort four times as fast as 64
        expert_R, order_R = active_of(index_TK, active_TK).short().sort(stable=True)
        slot_R = slot_R.index_select(0, order_R)
        weight_R = weight_TK.flatten().index_select(0, slot_R)
        token_R = slot_R // index_TK.shape[1]
        work = Work.of(token_R, torch.bincount(expert_R, minlength=self.experts), x_TD)
        if self.communication is None:
            return GroupedExperts.apply(x_TD, weight_R, gate_up_EDF, down_EFD, work)
        y_RD = GroupedExperts.apply(x_TD, None, gate_up_EDF, down_EFD, work)
        out_TD = torch.zeros_like(x_TD).index_add(0, token_R, y_RD * weight_R[:, None])
        return out_TD + self.communication(y_RD, slot_R, weight_TK, active_TK)


def active_of(each_TK: Tensor, active_TK: Tensor | None) -> Tensor:
    """What belongs to active experts (R,), token by token."""
    return each_TK.flatten() if active_TK is None else each_TK[active_TK]


def rows_times(x_RD: Tensor, weight_EDF: Tensor, expert_R: Tensor) -> Tensor:
    """Each row times its expert's matrix (R, F): the sum of the matrix's rows, weighted with the row's numbers.

    That is what an embedding bag computes, straight from the stacked weights, and for one token in less time than a product for
    each row takes. Without a gradient: detached, it does not prepare for one.
    """
    width = weight_EDF.shape[1]
    index_RD = expert_R[:, None] * width + torch.arange(width)
    return embedding_bag(index_RD, weight_EDF.detach().flatten(0, 1), mode="sum", per_sample_weights=x_RD)


@dataclass(frozen=True)
class Work:
    """Which rows are whose: `token_R` of rows that are sorted by expert, and where each expert's rows end."""

    token_R: Tensor
    ends_E: Tensor
    chunks: list[tuple[slice, slice]]
    """Experts and their rows that are worked on together."""
    learning: bool
    """Whether a backward will follow."""

    @staticmethod
    def of(token_R: Tensor, count_E: Tensor, x_TD: Tensor) -> Work:
        """On the CPU as many experts together as the cache holds, elsewhere all of them."""
        ends_E = count_E.cumsum(0)
        experts, rows = len(count_E), len(token_R)
        chunks = [(slice(0, experts), slice(0, rows))]
        if x_TD.device.type == "cpu" and rows:
            chunks, first, begin = [], 0, 0
            ends = ends_E.tolist()
            for expert, end in enumerate(ends):
                following = ends[expert + 1] if expert + 1 < experts else None
                if following is None or (following - begin) * x_TD.shape[1] > CACHED:
                    chunks.append((slice(first, expert + 1), slice(begin, end)))
                    first, begin = expert + 1, end
        return Work(token_R, ends_E.to(torch.int32), chunks, torch.is_grad_enabled())


class GroupedExperts(torch.autograd.Function):
    """`grouped_mm` for each run of rows: (T, D) to the weighted sum of each token's rows, or with no weight to all rows (R, D).

    The backward is written out so that what is between the products happens in place and in the cache, and that the weight's
    gradient is made once, in place. The slope of silu is kept from the forward, where its sigmoid is at hand.
    """

    @staticmethod
    def forward(
        ctx: Any, x_TD: Tensor, weight_R: Tensor | None, gate_up_EDF: Tensor, down_EFD: Tensor, work: Work
    ) -> Tensor:
        one = x_TD.new_ones(())
        kept: list[Tensor] = []
        out = torch.zeros_like(x_TD) if weight_R is not None else x_TD.new_empty(len(work.token_R), x_TD.shape[1])
        for experts, rows in work.chunks:
            token_r, ends = work.token_R[rows], work.ends_E[experts] - rows.start
            hidden_rF = grouped_mm(x_TD.index_select(0, token_r), gate_up_EDF[experts], offs=ends)
            gate_rF, up_rF = hidden_rF.chunk(2, dim=-1)
            slope_rF = torch.sigmoid(gate_rF)
            gate_rF.mul_(slope_rF)  # now silu(gate)
            product_rF = gate_rF * up_rF
            if work.learning:
                torch.lerp(gate_rF, one, slope_rF, out=slope_rF)  # silu' = silu + sigmoid * (1 - silu)
                kept += [hidden_rF, slope_rF]
            if weight_R is None:
                out[rows] = grouped_mm(product_rF, down_EFD[experts], offs=ends)
            else:
                product_rF.mul_(weight_R[rows, None])
                out.index_add_(0, token_r, grouped_mm(product_rF, down_EFD[experts], offs=ends))
        ctx.work = work
        ctx.save_for_backward(x_TD, weight_R, gate_up_EDF, down_EFD, *kept)
        return out

    @staticmethod
    def backward(ctx: Any, grad_out: Tensor) -> tuple[Tensor | None, ...]:
        x_TD, weight_R, gate_up_EDF, down_EFD, *kept = ctx.saved_tensors
        work: Work = ctx.work
        grad_x = torch.zeros_like(x_TD)
        grad_gate_up, grad_down = map(torch.empty_like, (gate_up_EDF, down_EFD))  # the chunks hold every expert
        grad_weight = None if weight_R is None else torch.zeros_like(weight_R)
        for (experts, rows), silu_up_rF, slope_rF in zip(work.chunks, kept[::2], kept[1::2], strict=True):
            token_r, ends = work.token_R[rows], work.ends_E[experts] - rows.start
            silu_rF, up_rF = silu_up_rF.chunk(2, dim=-1)
            grad_rD = grad_out[rows] if weight_R is None else grad_out.index_select(0, token_r)
            product_rF = silu_rF * up_rF
            grad_rF = grouped_mm(grad_rD, down_EFD[experts].transpose(1, 2), offs=ends)
            if weight_R is not None and grad_weight is not None:
                grad_weight[rows] = (grad_rF * product_rF).sum(-1)
                product_rF.mul_(weight_R[rows, None])
                grad_rF.mul_(weight_R[rows, None])
            grad_down[experts] = grouped_mm(product_rF.T, grad_rD, offs=ends)
            grad_hidden_rF = torch.empty_like(silu_up_rF)
            grad_gate_rF, grad_up_rF = grad_hidden_rF.chunk(2, dim=-1)
            torch.mul(grad_rF, silu_rF, out=grad_up_rF)
            torch.mul(grad_rF.mul_(up_rF), slope_rF, out=grad_gate_rF)
            grad_gate_up[experts] = grouped_mm(x_TD.index_select(0, token_r).T, grad_hidden_rF, offs=ends)
            grad_x.index_add_(0, token_r, grouped_mm(grad_hidden_rF, gate_up_EDF[experts].transpose(1, 2), offs=ends))
        return grad_x, grad_weight, grad_gate_up, grad_down, None


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
