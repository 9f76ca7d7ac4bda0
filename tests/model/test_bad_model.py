"""A folder that cannot be used is refused in one line that names what is wrong, before anything is computed with it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from foreign_models import foreign_tokenizer, random_folder
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from evermoe.errors import BadInput
from model import MoeConfig, MoeForCausalLM, from_pretrained
from model.routing import routers
from model.tokens import train_tokenizer

Harm = Callable[[Path], None]


@pytest.fixture
def ours(tiny_model_folder: Path, tmp_path: Path) -> Path:
    """A model of ours, to be harmed."""
    return Path(shutil.copytree(tiny_model_folder, tmp_path / "ours"))


@pytest.fixture
def theirs(tmp_path: Path) -> Path:
    """A Qwen3-MoE with its tokenizer, without a manifest."""
    random_folder(tmp_path / "theirs", "qwen3_moe", tokenizer=True)
    return tmp_path / "theirs"


def refused(folder: Path, why: str = ".") -> str:
    """The one line that says why a folder is not loaded; it names the folder."""
    with pytest.raises(BadInput, match=why) as refusal:
        from_pretrained(folder)
    line = str(refusal.value)
    assert "\n" not in line
    assert str(folder) in line
    return line


def configure(**changes: Any) -> Harm:
    """Change config.json."""

    def harm(folder: Path) -> None:
        file = folder / "config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | changes))

    return harm


def cut(name: str, keep: float = 0.5) -> Harm:
    """Keep the beginning of a file."""

    def harm(folder: Path) -> None:
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: int(len(content) * keep)])

    return harm


def flip(name: str) -> Harm:
    """Change one bit in the middle of a file."""

    def harm(folder: Path) -> None:
        content = bytearray((folder / name).read_bytes())
        content[len(content) // 2] ^= 1
        (folder / name).write_bytes(content)

    return harm


def tensors(change: Callable[[dict[str, torch.Tensor]], object]) -> Harm:
    """Change the weights, properly saved."""

    def harm(folder: Path) -> None:
        held = load_file(folder / "model.safetensors")
        change(held)
        save_file(held, folder / "model.safetensors", metadata={"format": "pt"})

    return harm


def remove(name: str) -> Harm:
    """Take a file away."""
    return lambda folder: (folder / name).unlink()


CONFIGURATIONS = [
    (configure(num_experts_per_tok=12), "12 of 8 experts"),
    (configure(attention_window=4096), "attention_window 4096 .* 128 tokens"),
    (configure(number_of_experts=8), "no such key: number_of_experts"),
    (configure(hidden_size="wide"), "hidden_size|cannot work"),
    (configure(num_experts_per_tok="two"), "cannot work"),
    (configure(model_type="gpt2"), "'gpt2'"),
    (configure(model_type=None), "names no model_type"),
    (lambda folder: (folder / "config.json").write_text("[1]"), "no JSON object"),
    (cut("config.json"), r"config\.json cannot be read"),
    (remove("config.json"), r"no config\.json"),
]


@pytest.mark.parametrize(("harm", "why"), CONFIGURATIONS)
def test_a_configuration_that_cannot_work(harm: Harm, why: str, ours: Path) -> None:
    harm(ours)
    refused(ours, why)


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "labels.json", "tokenizer_config.json"])
@pytest.mark.parametrize("way", [cut, flip, remove])
def test_a_saved_model_that_was_cut_or_changed_names_the_file(
    way: Callable[[str], Harm], name: str, ours: Path
) -> None:
    way(name)(ours)
    assert name in refused(ours)


def test_a_configuration_that_was_changed_to_another_that_works_is_seen(ours: Path) -> None:
    configure(num_experts_per_tok=3)(ours)
    assert "config.json is not what was saved" in refused(ours) or "bytes" in refused(ours)


def test_a_tokenizer_of_the_same_size_from_elsewhere_is_seen(ours: Path) -> None:
    size = json.loads((ours / "config.json").read_text())["vocab_size"]
    train_tokenizer(["another text than that one, " * 9, "words of other kinds"], size).save_pretrained(ours)
    assert "tokenizer.json" in refused(ours)


@pytest.mark.parametrize(
    ("harm", "why"),
    [
        (cut("model.safetensors", 0.9), "cut short"),
        (cut("model.safetensors", 0.001), "cut short"),
        (cut("model.safetensors", 0), "cut short"),
        (remove("model.safetensors"), "no weights"),
        (
            tensors(lambda held: held.pop("model.layers.1.mlp.experts.3.up_proj.weight")),
            "no model.layers.1.mlp.experts.3",
        ),
        (tensors(lambda held: held.update(strange=torch.zeros(2))), "unknown strange"),
        (
            tensors(lambda held: held.update({"model.norm.weight": torch.zeros(2)})),
            r"model\.norm\.weight is \[2\], not \[32\]",
        ),
        (configure(num_experts=4, num_local_experts=4), "do not fit"),
        (configure(moe_intermediate_size=16), r"is \[\d+, \d+\], not"),
        (configure(num_hidden_layers=2), "unknown model.layers.2"),
        (configure(num_local_experts=2, num_experts=2), "3 of 2 experts"),
        (configure(decoder_sparse_step=0), "decoder_sparse_step 0"),
        (configure(hidden_act="gelu"), "'gelu'"),
        (configure(vocab_size=100), "do not fit|does not match"),
        (
            lambda folder: (configure(eos_token_id=7)(folder), remove("generation_config.json")(folder)),
            "eos token is 0",
        ),
        (cut("tokenizer.json"), "tokenizer cannot be read"),
    ],
)
def test_a_foreign_checkpoint_that_does_not_hold_together(harm: Harm, why: str, theirs: Path) -> None:
    harm(theirs)
    refused(theirs, why)


def test_shards_that_are_missing_are_named(tmp_path: Path) -> None:
    random_folder(tmp_path, "qwen3_moe", shard="40KB")
    shard = sorted(tmp_path.glob("model-*.safetensors"))[1]
    shard.unlink()
    assert shard.name in refused(tmp_path)
    (tmp_path / "model.safetensors.index.json").write_text("{}")
    assert "index" in refused(tmp_path)


def test_pickled_weights_are_not_opened(tmp_path: Path) -> None:
    model = random_folder(tmp_path, "qwen3_moe")
    (tmp_path / "model.safetensors").unlink()
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    assert "pickle" in refused(tmp_path)


def test_a_tokenizer_with_more_tokens_than_the_model_knows(tmp_path: Path) -> None:
    random_folder(tmp_path, "qwen3_moe", vocab_size=200)
    foreign_tokenizer().save_pretrained(tmp_path)
    assert "the model knows 200" in refused(tmp_path)


def test_a_tokenizer_that_cannot_end_a_text(theirs: Path) -> None:
    file = theirs / "tokenizer_config.json"
    content = json.loads(file.read_text())
    del content["eos_token"]
    file.write_text(json.dumps(content))
    assert "eos_token" in refused(theirs)


def test_a_model_without_a_manifest_loads_unless_its_weights_or_tokenizer_are_missing(ours: Path) -> None:
    (ours / "manifest.json").unlink()
    assert from_pretrained(ours).labels == ("db.sql", "net.switch")
    tensors(lambda held: held.pop("blocks.1.router.bias"))(ours)
    assert "blocks.1.router.bias" in refused(ours)
    (ours / "tokenizer.json").unlink()
    assert "tokenizer.json is missing" in refused(ours)


@pytest.mark.parametrize("tied", [True, False])
def test_all_that_a_network_has_learned_comes_back(tied: bool, tmp_path: Path) -> None:
    sizes = {"vocab_size": 60, "hidden_size": 16, "num_experts": 8, "num_experts_per_tok": 2, "max_experts_per_tok": 4}
    axes = {"attention_segment": 4, "channel_gate": True, "expert_communication": 8, "attention_bias": True}
    torch.manual_seed(5)
    network = MoeForCausalLM(MoeConfig(**sizes, **axes, tie_word_embeddings=tied))
    with torch.no_grad():
        for tensor in (*network.parameters(), *network.buffers()):
            tensor.copy_(torch.rand_like(tensor))
    network.rotary.inverse_frequency.copy_(network.rotary.frequencies()[0])
    network.save_pretrained(tmp_path)
    for again in (MoeForCausalLM.from_pretrained(tmp_path), AutoModelForCausalLM.from_pretrained(tmp_path)):
        for name, tensor in network.state_dict().items():
            assert torch.equal(again.state_dict()[name], tensor), name
        assert torch.equal(again.rotary.inverse_frequency, network.rotary.inverse_frequency)
        assert (again.lm_head.weight is again.embed.weight) == tied
        assert not any(router.load.any() or router.tokens.any() for router in routers(again))
