"""A Qwen3-MoE checkpoint loads as it is, computes what stock `transformers` computes, and goes back where it came from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from foreign_models import foreign_tokenizer, furthest, random_folder
from transformers import GenerationConfig, Qwen3MoeForCausalLM

from evermoe.errors import BadInput
from model import Example, MoeConfig, MoeForCausalLM, Recipe, from_pretrained, qwen3_moe, train_month
from model.routing import routers

CASES: dict[str, dict[str, Any]] = {
    "as it comes": {},
    "tied": {"tie_word_embeddings": True},
    "weights that sum to 1": {"norm_topk_prob": True},
    "as many key heads as query heads": {"num_key_value_heads": 4, "head_dim": 8},
    "one key head, wide": {"num_key_value_heads": 1, "head_dim": 24},
    "dense layers": {"mlp_only_layers": [0, 2]},
    "every second layer": {"decoder_sparse_step": 2, "norm_topk_prob": True},
    "every layer dense": {"mlp_only_layers": [0, 1, 2]},
    "yarn": {
        "rope_parameters": {
            "rope_type": "yarn",
            "rope_theta": 1e6,
            "factor": 4.0,
            "original_max_position_embeddings": 64,
        }
    },
    "llama3": {
        "rope_parameters": {
            "rope_type": "llama3",
            "rope_theta": 5e5,
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 64,
        }
    },
    "linear": {"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0}},
    "window": {"use_sliding_window": True, "sliding_window": 8},
    "window as long as the context": {"use_sliding_window": True, "sliding_window": 256},
    "biases": {"attention_bias": True},
}


@pytest.mark.parametrize("case", CASES)
def test_logits_are_those_of_transformers_and_it_goes_back_the_same(case: str, tmp_path: Path) -> None:
    stock = random_folder(tmp_path / "stock", "qwen3_moe", **CASES[case])
    ours = from_pretrained(tmp_path / "stock")
    assert furthest(stock, ours.network) < 1e-4
    back = Qwen3MoeForCausalLM.from_pretrained(ours.save(tmp_path / "back", layout="qwen3_moe"))
    assert same_tensors(back, stock)
    assert furthest(stock, back) == 0
    again = from_pretrained(ours.save(tmp_path / "ours"))
    assert same_tensors(again.network, ours.network)
    assert furthest(ours.network, again.network) == 0


def same_tensors(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    """Whether two state dictionaries hold the same."""
    ones, others = one.state_dict(), other.state_dict()
    return ones.keys() == others.keys() and all(torch.equal(ones[name], others[name]) for name in ones)


def test_generation_is_that_of_transformers(tmp_path: Path) -> None:
    stock = random_folder(tmp_path, "qwen3_moe")
    ours, ids = from_pretrained(tmp_path).network, torch.randint(1, 280, (2, 9))
    mask = torch.tensor([[0, 0, 0, *[1] * 6], [1] * 9])
    how = {"attention_mask": mask, "max_new_tokens": 12, "do_sample": False, "pad_token_id": 0}
    for beams in (1, 3):
        assert torch.equal(stock.generate(ids, **how, num_beams=beams), ours.generate(ids, **how, num_beams=beams))


def test_a_sharded_checkpoint_in_bfloat16_loads_in_float32_and_goes_back_in_shards(tmp_path: Path) -> None:
    half = random_folder(tmp_path / "whole", "qwen3_moe").to(torch.bfloat16)
    half.save_pretrained(tmp_path / "shards", max_shard_size="40KB")
    stock = Qwen3MoeForCausalLM.from_pretrained(tmp_path / "shards", dtype=torch.float32)
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 2
    ours = from_pretrained(tmp_path / "shards").network
    assert ours.dtype == torch.float32
    assert furthest(stock, ours) < 1e-4
    qwen3_moe.save(ours, tmp_path / "back", shard_bytes=40_000)
    assert len(list((tmp_path / "back").glob("*.safetensors"))) > 2
    assert same_tensors(Qwen3MoeForCausalLM.from_pretrained(tmp_path / "back"), stock)


def test_a_head_of_its_own_is_kept_though_the_configuration_says_tied(tmp_path: Path) -> None:
    random_folder(tmp_path, "qwen3_moe")
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": True}))
    assert furthest(Qwen3MoeForCausalLM.from_pretrained(tmp_path), from_pretrained(tmp_path).network) < 1e-4


SMALL = {"vocab_size": 300, "hidden_size": 32, "num_experts": 8, "num_experts_per_tok": 3, "moe_intermediate_size": 8}
QWEN_LIKE: dict[str, Any] = {**SMALL, "router_score": "softmax", "shared_expert_size": 0}


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"shared_expert_size": 16}, "shared_expert_size 16"),
        ({"router_score": "sigmoid"}, "router_score 'sigmoid'"),
        ({"min_experts_per_tok": 1, "max_experts_per_tok": 6}, r"dynamic routing \(1 to 6"),
        ({"attention_segment": 8}, "attention_segment 8"),
        ({"channel_gate": True}, "channel_gate True"),
        ({"expert_communication": 8}, "expert_communication 8"),
        ({"qk_norm": False}, "qk_norm False"),
        ({"attention_bias": True}, "attention_out_bias False"),
    ],
)
def test_what_the_format_has_no_place_for_is_refused_by_name(
    change: dict[str, Any], named: str, tmp_path: Path
) -> None:
    network = MoeForCausalLM(MoeConfig(**(QWEN_LIKE | change)))
    with pytest.raises(BadInput, match=named) as refusal:
        qwen3_moe.save(network, tmp_path / "back")
    assert "\n" not in str(refusal.value)
    assert not (tmp_path / "back").exists()


def test_a_router_that_has_learned_to_balance_is_refused(tmp_path: Path) -> None:
    network = MoeForCausalLM(MoeConfig(**QWEN_LIKE))
    qwen3_moe.save(network, tmp_path / "before")
    routers(network)[1].bias[3] = 0.02
    routers(network)[0].admission[2] = 0.5
    with pytest.raises(BadInput, match="a balancing bias, experts that are not fully admitted"):
        qwen3_moe.save(network, tmp_path / "after")


def test_a_foreign_tokenizer_asks_answers_learns_and_is_saved(tmp_path: Path) -> None:
    random_folder(tmp_path / "stock", "qwen3_moe", tokenizer=True, initializer_range=0.02)
    model = from_pretrained(tmp_path / "stock")
    codec = model.codec
    assert (codec.pad, codec.eos, codec.start) == (0, 0, ())
    assert codec.text("\n=>") == list(codec.mark)
    examples = [
        Example(f"fix the {noun}", label) for noun, label in (("vlan", "net"), ("table", "db")) for _ in range(8)
    ]
    recipe = Recipe(epochs=8, batch_size=8, learning_rate=1e-2, text_loss_weight=0.1, seed=1)
    losses: list[float] = []
    taught = train_month(model, examples, [], recipe, lambda step: losses.append(step.loss))
    assert losses[-1] < losses[0] / 2
    assert sum(taught.classify(["fix the vlan"])[0].scores.values()) == pytest.approx(1)
    again = from_pretrained(taught.save(tmp_path / "ours"))
    scores = [one.classify(["fix the vlan"])[0].scores for one in (again, taught)]
    assert scores[0] == pytest.approx(scores[1], abs=1e-5)
    assert (again.labels, again.max_length) == (("db", "net"), taught.max_length)
    assert "".join(again.generate("fix the", max_new_tokens=5)) == "".join(taught.generate("fix the", max_new_tokens=5))
    assert "".join(again.generate("", max_new_tokens=2)) is not None


def test_a_tokenizer_that_begins_texts_with_a_token_does_so_here(tmp_path: Path) -> None:
    random_folder(tmp_path, "qwen3_moe", bos_token_id=1)
    foreign_tokenizer(begins_with_bos=True).save_pretrained(tmp_path)
    codec = from_pretrained(tmp_path).codec
    assert codec.prompt("fix")[0] == codec.opening("fix")[0] == 1
    assert codec.text("<|begin|><|endoftext|>")[0] > 1


def test_every_token_that_ends_a_text_ends_a_generation(tmp_path: Path) -> None:
    random_folder(tmp_path, "qwen3_moe", tokenizer=True)
    free = from_pretrained(tmp_path)
    ids = torch.tensor([free.codec.opening("fix the")])
    first = int(free.network(ids).logits[0, -1].argmax())
    GenerationConfig(eos_token_id=[0, first]).save_pretrained(tmp_path)
    assert "".join(from_pretrained(tmp_path).generate("fix the", max_new_tokens=8)) == ""


def test_without_a_tokenizer_there_is_a_network_and_nothing_to_ask(tmp_path: Path) -> None:
    random_folder(tmp_path / "stock", "qwen3_moe")
    model = from_pretrained(tmp_path / "stock")
    for again in (model, model.copy(), from_pretrained(model.save(tmp_path / "ours"))):
        with pytest.raises(BadInput, match=r"without a tokenizer.*tokenizer\.json"):
            again.classify(["text"], ["a", "b"])
