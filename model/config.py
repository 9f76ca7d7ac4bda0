"""The numbers that define a decoder. Knows nothing of training, data or devices."""

from __future__ import annotations

from typing import Any, Literal

from transformers import AutoConfig, PretrainedConfig

from evermoe.errors import BadInput


class MoeConfig(PretrainedConfig):
    """Size, attention and routing of the decoder; saved as config.json beside the weights.

    Args:
        vocab_size: tokens the tokenizer knows.
        hidden_size: width of the residual stream.
        num_hidden_layers: decoder blocks, each attention then experts.
        num_attention_heads: query heads.
        num_key_value_heads: key and value heads, shared by equal groups of query heads; None: as many as queries.
        head_dim: features of a head; None: `hidden_size / num_attention_heads`.
        attention_bias: whether queries, keys and values have a bias.
        attention_out_bias: whether the attention's output has a bias.
        qk_norm: whether queries and keys are normalised per head.
        attention_window: spatial axis: a token sees this many tokens, itself included; None: the whole past.
        attention_segment: temporal axis: most tokens of one segment, of which a token later sees a summary; 0 leaves it out.
        segment_end_token_ids: tokens that end a segment early, such as the end of a paragraph.
        max_segments: the latest this many closed segments are seen.
        channel_gate: channel axis: whether features are gated from a running mean of the past.
        num_experts: routed experts in each block.
        num_experts_per_tok: routed experts that work on one token, on average.
        min_experts_per_tok, max_experts_per_tok: bounds for one token; None: as the average, so that all tokens have the same.
        router_score: affinity of a token to an expert: each by itself (sigmoid), or against the others (softmax).
        norm_topk_prob: whether the weights of a token's experts are scaled to sum to 1.
        moe_intermediate_size: hidden width of one routed expert.
        shared_expert_size: hidden width of the expert that every token passes; 0 leaves it out.
        expert_communication: width in which a token's active experts attend to each other; 0 leaves it out.
        dense_layers: blocks without routed experts, by number from 0; their feed-forward is `intermediate_size` wide.
        intermediate_size: hidden width of the feed-forward of a dense layer.
        token_dropout: share of the tokens that training leaves blank, each by chance; their places stay.
        max_position_embeddings: longest sequence in tokens.
        rope_theta: base of the rotary position embedding, where `rope_parameters` does not say more.
        rope_parameters: the embedding as `transformers` writes it, such as {"rope_type": "llama3", "rope_theta": 500000, ...}.

    Raises `BadInput` for numbers that cannot work together and for keys that no configuration has.
    """

    model_type = "evermoe"
    keys_to_ignore_at_inference = ("past_key_values",)

    def __init__(
        self,
        vocab_size: int = 4096,
        hidden_size: int = 128,
        num_hidden_layers: int = 2,
        num_attention_heads: int = 4,
        num_key_value_heads: int | None = None,
        head_dim: int | None = None,
        attention_bias: bool = False,
        attention_out_bias: bool = False,
        qk_norm: bool = True,
        attention_window: int | None = None,
        attention_segment: int = 0,
        segment_end_token_ids: tuple[int, ...] | list[int] = (),
        max_segments: int = 64,
        channel_gate: bool = False,
        num_experts: int = 128,
        num_experts_per_tok: int = 12,
        min_experts_per_tok: int | None = None,
        max_experts_per_tok: int | None = None,
        router_score: Literal["sigmoid", "softmax"] = "sigmoid",
        norm_topk_prob: bool = True,
        moe_intermediate_size: int = 32,
        shared_expert_size: int = 128,
        expert_communication: int = 0,
        dense_layers: tuple[int, ...] | list[int] = (),
        intermediate_size: int = 0,
        token_dropout: float = 0.0,
        max_position_embeddings: int = 512,
        rope_theta: float = 10_000.0,
        rope_parameters: dict[str, Any] | None = None,
        rms_norm_eps: float = 1e-6,
        initializer_range: float = 0.02,
        tie_word_embeddings: bool = True,
        pad_token_id: int | None = None,
        bos_token_id: int | None = None,
        eos_token_id: int | list[int] | None = None,
        **kwargs: Any,
    ) -> None:
        self.vocab_size = vocab_size
        self.hidden_size = hidden_size
        self.num_hidden_layers = num_hidden_layers
        self.num_attention_heads = num_attention_heads
        self.num_key_value_heads = num_key_value_heads or num_attention_heads
        self.head_dim = head_dim or hidden_size // max(1, num_attention_heads)
        self.attention_bias = attention_bias
        self.attention_out_bias = attention_out_bias
        self.qk_norm = qk_norm
        self.attention_window = attention_window
        self.attention_segment = attention_segment
        self.segment_end_token_ids = list(segment_end_token_ids)
        self.max_segments = max_segments
        self.channel_gate = channel_gate
        self.num_experts = num_experts
        self.num_experts_per_tok = num_experts_per_tok
        self.min_experts_per_tok = min_experts_per_tok
        self.max_experts_per_tok = max_experts_per_tok
        self.router_score = router_score
        self.norm_topk_prob = norm_topk_prob
        self.moe_intermediate_size = moe_intermediate_size
        self.shared_expert_size = shared_expert_size
        self.expert_communication = expert_communication
        self.dense_layers = list(dense_layers)
        self.intermediate_size = intermediate_size
        self.token_dropout = token_dropout
        self.max_position_embeddings = max_position_embeddings
        self.rope_parameters: dict[str, Any] = rope_parameters or {"rope_type": "default", "rope_theta": rope_theta}
        self.rms_norm_eps = rms_norm_eps
        self.initializer_range = initializer_range
        self.tie_word_embeddings = tie_word_embeddings
        self.pad_token_id = pad_token_id
        self.bos_token_id = bos_token_id
        self.eos_token_id = eos_token_id
        _refuse_unknown(kwargs)
        self._check()
        super().__init__(**kwargs)

    @property
    def experts_per_tok_bounds(self) -> tuple[int, int]:
        """Least and most routed experts of one token; equal where all tokens have the same."""
        average = self.num_experts_per_tok
        least = average if self.min_experts_per_tok is None else self.min_experts_per_tok
        most = average if self.max_experts_per_tok is None else self.max_experts_per_tok
        return least, most

    def _check(self) -> None:
        least, most = self.experts_per_tok_bounds
        for name in COUNTS:
            _require(_is_count(getattr(self, name)), f"{name} is {getattr(self, name)!r}; it is a whole number from 1")
        average, pool, window = self.num_experts_per_tok, self.num_experts, self.attention_window
        _require(
            1 <= least <= average <= most <= pool,
            f"{average} of {pool} experts a token, {least} at least and {most} at most, cannot be: "
            "1 <= min_experts_per_tok <= num_experts_per_tok <= max_experts_per_tok <= num_experts must hold",
        )
        _require(
            self.num_attention_heads % self.num_key_value_heads == 0,
            f"{self.num_attention_heads} query heads cannot share {self.num_key_value_heads} key heads evenly",
        )
        _require(
            self.head_dim % 2 == 0, f"head_dim is {self.head_dim}; rotary positions turn pairs, so it must be even"
        )
        odd = [name for name in ("hidden_size", "moe_intermediate_size") if getattr(self, name) % 4]
        _require(not odd, f"{' and '.join(odd)} must be a multiple of 4: experts are multiplied in rows of 16 bytes")
        context = self.max_position_embeddings
        _require(
            window is None or 1 <= window <= context,
            f"attention_window {window} does not lie within the context of 1 to {context} tokens (max_position_embeddings)",
        )
        _require(
            0 <= self.attention_segment <= context,
            f"attention_segment {self.attention_segment} does not lie within the context of {context} tokens; 0 leaves it out",
        )
        _require(
            self.router_score in ("sigmoid", "softmax"),
            f"router_score {self.router_score!r} is neither 'sigmoid' nor 'softmax'",
        )
        _require(0 <= self.token_dropout < 1, f"token_dropout {self.token_dropout} is no share from 0 to below 1")
        strays = [layer for layer in self.dense_layers if not 0 <= layer < self.num_hidden_layers]
        _require(not strays, f"dense_layers {strays} are no layers of {self.num_hidden_layers}")
        _require(
            not self.dense_layers or self.intermediate_size > 0,
            "dense_layers need intermediate_size, the width of their feed-forward",
        )
        _require(
            self.shared_expert_size >= 0 and self.expert_communication >= 0,
            "shared_expert_size and expert_communication are widths; 0 leaves one out",
        )


COUNTS = (
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_experts",
    "moe_intermediate_size",
    "max_position_embeddings",
    "max_segments",
    "head_dim",
)


def _is_count(value: object) -> bool:
    return isinstance(value, int) and value >= 1


def _require(holds: bool, otherwise: str) -> None:
    if not holds:
        raise BadInput(f"model configuration: {otherwise}")


KNOWN = frozenset(PretrainedConfig().to_dict()) | {
    "architectures",
    "attn_implementation",
    "auto_map",
    "dtype",
    "experts_implementation",
    "model_type",
    "name_or_path",
    "torch_dtype",
    "transformers_version",
    "use_cache",
}
"""What `transformers` itself may write into or pass with any configuration."""


def _refuse_unknown(given: dict[str, Any]) -> None:
    unknown = sorted(key for key in given if key not in KNOWN and not key.startswith("_"))
    _require(not unknown, f"no such key: {', '.join(unknown)}")


AutoConfig.register("evermoe", MoeConfig, exist_ok=True)
