"""No unit teaches more than its share, and which of its rows stay is the same everywhere."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime

from flows.learning.caps import capped
from registry.snapshots import SnapshotRow


def rows(month: int, source: str = "response", **units: int) -> list[SnapshotRow]:
    """So many rows of each unit in a month of 2025; `nobody` is no unit."""
    at = datetime(2025, month, 3, tzinfo=UTC)
    return [
        SnapshotRow(f"{unit} {n}", "a", None if unit == "nobody" else unit, at, f"{source}:{unit}-{month}-{n}")
        for unit, count in units.items()
        for n in range(count)
    ]


def counts(found: list[SnapshotRow]) -> dict[str | None, int]:
    return dict(Counter(row.unit for row in found))


def test_a_unit_keeps_a_share_of_the_month_and_others_keep_all() -> None:
    _, fresh = capped([], rows(6, loud=100, quiet=5, nobody=95), 0.1, 10)
    assert counts(fresh) == {"loud": 20, "quiet": 5, None: 95}


def test_a_small_month_keeps_its_rows() -> None:
    _, fresh = capped([], rows(6, one=9, other=2), 0.1, 10)
    assert counts(fresh) == {"one": 9, "other": 2}


def test_a_unit_that_always_sent_most_goes_on_to() -> None:
    base = rows(1, source="stream", author=60, other=40)
    _, fresh = capped(base, rows(6, author=60, other=40), 0.1, 10)
    assert counts(fresh) == {"author": 60, "other": 40}


def test_what_was_capped_stays_capped_when_it_is_replayed_and_earns_nothing() -> None:
    flood = rows(5, loud=100, nobody=100)
    known, fresh = capped(flood, rows(6, loud=100, nobody=100), 0.1, 10)
    assert counts(known)["loud"] == 20
    assert counts(fresh)["loud"] == 33  # of 120 rows that were learned in May, 20 were its own: a sixth of 200


def test_the_same_rows_stay_in_whatever_order_they_come() -> None:
    flood = rows(6, loud=100, nobody=100)
    _, one = capped([], flood, 0.1, 10)
    _, other = capped([], flood[::-1], 0.1, 10)
    assert one == other[::-1]
    assert {row.text for row in one if row.unit} != {f"loud {n}" for n in range(20)}  # not just the first to come


def test_a_share_of_one_caps_nobody() -> None:
    assert len(capped([], rows(6, loud=100), 1.0, 0)[1]) == 100
