"""The records of a base are frozen once, and no others are taken for them."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from evermoe.errors import Conflict
from flows.base import frozen
from registry.snapshots import SnapshotRow, Snapshots


def test_a_base_that_was_begun_with_other_records_is_not_finished_with_them(tmp_path: Path) -> None:
    first = datetime(2025, 1, 1, tzinfo=UTC)
    rows = [SnapshotRow(f"fix {n}", "net", None, first + timedelta(hours=n), f"git-{n}") for n in range(5)]
    snapshots = Snapshots(tmp_path)
    assert frozen(snapshots, rows[::-1]) == rows == frozen(snapshots, rows)
    for others in (rows[1:], [*rows, rows[0]], [replace(rows[0], label="db"), *rows[1:]]):
        with pytest.raises(Conflict, match=r"base\.jsonl holds the records of another base"):
            frozen(snapshots, others)
    assert frozen(snapshots, rows) == rows
