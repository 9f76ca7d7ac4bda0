"""A training's steps on their way to MLflow: kept in memory, sent in blocks, so that tracking costs no step its time."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Self

from flows.progress import advance
from model import Step
from registry.tracking import StepRun

BLOCK = 50


class Curve:
    """The `report` of a training: call it with each step. Sends what is left when it closes."""

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
