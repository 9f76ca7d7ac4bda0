"""What a version has not learned yet: each month once, whether it came whole or its beginning first."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from evermoe.settings import load_params
from flows.snapshots.learned import LEARNED, beginnings, gathered, unlearned
from registry.snapshots import SnapshotRow, Snapshots
from registry.tracker.versions import Version

JUNE = datetime(2025, 6, 1, tzinfo=UTC)
ROWS = tuple(
    SnapshotRow(f"text {hour}", "net.switch", f"unit {hour}", JUNE + timedelta(hours=6 * hour), f"response:{hour}")
    for hour in range(100)
)


def knows(*names: str) -> Version:
    """A version that has learned these snapshots."""
    return Version("1", "2025-05", None, None, "", "", "", {LEARNED: ",".join(names)}, (), JUNE)


@pytest.fixture
def snapshots(tmp_path: Path) -> Snapshots:
    """The base, June in three parts, of which each holds the one before it, and July."""
    found = Snapshots(tmp_path)
    found.freeze(
        "base", [replace(row, source=f"stream:{n}", at=row.at - timedelta(days=60)) for n, row in enumerate(ROWS)]
    )
    for name, rows in (("2025-06-03", ROWS[:9]), ("2025-06-14", ROWS[:52]), ("2025-06", ROWS)):
        found.freeze(name, rows)
    found.freeze("2025-07", [replace(row, source=f"{row.source} again") for row in ROWS])
    return found


@pytest.mark.parametrize(
    ("known", "period", "expected"),
    [
        (("base",), "2025-07", ("2025-06", "2025-07")),
        (("base", "2025-06"), "2025-07", ("2025-07",)),
        (("base", "2025-06-14"), "2025-07", ("2025-06", "2025-07")),
        (("base",), "2025-06-14", ("2025-06-14",)),
        (("base", "2025-06-14"), "2025-06-14", ()),
    ],
)
def test_a_beginning_is_no_month_of_its_own_once_there_is_more_of_it(
    snapshots: Snapshots, known: tuple[str, ...], period: str, expected: tuple[str, ...]
) -> None:
    if "-14" in period:
        names = [name for name in snapshots.names() if name not in ("2025-06", "2025-07")]
        for file in snapshots.folder.iterdir():
            if file.name.split(".")[0] in ("2025-06", "2025-07"):
                file.unlink()
        assert list(snapshots.names()) == names
    assert unlearned(snapshots, knows(*known), period) == expected


def test_a_beginning_is_looked_at_with_more_of_its_month_until_it_is_learned(snapshots: Snapshots) -> None:
    assert beginnings(snapshots, knows("base"), "2025-06") == ("2025-06-03", "2025-06-14")
    assert beginnings(snapshots, knows("base"), "2025-06-14") == ("2025-06-03",)
    assert beginnings(snapshots, knows("base", "2025-06-14"), "2025-06") == ()
    assert beginnings(snapshots, knows("base", "2025-06-03"), "2025-06") == ("2025-06-14",)
    assert beginnings(snapshots, knows("base"), "2025-07") == ()


def test_rows_that_were_learned_with_a_beginning_are_not_new_with_the_whole(snapshots: Snapshots) -> None:
    material = gathered(snapshots, ("2025-06",), ("base", "2025-06-14"), load_params())
    new = {example.text for example in (*material.domain, *material.new_exam)}
    assert new == {row.text for row in ROWS[52:]}
