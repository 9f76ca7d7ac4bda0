"""A run that is killed goes on to the same weights, bit for bit; a checkpoint that is not its own is refused in one line."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import killed_run
import pytest
import torch
from killed_run import EVERY, RECIPE, STEPS, train
from safetensors.torch import load_file

from evermoe.errors import BadInput, StorageUnavailable
from model import MoeConfig, Step
from model.checkpoint import Checkpoint, Checkpoints, read

ROOT = Path(__file__).absolute().parents[2]
MINE = {"data": "a", "recipe": "b"}


class PowerCutError(Exception):
    pass


def cut_at(number: int) -> object:
    def report(step: Step) -> None:
        if step.number == number:
            raise PowerCutError

    return report


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoints of a run that stopped in its alignment."""
    folder = tmp_path_factory.mktemp("stopped")
    with pytest.raises(PowerCutError):
        train(Checkpoints(folder, EVERY), cut_at(34))
    return folder


@pytest.fixture
def copied(stopped: Path, tmp_path: Path) -> Path:
    subprocess.run(["cp", "-r", f"{stopped}/.", str(tmp_path)], check=True)
    return tmp_path


def newest(folder: Path) -> Path:
    return max(folder.glob("step-*"))


def refused(folder: Path, **changed: object) -> str:
    """What the run says that is asked to go on there; it takes no step."""
    steps: list[Step] = []
    with pytest.raises(BadInput) as error:
        train(Checkpoints(folder, EVERY), steps.append, **changed)
    assert not steps
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_run_killed_at_twenty_random_steps_ends_in_the_same_bits(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, killed_run.__file__, str(tmp_path), "20"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=250,
    )
    assert done.returncode == 0, done.stderr
    assert "killed 20 times" in done.stdout
    whole, resumed = load_file(tmp_path / "whole.safetensors"), load_file(tmp_path / "resumed.safetensors")
    assert any(name.endswith("router.bias") and tensor.any() for name, tensor in whole.items())
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_only_the_last_two_are_kept(stopped: Path) -> None:
    assert sorted(path.name for path in stopped.iterdir()) == ["step-00000030", "step-00000033"]


def test_a_resumed_run_reports_only_what_it_does_and_one_that_ended_does_nothing(copied: Path) -> None:
    steps: list[Step] = []
    first = train(Checkpoints(copied, EVERY), steps.append)
    assert [step.number for step in steps] == list(range(33, STEPS))
    again = train(Checkpoints(copied, EVERY), steps.append)
    assert len(steps) == STEPS - 33
    assert all(torch.equal(first[name], again[name]) for name in first)


def test_what_a_killed_write_left_is_ignored_and_removed(copied: Path) -> None:
    left = copied / ".unfinished-step-00000036"
    left.mkdir()
    (left / "weights.safetensors").write_bytes(b"half")
    steps: list[Step] = []
    train(Checkpoints(copied, EVERY), steps.append)
    assert steps[0].number == 33
    assert not left.exists()


@pytest.mark.parametrize("name", ["weights", "buffers", "optimizer", "random", "task"])
def test_a_truncated_file_is_named(copied: Path, name: str) -> None:
    file = newest(copied) / f"{name}.safetensors"
    os.truncate(file, file.stat().st_size - 1)
    assert f"step-00000033: {name}.safetensors is truncated or was changed" in refused(copied)


def test_one_changed_bit_is_seen(copied: Path) -> None:
    file = newest(copied) / "optimizer.safetensors"
    content = bytearray(file.read_bytes())
    content[-5] ^= 1
    file.write_bytes(content)
    assert "optimizer.safetensors is truncated or was changed" in refused(copied)


def test_a_changed_manifest_is_seen(copied: Path) -> None:
    manifest = newest(copied) / "manifest.json"
    written = json.loads(manifest.read_text())
    written["content"]["step"] = 12
    manifest.write_text(json.dumps(written))
    assert "manifest.json was changed" in refused(copied)
    manifest.write_text(manifest.read_text()[:100])
    assert "manifest.json is truncated" in refused(copied)


def test_a_missing_file_is_named(copied: Path) -> None:
    (newest(copied) / "weights.safetensors").unlink()
    assert "weights.safetensors is missing" in refused(copied)


def test_once_a_bad_one_is_removed_the_one_before_it_serves(copied: Path) -> None:
    (newest(copied) / "weights.safetensors").unlink()
    assert "remove that folder" in refused(copied)
    subprocess.run(["rm", "-r", str(newest(copied))], check=True)
    steps: list[Step] = []
    train(Checkpoints(copied, EVERY), steps.append)
    assert steps[0].number == 30


def test_another_recipe_is_refused(copied: Path) -> None:
    other = dataclasses.replace(RECIPE, learning_rate=1e-3)
    assert "belongs to another run, recipe differs;" in refused(copied, recipe=other)


def test_other_data_are_refused(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(killed_run, "THUMBS", [*killed_run.THUMBS[:-1], killed_run.THUMBS[0]])
    assert "another run, data differs;" in refused(copied)


def test_another_configuration_is_refused(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def wider() -> MoeConfig:
        return MoeConfig(vocab_size=300, hidden_size=32, num_attention_heads=2, num_experts=8, num_experts_per_tok=2)

    monkeypatch.setattr(killed_run, "config", wider)
    assert "another run, configuration and weights at the start differ;" in refused(copied)


def test_a_disk_that_fails_leaves_the_last_checkpoint_in_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoints = Checkpoints(tmp_path, 1)
    checkpoints.save(Checkpoint(1, {"weights": {"w": torch.ones(2)}}), MINE)

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageUnavailable, match="No space left"):
        checkpoints.save(Checkpoint(2, {"weights": {"w": torch.zeros(2)}}), MINE)
    found = checkpoints.latest(MINE)
    assert found is not None
    assert found.step == 1
    assert torch.equal(found.tensors["weights"]["w"], torch.ones(2))


def test_numbers_come_back_to_the_bit(tmp_path: Path) -> None:
    numbers = {"anchor_weight": 0.1 + 0.2, "next_anchor": 17}
    place = Checkpoints(tmp_path, 1).save(Checkpoint(5, {"task": {}}, numbers), MINE)
    assert read(place, MINE) == Checkpoint(5, {"task": {}}, numbers)


def test_cleared_checkpoints_are_gone(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path / "run", 1)
    checkpoints.save(Checkpoint(1, {}), MINE)
    checkpoints.clear()
    assert checkpoints.latest(MINE) is None
    assert not list(tmp_path.iterdir())


def test_what_else_lies_in_the_folder_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("ten years")
    checkpoints = Checkpoints(tmp_path, 1)
    checkpoints.save(Checkpoint(1, {}), MINE)
    checkpoints.clear()
    assert [place.name for place in tmp_path.iterdir()] == ["thesis.tex"]


def test_where_nobody_watches_what_does_not_fit_is_let_go(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    checkpoints = Checkpoints(tmp_path, 1, lenient=True)
    for step in (1, 2):
        damaged = checkpoints.save(Checkpoint(step, {}), MINE)
    (damaged / "manifest.json").write_text("{")
    found = checkpoints.latest(MINE)
    assert found is not None
    assert found.step == 1
    assert "truncated" in caplog.text
    assert checkpoints.latest({**MINE, "data": "other"}) is None
    assert "data differs" in caplog.text
    assert not list(tmp_path.iterdir())
