"""A model on its way into the registry: its folder, its lineage and its figures."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from evermoe.settings import ROOT
from flows.lineage import lineage_tags
from flows.overrides import FAILED_GATES
from flows.parts import Parts
from model import Gate, LanguageModel
from registry.versions import Version

LOADER = ROOT / "flows" / "pyfunc.py"


@dataclass(frozen=True)
class Candidate:
    """A trained model, the period it learned, the version it came from, the snapshots it knows and the gates it met.

    `figures` and `settings` are what MLflow sets side by side: `card.figures_of`, and what it was trained with.
    """

    model: LanguageModel
    period: str
    parent: str | None
    snapshots: tuple[str, ...]
    gates: tuple[Gate, ...] = ()
    figures: Mapping[str, float] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def attempt(self) -> str:
        """The key of its examination's run: the same month from another parent is another attempt."""
        return attempt(self.period, self.parent)

    @property
    def passed(self) -> bool:
        """Whether it may meet users."""
        return all(gate.passed for gate in self.gates)


def attempt(period: str, parent: str | None) -> str:
    """`2025-06-from-1`; of the base its period alone."""
    return f"{period}-from-{parent}" if parent else period


def store(parts: Parts, candidate: Candidate, description: str) -> Version:
    """Register the candidate once: the same (period, parent) again gives the version that is there."""
    month = candidate.period if candidate.parent is None else candidate.period[:7]
    failed = [f"{gate.name} {gate.reason}" for gate in candidate.gates if not gate.passed]
    tags = {
        **lineage_tags(parts.params, parts.snapshots, candidate.snapshots),
        "evermoe.gates": "passed" if candidate.passed else "failed",
        **({} if candidate.passed else {"evermoe.gates_failed": "; ".join(failed)}),
        FAILED_GATES: json.dumps([gate.name for gate in candidate.gates if not gate.passed]),
    }
    with tempfile.TemporaryDirectory() as folder, parts.tracking.step(month, "gates", candidate.attempt) as run:
        version = parts.versions.register(
            candidate.model.save(Path(folder) / "weights"),
            month=candidate.period,
            parent=candidate.parent,
            run_id=run.run_id,
            loader=LOADER,
            description=description,
            tags=tags,
            metrics=candidate.figures,
            params=candidate.settings,
        )
        run.produced(version.model_id)
    return version
