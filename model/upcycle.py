"""A dense model of the Llama or Qwen family becomes a mixture of experts that computes the same at first.

Its feed-forward stays as the shared expert; beside it stand routed experts whose output is still zero. Each begins with a draw of
the dense feed-forward's hidden units, so it has features to learn from, and its way back into the residual stream is learned.
Sources: sparse upcycling, arXiv 2212.05055; experts from a dense model's units, LLaMA-MoE, arXiv 2406.16554; a zero output that
changes nothing until it is trained, as in LoRA, arXiv 2106.09685.
"""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    LlamaConfig,
    PretrainedConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
)

from evermoe.errors import BadInput
from model.config import MoeConfig
from model.decoder import MoeForCausalLM
from model.experts import Experts, SharedExpert
from model.folders import generation_config, model_type, read_config
from model.language import LanguageModel
from model.layout import Progress, common, empty_network, expected, fill, is_tied, parts, wanted
from model.routing import Router
from model.tokens import load_tokenizer, room_for_text
from model.weights import FolderWeights, HeldWeights, Weights, first_line, require_fit

CONFIGS: dict[str, type[PretrainedConfig]] = {"llama": LlamaConfig, "qwen2": Qwen2Config, "qwen3": Qwen3Config}


def upcycle(
    source: Path | str,
    experts: int = 128,
    active: int = 12,
    *,
    expert_size: int | None = None,
    least: int | None = None,
    most: int | None = None,
    max_length: int | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> LanguageModel:
    """Give a dense model routed experts. The result's logits are the source's until it is trained.

    Args:
        source: folder of a Llama, Qwen2 or Qwen3 checkpoint (safetensors), or a .gguf file of one.
        experts: routed experts in each block.
        active: routed experts that work on one token, on average.
        expert_size: hidden width of one routed expert; None: so that a token's active experts together are a quarter as wide as
            the dense feed-forward, which makes a token a quarter of its feed-forward dearer. 32 for SmolLM2-135M: with 128
            experts a block, 212 million parameters more.
        least, most: bounds for the experts of one token; None: all tokens have `active`.
        max_length: longest text in tokens; None: what the model's context holds.
        seed: of the routers' weights and the draws of units.
        progress: told how many parts of the source have been taken over, of how many.

    Raises `BadInput` for a source that is damaged, of another kind or that ours cannot compute, and for experts that cannot be.
    """
    source = Path(source)
    dense, weights, tokenizer, generation = _read_gguf(source) if source.is_file() else _read_folder(source)
    try:
        tied = is_tied(dense, weights)
        config = upcycled_config(dense, tied, experts, active, expert_size, least, most)
    except BadInput as error:
        raise BadInput(f"{source}: {error}") from None
    network = empty_network(config)
    all_parts = list(parts(config))
    require_fit(source, expected(network, all_parts), wanted(weights, tied))
    fill(network, all_parts, weights, progress)
    add_experts(network, torch.Generator().manual_seed(seed))
    network.generation_config = generation or network.generation_config
    try:
        return LanguageModel(network, tokenizer, (), max_length or room_for_text(config.max_position_embeddings))
    except BadInput as error:
        raise BadInput(f"{source}: {error}") from None


def upcycled_config(
    dense: PretrainedConfig,
    tied: bool,
    experts: int,
    active: int,
    expert_size: int | None,
    least: int | None,
    most: int | None,
) -> MoeConfig:
    """The configuration of the upcycled model. Raises `BadInput` for what ours cannot compute and experts that cannot be."""
    if getattr(dense, "mlp_bias", False):
        raise BadInput("feed-forwards with a bias (mlp_bias) are not supported")
    if "sliding_attention" in (getattr(dense, "layer_types", None) or ()):
        raise BadInput("a sliding window in some layers is not supported; turn use_sliding_window off")
    shared = common(dense, tied)
    if dense.model_type == "qwen2":
        shared["attention_bias"] = True
    return MoeConfig(
        **shared,  # type: ignore[arg-type]
        qk_norm=dense.model_type == "qwen3",
        num_experts=experts,
        num_experts_per_tok=active,
        min_experts_per_tok=least,
        max_experts_per_tok=most,
        moe_intermediate_size=expert_size or usual_expert_size(dense.intermediate_size, active),
        shared_expert_size=dense.intermediate_size,
    )


def usual_expert_size(intermediate: int, active: int) -> int:
    """The width with which `active` experts are a quarter of the feed-forward; a multiple of 8, which grouped products need."""
    return max(8, intermediate // (4 * max(1, active)) // 8 * 8)


@torch.no_grad()
def add_experts(network: MoeForCausalLM, generator: torch.Generator) -> None:
    """Make routed experts that are ready to learn and add nothing yet: units of the shared expert in, zero out."""
    for block in network.blocks:
        router, routed, shared = block.router, block.experts, block.shared
        assert isinstance(router, Router)
        assert isinstance(routed, Experts)
        assert isinstance(shared, SharedExpert)
        router.weight.normal_(std=network.config.initializer_range, generator=generator)
        gate, up = shared.gate_up.weight.chunk(2)
        size = routed.down_EFD.shape[1]
        draws = [torch.randperm(len(gate), generator=generator) for _ in range(routed.experts)]
        unit_EF = torch.stack(draws).repeat(1, -(-size // len(gate)))[:, :size]
        routed.gate_up_EDF.copy_(torch.cat([gate[unit_EF], up[unit_EF]], dim=1).transpose(1, 2))
        routed.down_EFD.zero_()


Source = tuple[PretrainedConfig, Weights, PreTrainedTokenizerFast | None, GenerationConfig | None]


def _read_folder(folder: Path) -> Source:
    kind = model_type(folder)
    if kind not in CONFIGS:
        raise BadInput(f"{folder}: {_wrong_kind(kind)}")
    config = read_config(folder, CONFIGS[kind])
    return config, FolderWeights(folder), load_tokenizer(folder), generation_config(folder)


def _read_gguf(file: Path) -> Source:
    with file.open("rb") as opened:
        if opened.read(4) != b"GGUF":
            raise BadInput(f"{file}: neither a folder nor a GGUF file")
    try:
        network = AutoModelForCausalLM.from_pretrained(
            file.parent, gguf_file=file.name, local_files_only=True, dtype=torch.float32
        )
        tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name, local_files_only=True)
    except Exception as error:  # a cut file breaks the reader in as many ways as it has fields
        raise BadInput(f"{file}: cannot be read as GGUF ({first_line(error)}); fetch it again") from None
    if network.config.model_type not in CONFIGS:
        raise BadInput(f"{file}: {_wrong_kind(network.config.model_type)}")
    assert isinstance(tokenizer, PreTrainedTokenizerFast)  # no other can be made from a GGUF
    return network.config, HeldWeights(network.state_dict()), tokenizer, network.generation_config


def _wrong_kind(kind: str) -> str:
    if kind in ("evermoe", "qwen3_moe"):
        return f"a model of type {kind!r} has experts already; load it with model.from_pretrained"
    return f"a model of type {kind!r} is not supported; these are: {', '.join(CONFIGS)}"
