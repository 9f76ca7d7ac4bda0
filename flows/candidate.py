"""A model on its way into the registry: its folder, its lineage, and the sentence that says what changed."""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path

from evermoe.settings import ROOT
from flows.lineage import lineage_tags
from flows.overrides import FAILED_GATES
from flows.parts import Parts
from model import Gate, LanguageModel
from registry.versions import Version

LOADER = ROOT / "flows" / "pyfunc.py"


@dataclass(frozen=True)
class Candidate:
    """A trained model, the period it learned, the version it came from, the snapshots it knows and the gates it met."""

    model: LanguageModel
    period: str
    parent: str | None
    snapshots: tuple[str, ...]
    gates: tuple[Gate, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether it may meet users."""
        return all(gate.passed for gate in self.gates)


def describe(candidate: Candidate, parent: LanguageModel, examples: int) -> str:
    """What changed since the parent, in Markdown, for the version's page in MLflow."""
    gained = sorted(set(candidate.model.labels) - set(parent.labels))
    lines = [
        f"Version {candidate.parent} and what users taught up to {candidate.period}: {examples:,} new examples, with replay.",
        f"New labels: {', '.join(gained) if gained else 'none'}.",
        *(f"- {gate.name}: {gate.reason}{'' if gate.passed else ' **(failed)**'}" for gate in candidate.gates),
    ]
    return "\n".join(lines)


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
    with tempfile.TemporaryDirectory() as folder, parts.tracking.step(month, "gates", candidate.period) as run:
        version = parts.versions.register(
            candidate.model.save(Path(folder) / "weights"),
            month=candidate.period,
            parent=candidate.parent,
            run_id=run.run_id,
            loader=LOADER,
            description=description,
            tags=tags,
        )
        run.produced(version.model_id)
    return version
