"""The numbers that define a decoder. Knows nothing of training, data or devices."""

from __future__ import annotations

from typing import Any

from transformers import AutoConfig, PretrainedConfig


class MoeConfig(PretrainedConfig):
    """Size and routing of the decoder; saved as config.json beside the weights.

    Args:
        vocab_size: tokens the tokenizer knows.
        hidden_size: width of the residual stream.
        num_hidden_layers: decoder blocks, each attention then experts.
        num_attention_heads: heads of `hidden_size / num_attention_heads` features.
        num_experts: routed experts in each block.
        num_experts_per_tok: routed experts that work on one token.
        moe_intermediate_size: hidden width of one routed expert.
        shared_expert_size: hidden width of the expert every token passes; 0 leaves it out.
        max_position_embeddings: longest sequence in tokens.
        rope_theta: base of the rotary position embedding.
    """

    model_type = "evermoe"
    keys_to_ignore_at_inference = ("past_key_values",)

    def __init__(
        self,
        vocab_size: int = 4096,
        hidden_size: int = 128,
        num_hidden_layers: int = 2,
        num_attention_heads: int = 4,
        num_experts: int = 128,
        num_experts_per_tok: int = 12,
        moe_intermediate_size: int = 32,
        shared_expert_size: int = 128,
        max_position_embeddings: int = 512,
        rope_theta: float = 10_000.0,
        rms_norm_eps: float = 1e-6,
        initializer_range: float = 0.02,
        tie_word_embeddings: bool = True,
        **kwargs: Any,
    ) -> None:
        self.vocab_size = vocab_size
        self.hidden_size = hidden_size
        self.num_hidden_layers = num_hidden_layers
        self.num_attention_heads = num_attention_heads
        self.num_experts = num_experts
        self.num_experts_per_tok = num_experts_per_tok
        self.moe_intermediate_size = moe_intermediate_size
        self.shared_expert_size = shared_expert_size
        self.max_position_embeddings = max_position_embeddings
        self.rope_theta = rope_theta
        self.rms_norm_eps = rms_norm_eps
        self.initializer_range = initializer_range
        self.tie_word_embeddings = tie_word_embeddings
        super().__init__(**kwargs)


AutoConfig.register("evermoe", MoeConfig, exist_ok=True)
