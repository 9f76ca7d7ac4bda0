"""What users asked and told becomes rows: a right answer, a liking, or a text; and each says which response it comes from."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from flows.snapshots.freezing import is_sound, row_of
from monitoring.events import EventLog, Feedback, Request
from registry.snapshots import SnapshotRow, read_rows, write_rows

NOON = datetime(2025, 6, 2, 12, tzinfo=UTC)


def request(identifier: str, **changes: object) -> Request:
    values = {
        "id": identifier,
        "at": NOON,
        "kind": "classify",
        "unit": "ann",
        "unit_given": True,
        "input": f"text of {identifier}",
        "output": "db.sql",
        "scores": {"db.sql": 1.0},
        "rollout": None,
        "arm": "champion",
        "version": "1",
        "propensity": 1.0,
        "latency_ms": 1.0,
        "prompt_tokens": 4,
        "output_tokens": 0,
        "experts": (1,),
    }
    return Request(**values | changes)  # type: ignore[arg-type]


@pytest.fixture
def log(tmp_path: Path) -> Iterator[EventLog]:
    with EventLog(f"sqlite:///{tmp_path / 'events.db'}") as log:
        yield log


def rows(log: EventLog) -> dict[str, SnapshotRow]:
    asked = log.answered(NOON - timedelta(days=1), NOON + timedelta(days=1), NOON + timedelta(days=1))
    return {one.request.id: row_of(one) for one in asked}


def test_a_told_label_is_the_label_and_a_score_alone_is_of_the_answer_that_was_given(log: EventLog) -> None:
    for name in ("told", "liked", "silent"):
        log.record(request(name))
    log.record(Feedback("k1", "told", NOON + timedelta(hours=1), None, "net.switch"))
    log.record(Feedback("k2", "liked", NOON + timedelta(hours=1), 0.8, None))
    found = rows(log)
    assert found["told"] == SnapshotRow("text of told", "net.switch", "ann", NOON, "response:told")
    assert found["liked"] == SnapshotRow("text of liked", None, "ann", NOON, "response:liked", "db.sql", 0.8)
    assert found["silent"] == SnapshotRow("text of silent", None, "ann", NOON, "response:silent")


def test_a_unit_that_we_made_up_is_nobody(log: EventLog) -> None:
    log.record(request("r", unit_given=False))
    assert rows(log)["r"].unit is None


def test_language_is_learned_of_classified_texts_that_were_answered() -> None:
    assert is_sound(request("r"))
    assert not any(
        is_sound(request("r", **{name: value}))
        for name, value in (("error", "it broke"), ("input", " "), ("kind", "chat"))
    )


def test_a_snapshot_gives_back_what_it_was_given(tmp_path: Path) -> None:
    given = [
        SnapshotRow("a", "net.switch", "ann", NOON, "response:1"),
        SnapshotRow("b", None, None, NOON + timedelta(hours=1), "response:2", "db.sql", 0.0),
        SnapshotRow("c", None, None, NOON + timedelta(hours=2), "response:3"),
    ]
    write_rows(tmp_path / "rows.jsonl", given)
    assert list(read_rows(tmp_path / "rows.jsonl")) == given
