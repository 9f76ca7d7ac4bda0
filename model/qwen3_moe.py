"""Qwen3-MoE checkpoints, as `transformers` and the serving engines know them, into our network and out of it.

Knows nothing of tokenizers or labels. What the format has no place for is refused by name, never left out.
"""

from __future__ import annotations

import copy
import inspect
from functools import partial
from pathlib import Path

import torch
from transformers import Qwen3MoeConfig

from evermoe.errors import BadInput
from model.config import MoeConfig
from model.decoder import MoeForCausalLM
from model.layout import (
    Progress,
    common,
    empty_network,
    expected,
    fill,
    is_tied,
    parts,
    routed_parts,
    size_of,
    taken,
    wanted,
)
from model.routing import MATURE, routers
from model.weights import FolderWeights, Weights, require_fit, write_weights

MODEL_TYPE = "qwen3_moe"
SHARD_BYTES = 5 * 10**9
ONLY_WITH_SEGMENTS = ("segment_end_token_ids", "max_segments")


def load(folder: Path, theirs: Qwen3MoeConfig, progress: Progress | None = None) -> MoeForCausalLM:
    """The network of a checkpoint folder, in float32, whatever it was saved in.

    Raises `BadInput` for a configuration that ours cannot compute, and for weights that do not fit it.
    """
    weights = FolderWeights(folder)
    try:
        config = ours(theirs, weights)
    except BadInput as error:
        raise BadInput(f"{folder}: {error}") from None
    network = empty_network(config)
    all_parts = [*parts(config), *routed_parts(config)]
    require_fit(folder, expected(network, all_parts), wanted(weights, config.tie_word_embeddings))
    fill(network, all_parts, weights, progress)
    return network


def ours(theirs: Qwen3MoeConfig, weights: Weights) -> MoeConfig:
    """Our configuration of the same network. Raises `BadInput` for what ours cannot compute."""
    return _ours(theirs, is_tied(theirs, weights))


def _ours(theirs: Qwen3MoeConfig, tied: bool) -> MoeConfig:
    every, dense = theirs.decoder_sparse_step, set(theirs.mlp_only_layers or ())
    if every < 1 or not theirs.num_experts:
        raise BadInput(f"num_experts {theirs.num_experts} and decoder_sparse_step {every} must both be 1 at least")
    dense |= {layer for layer in range(theirs.num_hidden_layers) if (layer + 1) % every}
    window, context = theirs.sliding_window, theirs.max_position_embeddings
    return MoeConfig(
        **common(theirs, tied),  # type: ignore[arg-type]
        qk_norm=True,
        attention_window=window if window is not None and window <= context else None,
        num_experts=theirs.num_experts,
        num_experts_per_tok=theirs.num_experts_per_tok,
        router_score="softmax",
        norm_topk_prob=theirs.norm_topk_prob,
        moe_intermediate_size=theirs.moe_intermediate_size,
        shared_expert_size=0,
        dense_layers=sorted(dense),
        intermediate_size=theirs.intermediate_size,
    )


def save(network: MoeForCausalLM, folder: Path, shard_bytes: int = SHARD_BYTES) -> Path:
    """Write a folder that stock `transformers` loads and computes the same from.

    Raises `BadInput` that names every feature of the network for which the format has no place.
    """
    config = network.config
    theirs = _theirs(config)
    strange = [*_without_place(config, theirs), *_router_state(network)]
    if strange:
        raise BadInput(f"Qwen3-MoE has no place for {', '.join(strange)}; save it as it is instead")
    all_parts = [*parts(config), *routed_parts(config)]
    copies = ((size_of(network, part), partial(taken, network, part)) for part in all_parts)
    write_weights(folder, copies, shard_bytes)
    theirs.save_pretrained(folder)
    if network.generation_config is not None:
        network.generation_config.save_pretrained(folder)
    return folder


def _theirs(config: MoeConfig) -> Qwen3MoeConfig:
    same = set(inspect.signature(MoeConfig.__init__).parameters) & set(Qwen3MoeConfig().to_dict())
    return Qwen3MoeConfig(
        **{name: copy.deepcopy(getattr(config, name)) for name in same | {"head_dim"}},
        num_experts=config.num_experts,
        use_sliding_window=config.attention_window is not None,
        sliding_window=config.attention_window,
        mlp_only_layers=config.dense_layers,
        architectures=["Qwen3MoeForCausalLM"],
        dtype=config.dtype,
    )


def _without_place(config: MoeConfig, theirs: Qwen3MoeConfig) -> list[str]:
    """What of our configuration is not there any more once it went through theirs."""
    again = _ours(theirs, config.tie_word_embeddings)
    lost = []
    if config.experts_per_tok_bounds != again.experts_per_tok_bounds:
        least, most = config.experts_per_tok_bounds
        lost.append(f"dynamic routing ({least} to {most} experts a token)")
    aside = {"self", "kwargs", "min_experts_per_tok", "max_experts_per_tok", "rope_theta", "token_dropout"}
    if not config.attention_segment:
        aside |= set(ONLY_WITH_SEGMENTS)
    if len(config.dense_layers) == config.num_hidden_layers:
        aside.add("shared_expert_size")
    for name in inspect.signature(MoeConfig.__init__).parameters:
        if name not in aside and getattr(config, name) != getattr(again, name):
            lost.append(f"{name} {getattr(config, name)!r}")
    return lost


def _router_state(network: MoeForCausalLM) -> list[str]:
    """What routers have learned beside their weights."""
    found = {"a balancing bias": False, "experts that are not fully admitted": False}
    for router in routers(network):
        found["a balancing bias"] |= bool(torch.any(router.bias != 0))
        locked = (router.admission != 1).any() | (router.unlock_at > MATURE).any()
        found["experts that are not fully admitted"] |= bool(locked)
    return [name for name, there in found.items() if there]
