"""A model on its way into the registry: its folder, its lineage and its figures."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flows.lineage.record import FILE, lineage_of, lineage_tags
from flows.runtime.parts import Parts
from model import Gate, LanguageModel
from registry.tracker.versions import Version

LOADER = Path(__file__).with_name("pyfunc.py")
FAILED_GATES = "evermoe.gates_failed_names"  # on a version, as JSON
WHY_UNTRIED = "evermoe.rollout"


@dataclass(frozen=True)
class Candidate:
    """A trained model, the period it learned, the version it came from, the snapshots it knows and the gates it met.

    Of the snapshots, `replayed` are those its parent knew. `teachers` are the fingerprints of the weights that taught it.
    `figures` and `settings` are what MLflow sets side by side: `card.figures_of`, and what it was trained with.
    """

    model: LanguageModel
    period: str
    parent: str | None
    snapshots: tuple[str, ...]
    gates: tuple[Gate, ...] = ()
    replayed: tuple[str, ...] = ()
    teachers: Mapping[str, str] = field(default_factory=dict)
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
    month, period = _month(candidate.period, candidate.parent), candidate.period
    failed = [f"{gate.name} {gate.reason}" for gate in candidate.gates if not gate.passed]
    with tempfile.TemporaryDirectory() as folder, parts.tracking.step(month, "gates", candidate.attempt) as run:
        weights = candidate.model.save(Path(folder) / "weights")
        lineage = lineage_of(
            parts.params,
            parts.snapshots,
            period=period,
            parent=candidate.parent,
            parent_folder=parts.versions.weights(candidate.parent) if candidate.parent else None,
            fresh=[name for name in candidate.snapshots if name not in candidate.replayed],
            replay=candidate.replayed,
            teachers=candidate.teachers,
            gates=candidate.gates,
            folder=weights,
        )
        version = parts.versions.register(
            weights,
            month=period,
            parent=candidate.parent,
            run_id=run.run_id,
            loader=LOADER,
            description=description,
            tags={
                **lineage_tags(lineage),
                FAILED_GATES: json.dumps([gate.name for gate in candidate.gates if not gate.passed]),
                **({} if candidate.passed else {"evermoe.gates_failed": "; ".join(failed)}),
                "evermoe.gates": "passed" if candidate.passed else "failed",
            },
            metrics=candidate.figures,
            params=candidate.settings,
            beside={FILE: lineage.model_dump_json(indent=1)},
        )
        run.produced(version.model_id)
    return version


def settle(parts: Parts, version: Version) -> None:
    """Make good what a process left undone that died while it stored this version. Changes nothing where nothing is missing."""
    parts.versions.settle()
    with parts.tracking.step(
        _month(version.month, version.parent), "gates", attempt(version.month, version.parent)
    ) as run:
        run.produced(version.model_id)


def _month(period: str, parent: str | None) -> str:
    """The month below whose run a period's steps stand; the base has a run of its own."""
    return period if parent is None else period[:7]
