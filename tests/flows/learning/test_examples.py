"""What is trained on and what is held out: parted by the text alone, the same for ever."""

from __future__ import annotations

import unicodedata
from datetime import UTC, datetime

from flows.learning.examples import is_held_out, split
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


def test_thumbs_and_bare_texts_are_no_examples_and_none_that_is_held_out_is_learned_from() -> None:
    at = datetime(2025, 6, 2, tzinfo=UTC)
    thumbs = [SnapshotRow(f"text {n}", None, "ann", at, "test", answer="a", score=n % 2) for n in range(40)]
    bare = [SnapshotRow(f"text {n}", None, "ann", at, "test") for n in range(40)]
    found = split([*thumbs, *bare])
    assert (found.train, found.held_out) == ((), {})
    assert [thumb.up for thumb in found.thumbs[:4]] == [False, False, True, False]  # 0, 2, 3, 4: text 1 is held out
    assert [thumb.text for thumb in found.thumbs] == list(found.texts)
    assert not any(is_held_out(text) for text in found.texts)
    assert len(found.texts) == 38


def test_the_choice_does_not_depend_on_the_machine() -> None:
    assert [number for number in range(40) if is_held_out(f"text {number}")] == [1, 28]


def test_a_text_that_is_spaced_or_capitalized_otherwise_is_on_the_same_side() -> None:
    for number in range(200):
        text = f"Reset café ΐ {number}"
        others = (text.upper(), f" {text}\n", text.replace(" ", "  "), unicodedata.normalize("NFD", text))
        assert {is_held_out(other) for other in others} == {is_held_out(text)}
