"""What a training leaves outside: its steps in MLflow, and in the home the checkpoints from which it goes on after a kill."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from evermoe.settings import settings
from flows.runtime.progress import advance
from model import Checkpoints, Step
from registry.tracker.runs import StepRun

BLOCK = 50


def resumable(name: str) -> Checkpoints:
    """The checkpoints of the training of that name. What fits it no more, because the parameters or a library changed since it
    was killed, is let go, so that a schedule never waits for a person."""
    return Checkpoints(_trainings() / name, settings().checkpoint_every, lenient=True)


def forget_trainings() -> None:
    """Let go of all checkpoints, once the version they led to is registered. A home trains one version at a time, so what else
    lies there was left by an update that nobody needs any more."""
    shutil.rmtree(_trainings(), ignore_errors=True)


def _trainings() -> Path:
    return settings().home.resolve() / "trainings"


class Curve:
    """The `report` of a training: call it with each step. Steps are kept in memory and sent in blocks, so that tracking costs no
    step its time; what is left is sent when it closes."""

    def __init__(self, run: StepRun, what: str) -> None:
        self.run, self.what = run, what
        self.waiting: list[Step] = []
        self.tokens = 0
        self.began = time.monotonic()

    def __call__(self, step: Step) -> None:
        self.waiting.append(step)
        self.tokens += step.tokens
        advance(self.what, step.number + 1, step.of)
        if len(self.waiting) >= BLOCK:
            self._send()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, at: TracebackType | None) -> None:
        self._send()
        self.run.metrics({"tokens": self.tokens, "seconds": time.monotonic() - self.began})

    def _send(self) -> None:
        for name in ("loss", "learning_rate", "peak_load", "active_experts", "dead_expert_frac", "moved"):
            self.run.curve(name, [(step.number, getattr(step, name)) for step in self.waiting])
        self.waiting.clear()
