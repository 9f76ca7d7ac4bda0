"""Ranks train what one process trains: two real processes under torchrun (gloo) stand in for a cluster."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import ranks_run
import torch
from ranks_run import BOUND, EVERY, Run
from safetensors.torch import load_file

from evermoe.errors import BadInput
from model.parallel import ALONE, Ranks

ROOT = Path(__file__).absolute().parents[2]
COMPARED = ("whole", "lonely", "aligned", "distilled")


def launched(folder: Path, ranks: int, *names: str) -> None:
    """Runs of ranks_run.py in processes of their own, in a folder."""
    folder.mkdir(exist_ok=True)
    prefix = [] if ranks == 1 else ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
    done = subprocess.run(
        [sys.executable, *prefix, ranks_run.__file__, str(folder), *names],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=1500,
    )
    assert done.returncode == 0, done.stderr[-4000:]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """The same runs on one rank and on two; `resumed` on two goes on where a run on one stopped."""
    one, two = (tmp_path_factory.mktemp("ranks") / str(ranks) for ranks in (1, 2))
    launched(one, 1, "one_step", *COMPARED)
    shutil.copytree(one / "1 ranks", two / "1 ranks")
    shutil.rmtree(newest(two / "1 ranks"))
    launched(two, 2, "shares", "one_step", *COMPARED, "resumed", "half")
    return {1: one, 2: two}


def newest(checkpoints: Path) -> Path:
    return max(checkpoints.glob("step-*"))


def curve(folder: Path, name: str) -> list[dict[str, Any]]:
    content: list[dict[str, Any]] = json.loads((folder / f"{name}.json").read_text())
    return content


def apart(folders: dict[int, Path], name: str) -> float:
    """The farthest the losses of a run on one rank and on two are apart, in nats."""
    one, two = (curve(folders[ranks], name) for ranks in (1, 2))
    assert len(one) == len(two) > 5
    return max(abs(a["loss"] - b["loss"]) for a, b in zip(one, two, strict=True))


def farthest(folders: dict[int, Path], name: str, other: str = "") -> float:
    """The farthest that any weight or buffer is apart in the end."""
    one, two = load_file(folders[1] / f"{name}.safetensors"), load_file(folders[2] / f"{other or name}.safetensors")
    assert one.keys() == two.keys()
    return max(float((one[key] - two[key]).abs().max()) for key in one)


def test_each_rank_keeps_its_share_of_the_experts(folders: dict[int, Path]) -> None:
    assert json.loads((folders[2] / "shares.json").read_text()) == [[4, 4, 5, 5], [4, 4, 4, 4]]


@pytest.mark.parametrize("examples", [7, 3, 1])
def test_gradients_and_loads_are_those_of_one_process(folders: dict[int, Path], examples: int) -> None:
    one, two = (load_file(folders[ranks] / "one_step.safetensors") for ranks in (1, 2))
    names = [name for name in one if name.startswith(f"{examples}:")]
    assert sum(bool(one[name].any()) for name in names) > 20
    for name in names:
        if ".router." in name and not name.endswith("weight"):
            assert torch.equal(one[name], two[name]), name
        else:
            torch.testing.assert_close(one[name], two[name], rtol=1e-6, atol=1e-6, msg=name)


def test_a_run_is_that_of_one_process(folders: dict[int, Path]) -> None:
    """But for the order in which floats are added: 1e-6 nats were seen. A router's bias moves by 0.02, so those are equal."""
    assert apart(folders, "whole") < 1e-4
    assert farthest(folders, "whole") < 1e-3
    losses = [step["loss"] for step in curve(folders[2], "whole")]
    assert losses[-1] < losses[0] - 1


def test_a_step_with_fewer_examples_than_ranks_is_that_of_one_process(folders: dict[int, Path]) -> None:
    assert apart(folders, "lonely") < 1e-5
    assert farthest(folders, "lonely") < 1e-4  # the routers' state among it; 4e-5 was seen on one kind of processor
    one, two = (curve(folders[ranks], "lonely") for ranks in (1, 2))
    assert [step["tokens"] for step in one] == [step["tokens"] for step in two]


def test_an_alignment_is_that_of_one_process_and_keeps_its_bound(folders: dict[int, Path]) -> None:
    assert apart(folders, "aligned") < 1e-4
    assert farthest(folders, "aligned") < 1e-3
    for folder in folders.values():
        moved = curve(folder, "aligned")[-1]["moved"]
        assert BOUND / 2 < moved <= BOUND
        assert moved < curve(folder, "aligned")[-2]["moved"]  # it was drawn back


def test_a_distillation_is_that_of_one_process(folders: dict[int, Path]) -> None:
    assert apart(folders, "distilled") < 1e-4
    assert farthest(folders, "distilled") < 1e-3


def test_two_ranks_go_on_where_one_stopped(folders: dict[int, Path]) -> None:
    assert curve(folders[2], "resumed")[0]["number"] == 2 * EVERY
    assert farthest(folders, "whole", "resumed") < 1e-4


def test_one_process_goes_on_where_two_ranks_stopped(folders: dict[int, Path], tmp_path: Path) -> None:
    shutil.copytree(folders[2] / "2 ranks", tmp_path / "2 ranks")
    shutil.rmtree(newest(tmp_path / "2 ranks"))
    run = Run(tmp_path, "back")
    run.save(run.base(checkpoints="2 ranks"))
    assert run.steps[0].number == 2 * EVERY
    ends = [
        load_file(file / name) for file, name in ((folders[2], "whole.safetensors"), (tmp_path, "back.safetensors"))
    ]
    assert max(float((ends[0][key] - ends[1][key]).abs().max()) for key in ends[0]) < 1e-4


def test_weights_in_half_precision_learn_the_same(folders: dict[int, Path]) -> None:
    full, half = curve(folders[1], "whole"), curve(folders[2], "half")
    assert max(abs(a["loss"] - b["loss"]) for a, b in zip(full, half, strict=True)) < 0.05
    kept = load_file(folders[2] / "half.safetensors")
    assert all(tensor.dtype == torch.float32 for tensor in kept.values())
    assert any((tensor != tensor.bfloat16()).any() for tensor in kept.values())


def test_parts_cover_a_group_once_and_a_rank_without_work_weighs_nothing() -> None:
    for count in range(1, 9):
        every = [Ranks(3, rank) for rank in range(3)]
        working = [ranks.part(range(count)) for ranks in every if ranks.weight(count)]
        assert sorted(i for part in working for i in part) == list(range(count))
        assert all(ranks.part(range(count)) == [0] for ranks in every if not ranks.weight(count))


def test_one_process_is_no_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert Ranks.here() == ALONE
    assert not torch.distributed.is_initialized()


def test_more_processes_than_gpus_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(BadInput, match="process 1 of this machine has no GPU: there are 1"):
        Ranks.here()


def test_ranks_that_were_given_different_data_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def gather(told: list[object], mine: object) -> None:
        told[:] = [mine, {"data": "b", "recipe": "c"}]

    monkeypatch.setattr(torch.distributed, "all_gather_object", gather)
    with pytest.raises(BadInput, match="the 2 processes do not agree on: data; give each the same"):
        Ranks(2, 0).require_same({"data": "a", "recipe": "c"})


@pytest.mark.slow
@pytest.mark.timeout(3000)
@pytest.mark.parametrize(("name", "last", "nats"), [("demo_learned", 1, 1e-3), ("demo", 50, 0.05)])
def test_two_ranks_reach_the_loss_of_one_at_the_demos_size(tmp_path: Path, name: str, last: int, nats: float) -> None:
    """Where the loss comes to rest, to 1e-3 nats (1.7e-4 was seen).

    On the demo's stream it does not: a token at a near tie changes experts, and a bias moves by the sign of a load. One process
    whose first weights are moved by a ten-millionth ends 0.003 from itself in the mean of the last 50 steps, two ranks ended
    0.011 from one.
    """
    folders = {ranks: tmp_path / str(ranks) for ranks in (1, 2)}
    for ranks, folder in folders.items():
        launched(folder, ranks, name)
    losses = [[step["loss"] for step in curve(folder, name)] for folder in folders.values()]
    assert len(losses[0]) == len(losses[1]) == 200
    assert abs(losses[0][0] - losses[1][0]) < 1e-5
    one, two = (sum(each[-last:]) / last for each in losses)
    assert abs(one - two) < nats
