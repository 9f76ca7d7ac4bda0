"""Experts that work on the same token exchange what they found. Knows nothing of how they were chosen or of what they compute.

T tokens, D model width, K the most experts that one token may have, C width of the exchange, R rows of work: one for each
active expert of each token.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, softmax

from model.config import MoeConfig


class ExpertCommunication(nn.Module):
    """Sparse attention among the active experts of one token, and only those.

    Each active expert asks with its output and reads from the others' outputs; what all of them read, weighted like their outputs
    and summed, is added to the token's output. The projection back to the model's width is linear, so it is applied once a
    token, not once an expert. It is zero at the start: a fresh communication changes nothing.
    """

    def __init__(self, config: MoeConfig) -> None:
        super().__init__()
        self.width = config.expert_communication
        self.query_key_value = nn.Parameter(torch.empty(3 * self.width, config.hidden_size))
        self.out = nn.Parameter(torch.empty(config.hidden_size, self.width))

    def reset(self, spread: float) -> None:
        """A communication that changes nothing yet."""
        nn.init.normal_(self.query_key_value, std=spread)
        nn.init.zeros_(self.out)

    def forward(self, y_RD: Tensor, slot_R: Tensor, weight_TK: Tensor, active_TK: Tensor | None = None) -> Tensor:
        """What a token's experts tell each other (T, D).

        `y_RD` is the output of each active expert, unweighted; `slot_R` its place in the flattened (T, K). `weight_TK` is 0 for
        experts that are not active, and `active_TK` says which are; None: all.
        """
        tokens, experts = weight_TK.shape
        row_RC = linear(y_RD, self.query_key_value.to(y_RD.dtype))
        all_SC = row_RC.new_zeros(tokens * experts, 3 * self.width).index_copy(0, slot_R, row_RC)
        query_TKC, key_TKC, value_TKC = all_SC.view(tokens, experts, 3 * self.width).chunk(3, dim=-1)
        score_TKK = query_TKC @ key_TKC.transpose(1, 2) * self.width**-0.5
        if active_TK is not None:
            score_TKK = score_TKK.masked_fill(~active_TK[:, None, :], torch.finfo(score_TKK.dtype).min)
            weight_TK = weight_TK * active_TK
        # what all experts read together, as a share of each expert's value
        read_T1K = weight_TK[:, None, :] @ softmax(score_TKK, -1)
        return linear((read_T1K @ value_TKC).squeeze(1), self.out.to(y_RD.dtype))

    def between(self, y_RD: Tensor, weight_R: Tensor) -> Tensor:
        """`forward` for the active experts of one token (1, D), in fewer steps."""
        query_RC, key_RC, value_RC = linear(y_RD, self.query_key_value.to(y_RD.dtype)).chunk(3, dim=-1)
        share_RR = softmax(query_RC @ key_RC.T * self.width**-0.5, -1)
        return linear(weight_R[None] @ share_RR @ value_RC, self.out.to(y_RD.dtype))
