"""The whole: embedding, blocks of attention and experts, logits. A `transformers` model; knows nothing of labels or training.

B sequences, S tokens, D model width, V vocabulary, L blocks.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, GenerationMixin, PreTrainedModel
from transformers.cache_utils import Cache, DynamicCache
from transformers.modeling_outputs import ModelOutput

from model.attention import ChannelGate, TemporalAttention, ThreeAxisAttention
from model.cache import ThreeAxisLayer, adopt, layer_of
from model.config import MoeConfig
from model.experts import Experts, SharedExpert
from model.places import Places, Rotary, Segments, segments_of, visible, visible_in_blocks
from model.routing import Router, Routes
from model.statistics import RouterStatistics, router_statistics


class MoeBlock(nn.Module):
    """Pre-norm attention, then pre-norm experts, each added to the residual stream. A dense block has only the shared expert."""

    def __init__(self, config: MoeConfig, layer: int) -> None:
        super().__init__()
        size, dense = config.hidden_size, layer in config.dense_layers
        self.attention_norm = nn.RMSNorm(size, eps=config.rms_norm_eps)
        self.attention = ThreeAxisAttention(config)
        self.expert_norm = nn.RMSNorm(size, eps=config.rms_norm_eps)
        self.router = None if dense else Router(config)
        self.experts = None if dense else Experts(config)
        shared = config.intermediate_size if dense else config.shared_expert_size
        self.shared = SharedExpert(size, shared) if shared else None

    def forward(
        self, x_BSD: Tensor, places: Places, past: ThreeAxisLayer | None, real_T: Tensor | None
    ) -> tuple[Tensor, Routes | None]:
        """Return the new residual stream (B, S, D) and the routes of its tokens, row by row; None from a dense block."""
        x_BSD = x_BSD + self.attention(self.attention_norm(x_BSD), places, past)
        x_TD = self.expert_norm(x_BSD).flatten(0, 1)
        y_BSD, routes = x_BSD, None
        if self.router is not None and self.experts is not None:
            routes = self.router(x_TD, real_T)
            y_BSD = y_BSD + self.experts(x_TD, routes).view_as(x_BSD)
        if self.shared is not None:
            y_BSD = y_BSD + self.shared(x_TD).view_as(x_BSD)
        return y_BSD, routes


@dataclass
class MoeOutput(ModelOutput):
    """`logits` (B, S or fewer, V); `loss` where labels were given; `router` where statistics were asked for.

    `experts` (L, B, S, K) are the chosen experts of the blocks that have any, -1 where a token has fewer than K.
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    past_key_values: Cache | None = None
    experts: Tensor | None = None
    router: RouterStatistics | None = None


class MoeForCausalLM(PreTrainedModel, GenerationMixin):
    """A decoder language model whose feed-forwards are mixtures of experts."""

    config_class = MoeConfig
    config: MoeConfig
    base_model_prefix = "model"
    main_input_name = "input_ids"
    _tied_weights_keys = {"lm_head.weight": "embed.weight"}  # noqa: RUF012
    _supports_sdpa = True
    _no_split_modules = ["MoeBlock"]  # noqa: RUF012

    def __init__(self, config: MoeConfig) -> None:
        super().__init__(config)
        self.embed = nn.Embedding(config.vocab_size, config.hidden_size)
        self.rotary = Rotary(config)
        self.blocks = nn.ModuleList(MoeBlock(config, layer) for layer in range(config.num_hidden_layers))
        self.norm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.blank_share = config.token_dropout
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        spread = self.config.initializer_range
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.normal_(module.weight, std=spread)
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.RMSNorm):
            nn.init.ones_(module.weight)
        elif isinstance(module, Router | Experts):
            module.reset(spread)
        elif isinstance(module, TemporalAttention):  # comes after its parts: fresh axes change nothing
            nn.init.zeros_(module.out.weight)
        elif isinstance(module, ChannelGate):
            nn.init.zeros_(module.weigh.weight)
        elif isinstance(module, Rotary):
            module.inverse_frequency.copy_(module.frequencies()[0])

    def get_input_embeddings(self) -> nn.Embedding:
        """The token embedding; tied to the output."""
        return self.embed

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the token embedding."""
        self.embed = value  # type: ignore[assignment]

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        output_router_statistics: bool = False,
        **_: Any,
    ) -> MoeOutput:
        """Next-token logits.

        Args:
            input_ids: (B, S) tokens.
            attention_mask: (B, cached + S), 0 where a token is padding; None when there is none.
            position_ids: (B, S); counted from the mask or the cache when None.
            past_key_values: cache of earlier tokens, extended in place.
            labels: (B, S) tokens to predict, -100 to leave one out; shifted here.
            use_cache: make a cache where none was given.
            logits_to_keep: logits of the last this many positions only, or of the positions given; 0 means all.
            output_router_statistics: also say how the routers spread the real tokens.
        """
        if use_cache and past_key_values is None:
            past_key_values = DynamicCache()
        x_BSD, routes = self._blocks(input_ids, attention_mask, position_ids, past_key_values)
        keep = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self.lm_head(x_BSD[:, keep])
        loss = self.loss_function(logits, labels, self.config.vocab_size) if labels is not None else None
        statistics = None
        if output_router_statistics:
            mask = None if attention_mask is None else attention_mask[:, -input_ids.shape[1] :].bool().flatten()
            statistics = router_statistics(routes, mask, self.config.num_experts)
        return MoeOutput(loss, logits, past_key_values, chosen(routes, input_ids), statistics)

    def trunk(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
    ) -> tuple[Tensor, Tensor]:
        """All but the logits: hidden states (B, S, D) after the last norm, and the chosen experts (L, B, S, K)."""
        x_BSD, routes = self._blocks(input_ids, attention_mask, position_ids, past_key_values)
        return x_BSD, chosen(routes, input_ids)

    def _blocks(
        self,
        token_BS: Tensor,
        mask: Tensor | None,
        position_BS: Tensor | None,
        cache: Cache | None,
    ) -> tuple[Tensor, list[Routes]]:
        if cache is not None:
            adopt(cache, len(self.blocks), self.config.attention_window)
        places = self._places(token_BS, mask, position_BS, layer_of(cache, 0))
        pad = self.config.pad_token_id
        real_T = (token_BS != pad).flatten() if self.training and pad is not None else None
        x_BSD, found = self.embed(token_BS), []
        if self.training and self.blank_share:
            x_BSD = some_blank(x_BSD, self.blank_share)
        for layer, block in enumerate(self.blocks):
            x_BSD, routes = block(x_BSD, places, layer_of(cache, layer), real_T)
            if routes is not None:
                found.append(routes)
        return self.norm(x_BSD), found

    def _places(
        self, token_BS: Tensor, mask: Tensor | None, position_BS: Tensor | None, past: ThreeAxisLayer | None
    ) -> Places:
        config, device = self.config, token_BS.device
        batch, new = token_BS.shape
        cached, held = (past.length, past.held) if past is not None else (0, 0)
        if position_BS is None:
            position_BS = positions(mask, new, cached, device)
        window = config.attention_window
        recent = None if mask is None else mask[:, -(held + new) :]
        blocks = 0 if window is None or new <= window else -(-new // window)
        if blocks and window is not None:
            sees: Tensor | None = visible_in_blocks(recent, new, held, window, batch, device)
        else:
            sees = visible(recent, new, held, window, device)
        real_BS = None if mask is None else mask[:, -new:].bool()
        segments = None
        if config.attention_segment:
            ends = torch.tensor(config.segment_end_token_ids, device=device, dtype=token_BS.dtype)
            of_BS = segments_of(token_BS, real_BS, ends, config.attention_segment, past)
            total = max(1, int(of_BS.max()) + 1)
            numbers = torch.arange(total, device=device)[None]
            segments = Segments(of_BS, total, self.rotary(of_BS.clamp(min=0)), self.rotary(numbers))
        return Places(self.rotary(position_BS), sees, blocks, real_BS, segments)


@contextmanager
def whole_texts(network: MoeForCausalLM) -> Iterator[None]:
    """Inside, training leaves no token blank: where an answer is held against another network's, chance is no difference."""
    share, network.blank_share = network.blank_share, 0.0
    try:
        yield
    finally:
        network.blank_share = share


def some_blank(x_BSD: Tensor, share: float) -> Tensor:
    """Leave tokens out whole, so that no answer hangs on one word of a text that training shows again and again.

    Source: Gal and Ghahramani, arXiv 1512.05287, section 4.2, without their scaling: the norm that follows undoes it.
    """
    return x_BSD * (torch.rand(*x_BSD.shape[:-1], 1, device=x_BSD.device) >= share)


def positions(mask: Tensor | None, new: int, cached: int, device: torch.device) -> Tensor:
    """Positions of the new tokens, (B or 1, S): counted over real tokens where a mask says which they are."""
    if mask is not None:
        return (mask.long().cumsum(-1) - 1).clamp(min=0)[:, -new:]
    return torch.arange(cached, cached + new, device=device)[None]


def chosen(routes: list[Routes], token_BS: Tensor) -> Tensor:
    """The chosen experts (L, B, S, K) of the blocks that route."""
    if not routes:
        return token_BS.new_empty(0, *token_BS.shape, 0)
    return torch.stack([one.chosen().view(*token_BS.shape, -1) for one in routes])


AutoModelForCausalLM.register(MoeConfig, MoeForCausalLM, exist_ok=True)
