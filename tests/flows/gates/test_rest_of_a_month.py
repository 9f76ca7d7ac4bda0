"""The checks of a month whose beginning was learned by itself: they look at the rest alone."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from evermoe.settings import load_params
from flows.gates.checks import looked_at
from flows.snapshots.learned import LEARNED
from monitoring.checks import CheckPolicy
from registry.snapshots import SnapshotRow, Snapshots
from registry.tracker.versions import Version
from tests.flows.test_loop import OLD, texts

JUNE = datetime(2025, 6, 1, tzinfo=UTC)
POLICY = CheckPolicy(**load_params().checks.model_dump())


def rows(count: int, begin: datetime, loud: str | None = None) -> list[SnapshotRow]:
    """So many notes, five hours apart; every second one of the unit `loud`."""
    noted = enumerate(itertools.islice(texts(*OLD), count))
    return [
        SnapshotRow(
            text, label, loud if loud and n % 2 else f"unit {n}", begin + timedelta(hours=5 * n), f"{begin}:{n}"
        )
        for n, (text, label) in noted
    ]


@pytest.mark.parametrize("poisoned", [False, True])
def test_a_poisoned_rest_is_stopped_though_the_beginning_was_learned(tmp_path: Path, poisoned: bool) -> None:
    snapshots, begin = Snapshots(tmp_path), JUNE + timedelta(days=14)
    snapshots.freeze("base", [row for days in (90, 60, 30) for row in rows(120, JUNE - timedelta(days=days))])
    first, rest = rows(60, JUNE), rows(60, begin, "loud" if poisoned else None)
    snapshots.freeze("2025-06-14", first)
    snapshots.freeze("2025-06", [*first, *rest])
    champion = Version("2", "2025-06", None, None, "", "", "", {LEARNED: "base,2025-06-14"}, (), begin)
    found = looked_at(snapshots, champion, ["2025-06"], POLICY)["2025-06"]
    assert [check.name for check in found if not check.passed] == (["one unit"] if poisoned else [])
