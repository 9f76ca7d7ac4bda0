"""What is trained on and what is held out: parted by the text alone, the same for ever."""

from __future__ import annotations

from datetime import UTC, datetime

from flows.examples import is_held_out, split
from registry.snapshots import SnapshotRow


def row(text: str, month: int = 6) -> SnapshotRow:
    return SnapshotRow(text, "a", "ann", datetime(2025, month, 2, tzinfo=UTC), "test")


def test_one_in_seven_is_held_out() -> None:
    assert 0.12 < sum(is_held_out(f"text {number}") for number in range(7000)) / 7000 < 0.165


def test_a_text_that_comes_again_in_another_month_is_on_the_same_side() -> None:
    found = split([row(f"text {number}", month) for month in (6, 7) for number in range(200)])
    trained = {example.text for example in found.train}
    assert trained.isdisjoint(example.text for example in found.examination)
    assert found.held_out["2025-06"] == found.held_out["2025-07"]


def test_nothing_is_lost_and_order_is_kept() -> None:
    rows = [row(f"text {number}") for number in range(100)]
    found = split(rows)
    assert len(found.train) + len(found.examination) == 100
    assert [example.text for example in found.train] == [r.text for r in rows if not is_held_out(r.text)]


def test_the_choice_does_not_depend_on_the_machine() -> None:
    assert [number for number in range(40) if is_held_out(f"text {number}")] == [1, 28]
