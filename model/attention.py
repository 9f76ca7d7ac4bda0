"""Attention along three axes of one sequence, each causal. Knows nothing of experts.

- Spatial: a token attends to the tokens of a window before it, one by one.
- Temporal: it attends to summaries of the segments (paragraphs) that closed before its own.
- Channel: its features are gated by a running mean of all that came before.
What it costs grows linearly with length: the window, the number of segments and the mean are bounded.

With no window, no segments and no gate this is the attention of Llama and Qwen, and their weights fit it as they are.

B sequences, S new tokens, D model width, H query heads, h key heads, d features a head, W window, G segments.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from model.cache import ThreeAxisLayer
from model.config import MoeConfig
from model.places import Places, Segments, turned

QUERIES_AT_ONCE = 512
"""Where segments are many, so many queries are taken at a time, with only the segments that they may see."""


class ThreeAxisAttention(nn.Module):
    """The sum of the spatial and the temporal axis, gated by the channel axis.

    An axis that the configuration leaves out costs nothing; a fresh temporal or channel axis changes nothing until it is trained.
    """

    def __init__(self, config: MoeConfig) -> None:
        super().__init__()
        self.heads, self.key_heads, self.size = config.num_attention_heads, config.num_key_value_heads, config.head_dim
        self.window = config.attention_window
        width = (self.heads + 2 * self.key_heads) * self.size
        self.qkv = nn.Linear(config.hidden_size, width, bias=config.attention_bias)
        self.out = nn.Linear(self.heads * self.size, config.hidden_size, bias=config.attention_out_bias)
        norm = config.qk_norm
        self.query_norm = nn.RMSNorm(self.size, eps=config.rms_norm_eps) if norm else nn.Identity()
        self.key_norm = nn.RMSNorm(self.size, eps=config.rms_norm_eps) if norm else nn.Identity()
        self.temporal = TemporalAttention(config) if config.attention_segment else None
        self.gate = ChannelGate(config.hidden_size) if config.channel_gate else None

    def forward(self, x_BSD: Tensor, places: Places, past: ThreeAxisLayer | None) -> Tensor:
        """(B, S, D) to (B, S, D). `past`, where given, is read and extended."""
        batch, new, _ = x_BSD.shape
        rows = self.qkv(x_BSD).view(batch, new, -1, self.size).transpose(1, 2)
        query, key, value = rows.split([self.heads, self.key_heads, self.key_heads], dim=1)
        query, key = self.query_norm(query), self.key_norm(key)
        mixed = self._spatial(turned(query, places.turn), turned(key, places.turn), value, places, past)
        y_BSD = self.out(joined(mixed))
        if self.temporal is not None and places.segments is not None:
            y_BSD = y_BSD + self.temporal(x_BSD, key, value, places.segments, past)
        if self.gate is not None:
            y_BSD = y_BSD * self.gate(x_BSD, places.real_BS, past)
        return y_BSD

    def _spatial(
        self, query: Tensor, key: Tensor, value: Tensor, places: Places, past: ThreeAxisLayer | None
    ) -> Tensor:
        new = query.shape[2]
        if past is not None:
            key, value = past.update(key, value)
        if not places.blocks:
            plain_causal = places.mask is None and new > 1
            return attend(query, key, value, places.mask, plain_causal)
        assert self.window is not None
        held = key.shape[2] - new
        query = in_blocks(query, 0, self.window, self.window, places.blocks)
        key, value = (
            in_blocks(x, self.window - held, 2 * self.window, self.window, places.blocks) for x in (key, value)
        )
        mixed = attend(query, key, value, places.mask, False)
        return mixed.unflatten(0, (-1, places.blocks)).transpose(1, 2).flatten(2, 3)[:, :, :new]


def in_blocks(x_BHSd: Tensor, before: int, size: int, step: int, blocks: int) -> Tensor:
    """Runs of `size` tokens, one each `step`, as rows: (B * blocks, H, size, d); zeros stand before and after."""
    batch, heads, tokens, features = x_BHSd.shape
    after = (blocks - 1) * step + size - before - tokens
    padded = nn.functional.pad(x_BHSd, (0, 0, before, after))
    runs = padded.unfold(2, size, step)  # (B, H, blocks, d, size)
    return runs.permute(0, 2, 1, 4, 3).reshape(batch * blocks, heads, size, features)


def attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, causal: bool) -> Tensor:
    """Scaled dot-product attention, each key head shared by a group of query heads."""
    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    return scaled_dot_product_attention(query, key, value, attn_mask=mask, is_causal=causal)


def joined(x_BHSd: Tensor) -> Tensor:
    """The heads side by side, (B, S, H * d)."""
    return x_BHSd.transpose(1, 2).flatten(2)


class TemporalAttention(nn.Module):
    """Attention to closed segments, each summarised by the mean of its keys and of its values.

    Positions are counted in segments. Beside the segments stands a place with nothing to say, so that a token may look away, and
    the first segment has something to look at.
    """

    def __init__(self, config: MoeConfig) -> None:
        super().__init__()
        self.heads, self.size, self.most = config.num_attention_heads, config.head_dim, config.max_segments
        self.query = nn.Linear(config.hidden_size, self.heads * self.size, bias=False)
        self.out = nn.Linear(self.heads * self.size, config.hidden_size, bias=False)

    def forward(
        self, x_BSD: Tensor, key: Tensor, value: Tensor, segments: Segments, past: ThreeAxisLayer | None
    ) -> Tensor:
        """(B, S, D) to (B, S, D); `key` and `value` (B, h, S, d) are the spatial axis', without positions."""
        key, value = self._summaries(key, value, segments, past)
        key = turned(key, segments.turn_G)
        query = self.query(x_BSD).unflatten(-1, (self.heads, self.size)).transpose(1, 2)
        query = turned(query, segments.turn)
        if segments.total <= self.most:
            return self.out(joined(self._look(query, key, value, segments.of_BS, 0)))
        parts = []
        for start in range(0, query.shape[2], QUERIES_AT_ONCE):
            some = slice(start, start + QUERIES_AT_ONCE)
            of_BS = segments.of_BS[:, some]
            low = max(0, int(of_BS.min()) - self.most)
            seen = slice(low, max(low + 1, int(of_BS.max())))
            parts.append(self._look(query[:, :, some], key[:, :, seen], value[:, :, seen], of_BS, low))
        return self.out(joined(torch.cat(parts, dim=2)))

    def _summaries(
        self, key: Tensor, value: Tensor, segments: Segments, past: ThreeAxisLayer | None
    ) -> tuple[Tensor, Tensor]:
        """Mean key and value of each segment so far, (B, h, G, d) both."""
        batch, heads, _, size = key.shape
        of_BS = segments.of_BS
        sums = []
        for name, tensor in (("segment_key", key), ("segment_value", value)):
            total = self._held(name, (batch, heads, segments.total, size), tensor, past)
            where = of_BS.clamp(min=0)[:, None, :, None].expand_as(tensor)
            sums.append(total.scatter_add(2, where, tensor * (of_BS >= 0)[:, None, :, None].to(tensor.dtype)))
        count = self._held("segment_count", (batch, segments.total), key, past)
        count = count.scatter_add(1, of_BS.clamp(min=0), (of_BS >= 0).to(key.dtype))
        if past is not None:
            past.state["segment_key"], past.state["segment_value"], past.state["segment_count"] = *sums, count
        per = count.clamp(min=1)[:, None, :, None]
        return sums[0] / per, sums[1] / per

    @staticmethod
    def _held(name: str, shape: tuple[int, ...], like: Tensor, past: ThreeAxisLayer | None) -> Tensor:
        """The sums in the cache with room for the new segments; zeros where there are none."""
        held = past.state.get(name) if past is not None else None
        if held is None:
            return like.new_zeros(shape)
        segments = 2 if len(shape) == 4 else 1
        more = shape[segments] - held.shape[segments]
        return nn.functional.pad(held, (0, 0, 0, more) if segments == 2 else (0, more))

    def _look(self, query: Tensor, key: Tensor, value: Tensor, of_BS: Tensor, low: int) -> Tensor:
        """Attend to those of the segments from `low` on that are closed and recent enough."""
        number_G = torch.arange(low, low + key.shape[2], device=key.device)
        of = of_BS[:, None, :, None]
        seen = (number_G < of) & (number_G >= of - self.most)
        key, value = (nn.functional.pad(x, (0, 0, 1, 0)) for x in (key, value))
        return attend(query, key, value, nn.functional.pad(seen, (1, 0), value=True), False)


class ChannelGate(nn.Module):
    """Scales each feature by 0 to 2, as the running mean of the sequence so far asks; 1 until it is trained."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.weigh = nn.Linear(hidden_size, hidden_size, bias=False)

    def forward(self, x_BSD: Tensor, real_BS: Tensor | None, past: ThreeAxisLayer | None) -> Tensor:
        """The gate (B, S, D). Padding is no part of the mean; a token is part of its own."""
        real = x_BSD.new_ones(x_BSD.shape[:2]) if real_BS is None else real_BS.to(x_BSD.dtype)
        total = (x_BSD * real[..., None]).float().cumsum(1)
        count = real.float().cumsum(1)
        if past is not None:
            if "past_sum" in past.state:
                total, count = total + past.state["past_sum"][:, None], count + past.state["past_count"][:, None]
            past.state["past_sum"], past.state["past_count"] = total[:, -1], count[:, -1]
        mean = (total / count.clamp(min=1)[..., None]).to(x_BSD.dtype)
        return 2 * torch.sigmoid(self.weigh(mean))
