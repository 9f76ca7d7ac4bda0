"""Small random models as other people make them: stock `transformers` classes, tokenizers without our tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from transformers import (
    DynamicCache,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)

KINDS = {
    "llama": (LlamaConfig, LlamaForCausalLM),
    "qwen2": (Qwen2Config, Qwen2ForCausalLM),
    "qwen3": (Qwen3Config, Qwen3ForCausalLM),
    "qwen3_moe": (Qwen3MoeConfig, Qwen3MoeForCausalLM),
}
SIZES: dict[str, Any] = {
    "vocab_size": 300,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "initializer_range": 0.3,
    "bos_token_id": None,
    "eos_token_id": 0,
}
EXPERTS: dict[str, Any] = {"moe_intermediate_size": 8, "num_experts": 8, "num_experts_per_tok": 3, "head_dim": 16}


def random_model(kind: str, **changes: Any) -> PreTrainedModel:
    """Random weights, far enough from their usual beginning that each of them counts."""
    torch.manual_seed(1)
    config_class, model_class = KINDS[kind]
    model = model_class(config_class(**(SIZES | (EXPERTS if kind == "qwen3_moe" else {}) | changes))).eval()
    for name, parameter in model.named_parameters():
        if "norm" in name or name.endswith("bias"):
            torch.nn.init.normal_(parameter, mean=1.0 if "norm" in name else 0.0, std=0.3)
    return model


def random_folder(
    folder: Path, kind: str, *, tokenizer: bool = False, shard: str = "5GB", **changes: Any
) -> PreTrainedModel:
    """The same, saved as stock `transformers` saves it."""
    model = random_model(kind, **changes)
    model.save_pretrained(folder, max_shard_size=shard)
    if tokenizer:
        foreign_tokenizer().save_pretrained(folder)
    return model


def foreign_tokenizer(begins_with_bos: bool = False) -> PreTrainedTokenizerFast:
    """A byte-level BPE with an end-of-text token, and no padding or label token."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|begin|>"] if begins_with_bos else ["<|endoftext|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=280, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    bpe.train_from_iterator(["fix the vlan option of the port", "add the index of the table"], trainer)
    bos = "<|begin|>" if begins_with_bos else None
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="<|endoftext|>", bos_token=bos)
    if begins_with_bos:
        from tokenizers.processors import TemplateProcessing

        tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
            single="<|begin|> $A", special_tokens=[("<|begin|>", tokenizer.bos_token_id)]
        )
    return tokenizer


@torch.no_grad()
def furthest(stock: PreTrainedModel, ours: torch.nn.Module) -> float:
    """The largest difference of two models' logits: whole, padded on the left, and in pieces with a cache."""
    generator = torch.Generator().manual_seed(3)
    ids = torch.randint(1, 280, (3, 40), generator=generator)
    mask = torch.ones_like(ids)
    mask[0, :7], mask[1, :20] = 0, 0
    found = [apart(stock(ids).logits, ours(ids).logits, torch.ones_like(mask))]
    found.append(apart(stock(ids, attention_mask=mask).logits, ours(ids, attention_mask=mask).logits, mask))
    caches = DynamicCache(), DynamicCache()
    for start, end in ((0, 21), (21, 22), (22, 30), (30, 31), (31, 40)):
        pieces = [
            model(ids[:, start:end], attention_mask=mask[:, :end], past_key_values=cache, use_cache=True).logits
            for model, cache in zip((stock, ours), caches, strict=True)
        ]
        found.append(apart(pieces[0], pieces[1], mask[:, start:end]))
    return max(found)


def apart(a: Tensor, b: Tensor, mask: Tensor) -> float:
    """The largest difference of logits at real tokens."""
    return float(((a - b).abs().amax(-1) * mask).max())
