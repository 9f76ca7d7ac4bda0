"""Runs for test_checkpoint.py, each in a process of its own that may kill itself: `killed_run.py FOLDER KILLS`.

Torch is imported once and the runs are forked from here before it has started a thread, so twenty kills take seconds.
"""

from __future__ import annotations

import os
import random
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import save_file

from model import Example, MoeConfig, Recipe, Step, train_base
from model import checkpoint as disk
from model.checkpoint import Checkpoints
from model.preferences import Thumb, places

STEPS, EVERY = 40, 3
SUBJECTS = {"net.switch": ("vlan", "port", "route", "switch"), "db.sql": ("table", "index", "query", "row")}
EXAMPLES = [
    Example(f"{verb} the {noun} option", label)
    for label, nouns in SUBJECTS.items()
    for noun in nouns
    for verb in ("fix", "add", "remove", "rename", "document")
]
THUMBS = [
    Thumb(f"draw the {noun} chart", "db.sql", i % 2 == 0) for i, noun in enumerate(("bar", "pie", "line", "map", "box"))
]
RECIPE = Recipe(
    epochs=8,
    batch_size=8,
    learning_rate=5e-3,
    text_loss_weight=0.1,
    seed=3,
    token_split=0.2,
    join_share=0.5,
    doubt_share=0.3,
    label_smoothing=0.1,
)


def config() -> MoeConfig:
    """A decoder as small as it gets."""
    sizes = {"hidden_size": 16, "num_attention_heads": 2, "num_experts": 8, "num_experts_per_tok": 2}
    return MoeConfig(
        vocab_size=300,
        moe_intermediate_size=8,
        shared_expert_size=8,
        max_position_embeddings=64,
        token_dropout=0.1,
        **sizes,
    )


def train(
    checkpoints: Checkpoints | None, report: Callable[[Step], None], recipe: Recipe = RECIPE
) -> dict[str, torch.Tensor]:
    """All three stages; every weight and buffer in the end."""
    model = train_base(
        EXAMPLES, config(), 32, recipe, report, experts_at_first=4, thumbs=THUMBS, checkpoints=checkpoints
    )
    return {name: tensor.detach().clone() for name, tensor in places(model.network).items()}


def die() -> None:
    """As when the power fails: nothing is tidied up."""
    os.kill(os.getpid(), signal.SIGKILL)


def forked(run: Callable[[], None]) -> int:
    """Do it in a process of its own; the signal that ended it, 0 where it came to its end."""
    child = os.fork()
    if child == 0:
        torch.set_num_threads(1)
        run()
        os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status)


def main(folder: Path, kills: int) -> None:
    """A run in one go, and the same run killed at random steps and once in the middle of writing a checkpoint."""
    checkpoints = Checkpoints(folder / "checkpoints", EVERY)

    def whole() -> None:
        save_file(train(None, lambda step: None), folder / "whole.safetensors")

    def killed_at(number: int) -> None:
        train(checkpoints, lambda step: die() if step.number == number else None)

    def killed_in_writing() -> None:
        written: list[Path] = []

        def fail(path: Path) -> None:
            written.append(path)
            if len(written) == 3:
                die()

        disk._sync = fail
        train(checkpoints, lambda step: None)

    def to_the_end() -> None:
        save_file(train(checkpoints, lambda step: None), folder / "resumed.safetensors")

    assert forked(whole) == 0
    numbers = sorted(random.Random(7).sample(range(STEPS), kills))
    for at, number in enumerate(numbers):
        assert forked(lambda number=number: killed_at(number)) == -signal.SIGKILL, number
        if at == kills // 2:
            assert forked(killed_in_writing) == -signal.SIGKILL
            assert list((folder / "checkpoints").glob(".unfinished-*"))
    assert forked(to_the_end) == 0
    print(f"killed {kills} times")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
