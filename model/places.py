"""Where the new tokens stand in their sequences: positions, segments, and what each may see. Worked out once for all blocks.

Knows nothing of features. B sequences, S new tokens, C tokens held in the cache, W window, K keys, G segments.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from model.cache import ThreeAxisLayer
from model.config import MoeConfig

Turn = tuple[Tensor, Tensor]
"""Cosine and sine of rotary positions, each (B or 1, 1, S, head size)."""


@dataclass(frozen=True)
class Segments:
    """`of_BS` numbers each token's segment from 0, padding -1; `total` counts them over the longest row, the open one included."""

    of_BS: Tensor
    total: int
    turn: Turn
    turn_G: Turn


@dataclass(frozen=True)
class Places:
    """All that attention needs to know of places. `mask` is None where plain causal order says it all.

    With `blocks`, queries come in blocks of a window, and the mask is (B * blocks, 1, W, 2W); else it is (B or 1, 1, S, K).
    """

    turn: Turn
    mask: Tensor | None
    blocks: int
    real_BS: Tensor | None
    segments: Segments | None


class Rotary(nn.Module):
    """Cosines and sines that turn query and key by an angle growing with position (RoFormer, arXiv 2104.09864)."""

    inverse_frequency: Tensor

    def __init__(self, config: MoeConfig) -> None:
        super().__init__()
        self.config = config
        frequency, self.scale = self.frequencies()
        self.register_buffer("inverse_frequency", frequency, persistent=False)

    def frequencies(self) -> tuple[Tensor, float]:
        """One angle per step for each pair of features, (head size / 2,), and the scale of cosine and sine."""
        rope = self.config.rope_parameters
        if rope["rope_type"] != "default":
            return ROPE_INIT_FUNCTIONS[rope["rope_type"]](self.config)
        size = self.config.head_dim
        return 1.0 / rope["rope_theta"] ** (torch.arange(0, size, 2, dtype=torch.float32) / size), 1.0

    def forward(self, position_BS: Tensor) -> Turn:
        """Cosine and sine, each (B, 1, S, head size), in float32."""
        angle = position_BS[:, None, :, None].float() * self.inverse_frequency
        angle = torch.cat([angle, angle], dim=-1)
        return angle.cos() * self.scale, angle.sin() * self.scale


def turned(x_BHSd: Tensor, turn: Turn) -> Tensor:
    """Turn each pair of features by its position's angle."""
    cosine, sine = turn
    first, second = x_BHSd.chunk(2, dim=-1)
    return x_BHSd * cosine.to(x_BHSd.dtype) + torch.cat([-second, first], dim=-1) * sine.to(x_BHSd.dtype)


def visible(mask_BK: Tensor | None, new: int, held: int, window: int | None, device: torch.device) -> Tensor | None:
    """Which of `held + new` keys each of the last `new` tokens may see, (B or 1, 1, S, K) of bool; None: plain causal order."""
    if mask_BK is not None and bool(mask_BK.all()):
        mask_BK = None
    within = window is None or held + new <= window
    if mask_BK is None and within and (held == 0 or new == 1):
        return None
    key = torch.arange(held + new, device=device)
    query = key[held:, None]
    seen = key <= query
    if window is not None:
        seen &= key > query - window
    if mask_BK is None:
        return seen[None, None]
    # A padded query sees itself, so that its softmax is not over nothing; no real token ever sees it.
    return ((seen & mask_BK.bool()[:, None, :]) | (key == query))[:, None]


def visible_in_blocks(
    mask_BK: Tensor | None, new: int, held: int, window: int, batch: int, device: torch.device
) -> Tensor:
    """The same for queries in blocks of W, each of which meets its own block and the one before: (B * blocks, 1, W, 2W)."""
    blocks = -(-new // window)
    real = torch.zeros(batch, (blocks + 1) * window, dtype=torch.bool, device=device)
    real[:, window - held : window + new] = True if mask_BK is None else mask_BK.bool()
    key, query = torch.arange(2 * window, device=device), torch.arange(window, 2 * window, device=device)[:, None]
    seen = (key <= query) & (key > query - window)
    real_BnK = real.unfold(1, 2 * window, window)
    mask = (seen & real_BnK[:, :, None, :]) | (key == query)
    return mask.view(batch * blocks, 1, window, 2 * window)


def segments_of(
    token_BS: Tensor, real_BS: Tensor | None, ends: Tensor, longest: int, past: ThreeAxisLayer | None
) -> Tensor:
    """The segment of each token (B, S), numbered from 0 in its sequence, padding -1; `past` is read and brought up to date.

    A segment ends with one of the tokens `ends`, and at the latest after `longest` tokens. Padding stands on the left.
    """
    batch = len(token_BS)
    state = past.state if past is not None else {}
    zero = token_BS.new_zeros(batch)
    run, number, ended = (state.get(name, zero) for name in ("segment_run", "segment_number", "segment_ended"))
    real = torch.ones_like(token_BS, dtype=torch.bool) if real_BS is None else real_BS
    is_end = torch.isin(token_BS, ends) & real
    after_end = torch.cat([ended.bool()[:, None], is_end[:, :-1]], dim=1)
    # Places count from the start of a paragraph, which may lie in the cache, `run` tokens back.
    count = real.long().cumsum(1)
    start = torch.where(after_end, count - 1, -run[:, None]).cummax(1).values
    place = count - 1 - start
    first = (place % longest == 0) & real
    segment = number[:, None] + first.long().cumsum(1)
    if past is not None:
        past.state["segment_run"], past.state["segment_number"] = place[:, -1] + 1, segment[:, -1]
        past.state["segment_ended"] = is_end[:, -1].long()
    return (segment - 1).masked_fill(~real, -1)
