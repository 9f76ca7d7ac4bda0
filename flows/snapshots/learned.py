"""Which snapshots a version has learned and which it has not, and their rows: by themselves, or as what an update learns from."""

from __future__ import annotations

from collections.abc import Iterable

from evermoe.settings import Params
from flows.learning.update import Material, compose
from registry.snapshots import SnapshotRow, Snapshots
from registry.tracker.versions import Version

LEARNED = "evermoe.learned"  # on a version: the names of its snapshots


def learned(version: Version) -> tuple[str, ...]:
    """The names of the snapshots a version was trained on, the oldest first."""
    return tuple(name for name in version.tags.get(LEARNED, "").split(",") if name)


def learned_rows(snapshots: Snapshots, version: Version) -> list[SnapshotRow]:
    """All rows a version was trained or examined on, in the order of time."""
    return merged(snapshots, learned(version))


def unlearned(snapshots: Snapshots, version: Version, period: str) -> tuple[str, ...]:
    """The names of the snapshots up to `period` that a version has not learned, the oldest first.

    The beginning of a month (`2025-06-14`) is left out where there is more of it, learned or not: that has its rows too.
    """
    known = set(learned(version))
    names = [name for name in sorted(snapshots.names()) if name <= period and name[0].isdigit()]
    fullest = {name[:7]: name for name in sorted({*names, *known})} | {name: name for name in {*names, *known}}
    return tuple(name for name in names if name not in known and fullest[name[:7]] == name)


def beginnings(snapshots: Snapshots, version: Version, name: str) -> tuple[str, ...]:
    """The snapshots of less of the same month, whose rows `name` has too, but for those that a version has learned."""
    latest = max((one for one in learned(version) if one[:7] == name[:7]), default="")
    return tuple(
        one
        for one in sorted(snapshots.names())
        if one.startswith(f"{name[:7]}-") and one > latest and (one < name or name == name[:7])
    )


def merged(snapshots: Snapshots, names: Iterable[str]) -> list[SnapshotRow]:
    """The rows of several snapshots, each answer once, in the order of time."""
    rows = {told_in(row): row for name in names for row in snapshots.load(name)}
    return sorted(rows.values(), key=lambda row: row.at)


def news(snapshots: Snapshots, names: Iterable[str], known: Iterable[SnapshotRow]) -> list[SnapshotRow]:
    """The rows of several snapshots that are not `known`: of a month whose beginning was learned by itself, the rest."""
    before = {told_in(row) for row in known}
    return [row for row in merged(snapshots, names) if told_in(row) not in before]


def told_in(row: SnapshotRow) -> tuple[object, ...]:
    """What makes a row the same answer as another: where it comes from, and all that it says."""
    return row.source, row.text, row.label, row.score


def gathered(snapshots: Snapshots, fresh: Iterable[str], replay: Iterable[str], params: Params) -> Material:
    """What an update learns from: new rows from the snapshots `fresh`, replay from those its parent has learned."""
    known = merged(snapshots, replay)
    return compose(
        news(snapshots, fresh, known),
        known,
        params.update,
        params.gates.examples_per_month,
        params.gates.examples_in_all,
    )
