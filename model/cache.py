"""What one block remembers of a sequence, for all three axes of its attention. Knows nothing of how it is used.

A `transformers` cache whose layers are `ThreeAxisLayer`s: `generate`, beams and repeated rows work as with any other cache.

B sequences, H key heads, W tokens held, d features a head, D model width, G segments.
"""

from __future__ import annotations

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin


class ThreeAxisLayer(CacheLayerMixin):
    """The state of one block, by name; every tensor's first dimension is the batch.

    Spatial: `key` and `value` (B, H, W, d) of the latest tokens. Temporal: `segment_key`, `segment_value` (B, H, G, d) sums and
    `segment_count` (B, G). Channel: `past_sum` (B, D) and `past_count` (B). The first block also holds where the segments stand.
    """

    is_sliding = False

    def __init__(self, window: int | None = None) -> None:
        super().__init__()
        self.window = window
        self.state: dict[str, Tensor] = {}
        self.length = 0

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Nothing is laid out beforehand."""
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *args: object, **_: object) -> tuple[Tensor, Tensor]:
        """Append new keys and values (B, H, S, d). Returns those held before and them; holds what a next token may see."""
        self.is_initialized = True
        if "key" in self.state:
            key_states = torch.cat([self.state["key"], key_states], dim=2)
            value_states = torch.cat([self.state["value"], value_states], dim=2)
        self.length += key_states.shape[2] - self.held
        first = 0 if self.window is None else max(0, key_states.shape[2] - self.window + 1)
        self.state["key"], self.state["value"] = key_states[:, :, first:], value_states[:, :, first:]
        return key_states, value_states

    @property
    def held(self) -> int:
        """Tokens whose keys are kept."""
        return self.state["key"].shape[2] if "key" in self.state else 0

    def get_seq_length(self) -> int:
        """Tokens seen so far."""
        return self.length

    def get_max_length(self) -> int:
        """No limit."""
        return -1

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Length and offset of the keys that new tokens meet."""
        return self.held + query_length, self.length - self.held

    def reset(self) -> None:
        """Forget the sequence."""
        self.state.clear()
        self.length, self.is_initialized = 0, False

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Take the rows in another order."""
        self.batch_select_indices(beam_idx)

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep these rows."""
        self.state = {name: tensor[indices.to(tensor.device)] for name, tensor in self.state.items()}

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat every row."""
        self.state = {name: tensor.repeat_interleave(repeats, dim=0) for name, tensor in self.state.items()}


def adopt(cache: Cache, layers: int, window: int | None) -> Cache:
    """Give an empty cache of any kind our layers; one that has them stays as it is.

    Raises TypeError for a cache that was filled by another model.
    """
    if not all(isinstance(layer, ThreeAxisLayer) for layer in cache.layers) or not cache.layers:
        if any(getattr(layer, "is_initialized", True) for layer in cache.layers):
            raise TypeError("this cache was filled by another model")
        cache.layers = [ThreeAxisLayer(window) for _ in range(layers)]
    return cache


def layer_of(cache: Cache | None, layer: int) -> ThreeAxisLayer | None:
    """The state of one block; None without a cache."""
    found = cache.layers[layer] if cache is not None else None
    assert found is None or isinstance(found, ThreeAxisLayer)
    return found
