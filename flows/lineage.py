"""What a version has learned, and what it has not: read from the snapshots its tags name."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterable
from importlib.metadata import version as installed

from evermoe.settings import ROOT, Params
from registry.snapshots import SnapshotRow, Snapshots
from registry.versions import Version

LEARNED = "evermoe.learned"


def learned(version: Version) -> tuple[str, ...]:
    """The names of the snapshots a version was trained on, the oldest first."""
    return tuple(name for name in version.tags.get(LEARNED, "").split(",") if name)


def learned_rows(snapshots: Snapshots, version: Version) -> list[SnapshotRow]:
    """All rows a version was trained or examined on, in the order of time."""
    return merged(snapshots, learned(version))


def unlearned(snapshots: Snapshots, version: Version, period: str) -> tuple[str, ...]:
    """The names of the snapshots up to `period` that a version has not learned, the oldest first."""
    known = set(learned(version))
    return tuple(
        name for name in sorted(snapshots.names()) if name not in known and name <= period and name[0].isdigit()
    )


def merged(snapshots: Snapshots, names: Iterable[str]) -> list[SnapshotRow]:
    """The rows of several snapshots, each answer once, in the order of time."""
    rows = {(row.source, row.text, row.label, row.score): row for name in names for row in snapshots.load(name)}
    return sorted(rows.values(), key=lambda row: row.at)


def lineage_tags(params: Params, snapshots: Snapshots, names: Iterable[str]) -> dict[str, str]:
    """Everything a version's making depended on: code, data, parameters, libraries."""
    names = tuple(names)
    return {
        LEARNED: ",".join(names),
        "evermoe.dvc": json.dumps({name: snapshots.get(name).md5 for name in names}),
        "evermoe.git_commit": git_commit() or "not a checkout",
        "evermoe.params": params.model_dump_json(include={"model", "base", "update", "gates"}),
        "evermoe.libraries": json.dumps({name: installed(name) for name in ("torch", "transformers", "tokenizers")}),
    }


def git_commit() -> str | None:
    """The commit that is checked out here; None outside of a checkout, or without git."""
    try:
        said = subprocess.run(
            ["git", "-C", str(ROOT), "rev-parse", "HEAD"], capture_output=True, text=True, check=False
        )
    except OSError:
        return None
    return said.stdout.strip() or None
