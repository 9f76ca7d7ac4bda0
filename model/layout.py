"""Where the weights of Llama, Qwen2, Qwen3 and Qwen3-MoE lie in our network. Knows names and shapes; reads and writes no files.

Their projections that we multiply at once lie one under the other in ours, and their experts are slices of our stacked ones.
E experts, D model width, F hidden width of an expert.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PretrainedConfig
from transformers.initialization import no_init_weights

from evermoe.errors import BadInput
from model.config import MoeConfig
from model.decoder import MoeForCausalLM
from model.weights import Shape, Weights

EMBED, HEAD = "model.embed_tokens.weight", "lm_head.weight"
ROPES = ("default", "linear", "llama3", "yarn")
"""Rotary embeddings whose angles do not change with the length of the text."""

Progress = Callable[[int, int], None]
"""Told how many steps are done, of how many."""


@dataclass(frozen=True)
class Part:
    """One of our parameters and their tensors in it, one under the other; `expert`: a slice of it, which lies turned."""

    ours: str
    theirs: tuple[str, ...]
    rows: tuple[int, ...]
    expert: int | None = None

    def view(self, parameter: Tensor) -> Tensor:
        """Our parameter, or the expert's slice of it, as their tensors lie in it."""
        return parameter if self.expert is None else parameter[self.expert].T


def parts(config: MoeConfig) -> Iterator[Part]:
    """All parts of a network without its routed experts: embedding, attention, norms, and the shared or dense feed-forwards."""
    embedding, width = config.vocab_size, config.hidden_size
    yield Part("embed.weight", (EMBED,), (embedding,))
    yield Part("norm.weight", ("model.norm.weight",), (width,))
    if not config.tie_word_embeddings:
        yield Part("lm_head.weight", (HEAD,), (embedding,))
    query, key = config.num_attention_heads * config.head_dim, config.num_key_value_heads * config.head_dim
    for layer in range(config.num_hidden_layers):
        ours, theirs = f"blocks.{layer}", f"model.layers.{layer}"
        yield Part(f"{ours}.attention_norm.weight", (f"{theirs}.input_layernorm.weight",), (width,))
        yield Part(f"{ours}.expert_norm.weight", (f"{theirs}.post_attention_layernorm.weight",), (width,))
        for kind in ["weight", "bias"] if config.attention_bias else ["weight"]:
            names = tuple(f"{theirs}.self_attn.{name}_proj.{kind}" for name in "qkv")
            yield Part(f"{ours}.attention.qkv.{kind}", names, (query, key, key))
        for kind in ["weight", "bias"] if config.attention_out_bias else ["weight"]:
            yield Part(f"{ours}.attention.out.{kind}", (f"{theirs}.self_attn.o_proj.{kind}",), (width,))
        if config.qk_norm:
            for short, name in (("q", "query"), ("k", "key")):
                norm = f"{theirs}.self_attn.{short}_norm.weight"
                yield Part(f"{ours}.attention.{name}_norm.weight", (norm,), (config.head_dim,))
        hidden = config.intermediate_size if layer in config.dense_layers else config.shared_expert_size
        if hidden:
            both = (f"{theirs}.mlp.gate_proj.weight", f"{theirs}.mlp.up_proj.weight")
            yield Part(f"{ours}.shared.gate_up.weight", both, (hidden, hidden))
            yield Part(f"{ours}.shared.down.weight", (f"{theirs}.mlp.down_proj.weight",), (width,))


def routed_parts(config: MoeConfig) -> Iterator[Part]:
    """The routers and routed experts of Qwen3-MoE."""
    hidden = config.moe_intermediate_size
    for layer in range(config.num_hidden_layers):
        if layer in config.dense_layers:
            continue
        ours, theirs = f"blocks.{layer}", f"model.layers.{layer}.mlp"
        yield Part(f"{ours}.router.weight", (f"{theirs}.gate.weight",), (config.num_experts,))
        for expert in range(config.num_experts):
            both = tuple(f"{theirs}.experts.{expert}.{name}_proj.weight" for name in ("gate", "up"))
            down = (f"{theirs}.experts.{expert}.down_proj.weight",)
            yield Part(f"{ours}.experts.gate_up_EDF", both, (hidden, hidden), expert)
            yield Part(f"{ours}.experts.down_EFD", down, (config.hidden_size,), expert)


def empty_network(config: MoeConfig) -> MoeForCausalLM:
    """A network whose parameters are yet to be filled; its buffers are those of a fresh one. In float32."""
    with no_init_weights():
        network = MoeForCausalLM(config).eval()
    network.tie_weights()  # it is left out there
    return network


def expected(network: MoeForCausalLM, all_parts: list[Part]) -> dict[str, Shape]:
    """Their tensors, with the shapes that fit the network."""
    parameters = dict(network.named_parameters())
    found: dict[str, Shape] = {}
    for part in all_parts:
        view = part.view(parameters[part.ours])
        found |= {name: (rows, *view.shape[1:]) for name, rows in zip(part.theirs, part.rows, strict=True)}
    return found


@torch.no_grad()
def fill(network: MoeForCausalLM, all_parts: list[Part], weights: Weights, progress: Progress | None = None) -> None:
    """Copy their tensors into the network."""
    parameters = dict(network.named_parameters())
    for done, part in enumerate(all_parts, start=1):
        view = part.view(parameters[part.ours])
        for name, place in zip(part.theirs, view.split(part.rows), strict=True):
            place.copy_(weights.read(name))
        if progress is not None:
            progress(done, len(all_parts))


def taken(network: MoeForCausalLM, part: Part) -> dict[str, Tensor]:
    """A copy of their tensors, out of the network."""
    parameter = network.get_parameter(part.ours).detach()
    views = part.view(parameter).split(part.rows)
    return {n: v.clone(memory_format=torch.contiguous_format) for n, v in zip(part.theirs, views, strict=True)}


def size_of(network: MoeForCausalLM, part: Part) -> int:
    """Bytes of their tensors."""
    view = part.view(network.get_parameter(part.ours))
    return view.numel() * view.element_size()


def wanted(shapes: dict[str, Shape] | Weights, tied: bool) -> dict[str, Shape]:
    """Of the tensors found, those that are weights: no angles, which follow from the configuration, and no copy of a tied head."""
    found = shapes if isinstance(shapes, dict) else dict(shapes.shapes)
    return {n: s for n, s in found.items() if not n.endswith("rotary_emb.inv_freq") and not (tied and n == HEAD)}


def is_tied(config: PretrainedConfig, weights: Weights) -> bool:
    """Whether the embedding is the head too: as `transformers`, not where the checkpoint holds a head of its own."""
    if not config.tie_word_embeddings:
        return False
    both = HEAD in weights.shapes and EMBED in weights.shapes
    return not both or torch.equal(weights.read(HEAD), weights.read(EMBED))


def common(theirs: PretrainedConfig, tied: bool) -> dict[str, object]:
    """What a `MoeConfig` has in common with any configuration of the family. Raises `BadInput` for what ours cannot compute."""
    rope = dict(theirs.rope_parameters)
    if rope.get("rope_type") not in ROPES or (
        rope["rope_type"] != "default" and rope.get("partial_rotary_factor", 1) != 1
    ):
        raise BadInput(
            f"rotary positions of type {rope.get('rope_type')!r} are not supported; these are: {', '.join(ROPES)}"
        )
    if theirs.hidden_act not in ("silu", "swish"):
        raise BadInput(f"feed-forwards with {theirs.hidden_act!r} are not supported, only 'silu'")
    biased = bool(getattr(theirs, "attention_bias", False))
    return {
        **{name: getattr(theirs, name) for name in SAME},
        "head_dim": getattr(theirs, "head_dim", None) or theirs.hidden_size // theirs.num_attention_heads,
        "attention_bias": biased,
        "attention_out_bias": biased,
        "rope_parameters": rope,
        "tie_word_embeddings": tied,
    }


SAME = (
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "max_position_embeddings",
    "rms_norm_eps",
    "initializer_range",
    "pad_token_id",
    "bos_token_id",
    "eos_token_id",
)
"""Fields that have one name and one meaning in all of them."""
