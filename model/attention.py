"""Causal attention within one sequence, with rotary positions and a cache. Knows nothing of experts.

B sequences, S new tokens, C cached and new tokens, H heads, D model width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers.cache_utils import Cache

from model.config import MoeConfig


class RotaryPositions(nn.Module):
    """Cosines and sines that turn query and key by an angle growing with position (RoFormer, arXiv 2104.09864)."""

    inverse_frequency: Tensor

    def __init__(self, config: MoeConfig) -> None:
        super().__init__()
        self.head_size = config.hidden_size // config.num_attention_heads
        self.theta = config.rope_theta
        self.register_buffer("inverse_frequency", self.frequencies(), persistent=False)

    def frequencies(self) -> Tensor:
        """One angle per step for each pair of features, (head_size / 2,)."""
        return self.theta ** (-torch.arange(0, self.head_size, 2, dtype=torch.float32) / self.head_size)

    def forward(self, position_BS: Tensor) -> tuple[Tensor, Tensor]:
        """Cosine and sine, each (B, 1, S, head_size)."""
        angle = position_BS[:, None, :, None].float() * self.inverse_frequency
        angle = torch.cat([angle, angle], dim=-1)
        return angle.cos(), angle.sin()


def rotate(x_BHSd: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Turn each pair of features by its position's angle."""
    first, second = x_BHSd.chunk(2, dim=-1)
    return x_BHSd * cosine.to(x_BHSd.dtype) + torch.cat([-second, first], dim=-1) * sine.to(x_BHSd.dtype)


def visible(mask_BC: Tensor | None, new: int, cached: int, device: torch.device) -> Tensor | None:
    """Which of the C tokens each new token may see, (B or 1, 1, S, C) of bool; None where plain causal order says it all."""
    if mask_BC is not None and bool(mask_BC.all()):
        mask_BC = None
    if mask_BC is None and (cached == 0 or new == 1):
        return None
    position = torch.arange(cached, cached + new, device=device)
    causal = position[:, None] >= torch.arange(cached + new, device=device)
    if mask_BC is None:
        return causal[None, None]
    # A padded query sees itself, so that its softmax is not over nothing; no real token ever sees it.
    itself = position[:, None] == torch.arange(cached + new, device=device)
    return (causal & mask_BC.bool()[:, None, None, :]) | itself


class CausalAttention(nn.Module):
    """Multi-head attention over the past of the same sequence, queries and keys normalised per head."""

    def __init__(self, config: MoeConfig, layer: int) -> None:
        super().__init__()
        self.layer, self.heads = layer, config.num_attention_heads
        size = config.hidden_size
        self.qkv = nn.Linear(size, 3 * size, bias=False)
        self.out = nn.Linear(size, size, bias=False)
        self.query_norm = nn.RMSNorm(size // self.heads, eps=config.rms_norm_eps)
        self.key_norm = nn.RMSNorm(size // self.heads, eps=config.rms_norm_eps)

    def forward(self, x_BSD: Tensor, rotary: tuple[Tensor, Tensor], mask: Tensor | None, cache: Cache | None) -> Tensor:
        """(B, S, D) to (B, S, D). `mask` comes from `visible`; `cache`, where given, is read and extended."""
        batch, new, width = x_BSD.shape
        query, key, value = self.qkv(x_BSD).view(batch, new, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        query, key = rotate(self.query_norm(query), *rotary), rotate(self.key_norm(key), *rotary)
        if cache is not None:
            key, value = cache.update(key, value, self.layer)
        plain_causal = mask is None and new > 1
        mixed = scaled_dot_product_attention(query, key, value, attn_mask=mask, is_causal=plain_causal)
        return self.out(mixed.transpose(1, 2).reshape(batch, new, width))
