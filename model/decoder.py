"""The whole: embedding, blocks of attention and experts, logits. A `transformers` model; knows nothing of labels or training.

B sequences, S tokens, D model width, V vocabulary, L blocks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, GenerationMixin, PreTrainedModel
from transformers.cache_utils import Cache, DynamicCache
from transformers.modeling_outputs import ModelOutput

from model.attention import CausalAttention, RotaryPositions, visible
from model.config import MoeConfig
from model.experts import Experts, SharedExpert
from model.routing import Router


class MoeBlock(nn.Module):
    """Pre-norm attention, then pre-norm experts, each added to the residual stream."""

    def __init__(self, config: MoeConfig, layer: int) -> None:
        super().__init__()
        size = config.hidden_size
        self.attention_norm = nn.RMSNorm(size, eps=config.rms_norm_eps)
        self.attention = CausalAttention(config, layer)
        self.expert_norm = nn.RMSNorm(size, eps=config.rms_norm_eps)
        self.router = Router(size, config.num_experts, config.num_experts_per_tok)
        self.experts = Experts(size, config.num_experts, config.moe_intermediate_size)
        self.shared = SharedExpert(size, config.shared_expert_size) if config.shared_expert_size else None

    def forward(
        self,
        x_BSD: Tensor,
        rotary: tuple[Tensor, Tensor],
        mask: Tensor | None,
        cache: Cache | None,
        real_T: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        """Return the new residual stream (B, S, D) and the experts chosen for each token (B, S, K)."""
        x_BSD = x_BSD + self.attention(self.attention_norm(x_BSD), rotary, mask, cache)
        x_TD = self.expert_norm(x_BSD).flatten(0, 1)
        weight_TK, index_TK = self.router(x_TD, real_T)
        y_TD = self.experts(x_TD, weight_TK, index_TK)
        if self.shared is not None:
            y_TD = y_TD + self.shared(x_TD)
        return x_BSD + y_TD.view_as(x_BSD), index_TK.view(*x_BSD.shape[:2], -1)


@dataclass
class MoeOutput(ModelOutput):
    """`logits` (B, S or fewer, V); `experts` (L, B, S, K) chosen expert indices; `loss` where labels were given."""

    loss: Tensor | None = None
    logits: Tensor | None = None
    past_key_values: Cache | None = None
    experts: Tensor | None = None


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
        self.rotary = RotaryPositions(config)
        self.blocks = nn.ModuleList(MoeBlock(config, layer) for layer in range(config.num_hidden_layers))
        self.norm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        spread = self.config.initializer_range
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.normal_(module.weight, std=spread)
        elif isinstance(module, nn.RMSNorm):
            nn.init.ones_(module.weight)
        elif isinstance(module, Router):
            nn.init.normal_(module.weight, std=spread)
            nn.init.zeros_(module.bias)
            nn.init.zeros_(module.load)
        elif isinstance(module, Experts):
            nn.init.normal_(module.gate_up_EDF, std=spread)
            nn.init.normal_(module.down_EFD, std=spread)
        elif isinstance(module, RotaryPositions):
            module.inverse_frequency.copy_(module.frequencies())

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
        """
        if use_cache and past_key_values is None:
            past_key_values = DynamicCache()
        x_BSD, experts = self.trunk(input_ids, attention_mask, position_ids, past_key_values)
        keep = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self.lm_head(x_BSD[:, keep])
        loss = self.loss_function(logits, labels, self.config.vocab_size) if labels is not None else None
        return MoeOutput(loss, logits, past_key_values, experts)

    def trunk(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
    ) -> tuple[Tensor, Tensor]:
        """All but the logits: hidden states (B, S, D) after the last norm, and the chosen experts (L, B, S, K)."""
        cached = past_key_values.get_seq_length() if past_key_values is not None else 0
        if position_ids is None:
            position_ids = self._positions(input_ids, attention_mask, cached)
        mask = visible(attention_mask, input_ids.shape[1], cached, input_ids.device)
        rotary = self.rotary(position_ids)
        pad = self.config.pad_token_id
        real_T = (input_ids != pad).flatten() if self.training and pad is not None else None
        x_BSD, experts = self.embed(input_ids), []
        for block in self.blocks:
            x_BSD, index_BSK = block(x_BSD, rotary, mask, past_key_values, real_T)
            experts.append(index_BSK)
        return self.norm(x_BSD), torch.stack(experts)

    @staticmethod
    def _positions(input_ids: Tensor, attention_mask: Tensor | None, cached: int) -> Tensor:
        if attention_mask is not None:
            return (attention_mask.long().cumsum(-1) - 1).clamp(min=0)[:, -input_ids.shape[1] :]
        return torch.arange(cached, cached + input_ids.shape[1], device=input_ids.device)[None]


AutoModelForCausalLM.register(MoeConfig, MoeForCausalLM, exist_ok=True)
