"""Months of the log as files: every row once, in the database or in a file, whenever somebody kills what moves them."""

from __future__ import annotations

import random
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import sqlalchemy as sa
from rows_for_tests import a_feedback, a_request

from evermoe.errors import BadInput, Conflict, StorageUnavailable
from monitoring import archive
from monitoring.events import Counts, EventLog
from tests.drills.killed import Say, Victim

MAY, JUNE, JULY = (datetime(2025, month, 3, tzinfo=UTC) for month in (5, 6, 7))
IN_JULY, IN_AUGUST = datetime(2025, 7, 20, tzinfo=UTC), datetime(2025, 8, 1, tzinfo=UTC)
ODD = "nul \0, half a pair \ud800, 中文"


def ask(log: EventLog, month: datetime, count: int, **fields: object) -> None:
    """Requests of a month, every second with feedback that came two days later."""
    futures = []
    for number in range(count):
        id = f"{month:%m}-{number}"
        futures.append(log.append(a_request(id, at=month + timedelta(minutes=number), **fields)))
        if number % 2:
            futures.append(log.append(a_feedback(f"k-{id}", id, at=month + timedelta(days=2))))
    for future in futures:
        future.result(30)


@pytest.fixture
def filled(log: EventLog) -> EventLog:
    """Six requests of May, four of June, two of July, and feedback on half of them."""
    for month, count in ((MAY, 6), (JUNE, 4), (JULY, 2)):
        ask(log, month, count, input=ODD)
    return log


def rows_of(folder: Path, table: str) -> list[dict[str, object]]:
    return [row for path in sorted(folder.glob(f"{table}-*.parquet")) for row in pq.read_table(path).to_pylist()]


def no_reason(month: str) -> None:
    """Nothing speaks for keeping a month."""


def test_each_month_that_is_over_becomes_two_files_with_every_row_once(filled: EventLog, tmp_path: Path) -> None:
    months = archive.export(filled.engine, IN_JULY, tmp_path)
    assert [(one.month, one.requests.rows, one.feedback.rows) for one in months] == [
        ("2025-05", 6, 3),
        ("2025-06", 4, 2),
    ]
    assert archive.manifest(tmp_path) == months
    asked = rows_of(tmp_path, "requests")
    assert len({row["id"] for row in asked}) == len(asked) == 10
    assert len(rows_of(tmp_path, "feedback")) == 5
    one = next(row for row in asked if row["id"] == "05-0")
    assert (one["at"], one["unit"], one["scores"]) == (MAY, "ann", '{"network": 0.75, "database": 0.25}')
    assert filled.counts() == Counts(12, 6)


def test_only_exported_months_leave_the_database_and_what_stays_is_told_with_its_reason(
    filled: EventLog, tmp_path: Path
) -> None:
    archive.export(filled.engine, IN_JULY, tmp_path)
    gone, kept = archive.prune(
        filled.engine, IN_AUGUST, tmp_path, lambda month: "needed" if month == "2025-06" else None
    )
    assert [month.month for month in gone] == ["2025-05"]
    assert kept == (archive.Kept("2025-06", "needed"),)
    assert filled.counts() == Counts(6, 3)
    gone, kept = archive.prune(filled.engine, IN_AUGUST, tmp_path, no_reason)
    assert ([month.month for month in gone], kept) == (["2025-06"], ())
    assert filled.counts() == Counts(2, 1)  # July was never exported
    assert len(rows_of(tmp_path, "requests")) == 10


def test_the_shares_of_several_arms_are_in_the_file_as_json(log: EventLog, tmp_path: Path) -> None:
    ask(log, MAY, 2, shares={"champion": 0.5, "challenger:5": 0.25, "challenger:6": 0.25})
    archive.export(log.engine, IN_JULY, tmp_path)
    told = {row["shares"] for row in rows_of(tmp_path, "requests")}
    assert told == {'{"champion": 0.5, "challenger:5": 0.25, "challenger:6": 0.25}'}
    gone, kept = archive.prune(log.engine, IN_AUGUST, tmp_path, no_reason)
    assert (len(gone), kept) == (1, ())


def test_a_file_that_was_written_before_there_were_shares_still_lets_its_month_go(
    filled: EventLog, tmp_path: Path
) -> None:
    archive.export(filled.engine, IN_JULY, tmp_path)
    for month in archive.manifest(tmp_path):
        path = tmp_path / month.requests.name
        pq.write_table(pq.read_table(path).drop_columns("shares"), path)
        file = replace(month.requests, sha256=archive._sha256(path))
        archive._note(tmp_path, replace(month, requests=file))
    gone, kept = archive.prune(filled.engine, IN_AUGUST, tmp_path, no_reason)
    assert ([month.month for month in gone], kept) == (["2025-05", "2025-06"], ())


def test_a_month_younger_than_the_limit_stays(filled: EventLog, tmp_path: Path) -> None:
    archive.export(filled.engine, IN_JULY, tmp_path)
    assert archive.prune(filled.engine, datetime(2025, 5, 31, tzinfo=UTC), tmp_path, no_reason) == ((), ())
    assert filled.counts() == Counts(12, 6)


def test_feedback_that_came_after_the_export_keeps_its_month_until_it_is_exported_again(
    filled: EventLog, tmp_path: Path
) -> None:
    archive.export(filled.engine, IN_JULY, tmp_path)
    filled.record(a_feedback("late", "05-0", at=IN_JULY))
    gone, kept = archive.prune(filled.engine, IN_JULY, tmp_path, no_reason)
    assert [month.month for month in gone] == ["2025-06"]
    assert kept[0].reason == "feedback-2025-05.parquet has 3 rows, the database 4; export the month again"
    archive.export(filled.engine, IN_JULY, tmp_path)
    assert archive.prune(filled.engine, IN_JULY, tmp_path, no_reason)[1] == ()
    assert len(rows_of(tmp_path, "feedback")) == 6
    assert filled.counts() == Counts(2, 1)


@pytest.mark.parametrize("name", ["requests-2025-05.parquet", "feedback-2025-05.parquet"])
def test_a_file_that_was_changed_or_lost_deletes_nothing(filled: EventLog, tmp_path: Path, name: str) -> None:
    archive.export(filled.engine, IN_JULY, tmp_path)
    (tmp_path / name).write_bytes(b"PAR1" + (tmp_path / name).read_bytes()[4:-1] + b"?")
    gone, kept = archive.prune(filled.engine, JUNE, tmp_path, no_reason)
    assert (gone, [one.month for one in kept]) == ((), ["2025-05"])
    (tmp_path / name).unlink()
    assert archive.prune(filled.engine, JUNE, tmp_path, no_reason)[0] == ()
    assert filled.counts() == Counts(12, 6)


def test_a_row_that_differs_from_its_file_deletes_nothing(filled: EventLog, tmp_path: Path) -> None:
    archive.export(filled.engine, IN_JULY, tmp_path)
    with filled.engine.begin() as connection:
        connection.execute(sa.text("UPDATE requests SET output = 'other' WHERE id = '05-3'"))
    kept = archive.prune(filled.engine, JUNE, tmp_path, no_reason)[1]
    assert "a row of requests-2025-05.parquet differs from the database" in kept[0].reason
    assert filled.counts() == Counts(12, 6)


def test_rows_that_come_after_their_month_has_left_make_another_part(filled: EventLog, tmp_path: Path) -> None:
    archive.export(filled.engine, IN_JULY, tmp_path)
    archive.prune(filled.engine, IN_JULY, tmp_path, no_reason)
    filled.record(a_request("straggler", at=MAY))
    (part,) = archive.export(filled.engine, IN_JULY, tmp_path)
    assert (part.part, part.requests) == (2, archive.manifest(tmp_path)[1].requests)
    assert part.requests.name == "requests-2025-05.2.parquet"
    assert len(rows_of(tmp_path, "requests")) == 11


def test_a_month_that_is_half_way_out_is_not_exported_over(filled: EventLog, tmp_path: Path) -> None:
    archive.export(filled.engine, IN_JULY, tmp_path)
    manifest = tmp_path / archive.MANIFEST
    manifest.write_text(manifest.read_text().replace('"exported"', '"pruning"', 1))
    with pytest.raises(Conflict, match="finish with `evermoe log prune`"):
        archive.export(filled.engine, IN_JULY, tmp_path)


def test_a_row_that_comes_while_its_month_is_half_way_out_is_part_of_the_next_export(
    filled: EventLog, tmp_path: Path
) -> None:
    archive.export(filled.engine, IN_JULY, tmp_path)
    manifest = tmp_path / archive.MANIFEST
    manifest.write_text(manifest.read_text().replace('"exported"', '"pruning"', 1))
    filled.record(a_request("straggler", at=MAY))
    filled.record(a_feedback("late", "05-0", at=IN_JULY))
    assert archive.prune(filled.engine, IN_JULY, tmp_path, no_reason)[1] == ()
    (part,) = archive.export(filled.engine, IN_JULY, tmp_path)
    assert (part.part, part.requests.rows, part.feedback.rows) == (2, 2, 1)  # the rated one stayed with its feedback
    assert {row["id"] for row in rows_of(tmp_path, "requests")} >= {"straggler", *(f"05-{n}" for n in range(6))}


def test_two_exports_at_once_write_the_same_folder_one_after_the_other(filled: EventLog, tmp_path: Path) -> None:
    with ThreadPoolExecutor(6) as pool:
        done = list(pool.map(lambda _: archive.export(filled.engine, IN_JULY, tmp_path / "new"), range(12)))
    assert all(one == done[0] for one in done)
    assert len(rows_of(tmp_path / "new", "requests")) == 10


def test_a_manifest_that_cannot_be_read_is_told_in_one_line(log: EventLog, tmp_path: Path) -> None:
    (tmp_path / archive.MANIFEST).write_text("{")
    with pytest.raises(BadInput, match="restore it, or export to a new folder"):
        archive.prune(log.engine, IN_JULY, tmp_path, no_reason)


def export_and_prune(say: Say, url: str, folder: str) -> None:
    """What is killed: prune, which finishes what the one before began, and export, again and again."""
    with EventLog(url) as log:
        while True:
            archive.prune(log.engine, IN_AUGUST, Path(folder), no_reason)
            archive.export(log.engine, IN_AUGUST, Path(folder))
            say("exported")


def test_a_kill_in_between_loses_no_row_and_leaves_none_twice(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw, folder = random.Random(7), tmp_path / "archive"
    with EventLog(url) as log:
        for number in range(8):
            month = datetime(2024, number + 1, 3, tzinfo=UTC)
            ask(log, month, 300)
            victim = Victim(export_and_prune, url, str(folder))
            if draw.random() < 0.5:
                victim.hear(30)
            time.sleep(draw.uniform(0, 0.6))
            victim.kill()
            in_files = {row["id"] for row in rows_of(folder, "requests")} if folder.exists() else set()
            with log.engine.connect() as connection:
                in_database = set(connection.scalars(sa.text("SELECT id FROM requests")))
            assert len(in_files | in_database) == 300 * (number + 1)
        archive.prune(log.engine, IN_AUGUST, folder, no_reason)
        archive.export(log.engine, IN_AUGUST, folder)
        archive.prune(log.engine, IN_AUGUST, folder, no_reason)
        assert log.counts() == Counts(0, 0)
    asked, told = rows_of(folder, "requests"), rows_of(folder, "feedback")
    assert len(asked) == len({row["id"] for row in asked}) == 8 * 300
    assert len(told) == len({row["key"] for row in told}) == 8 * 150
    assert list(folder.glob("*.part")) == []


def test_a_folder_that_is_none_is_told_in_one_line_and_nothing_leaves_the_database(
    filled: EventLog, tmp_path: Path
) -> None:
    (tmp_path / "taken").write_text("a file")
    before = filled.counts()
    with pytest.raises(StorageUnavailable, match="taken cannot be written"):
        archive.export(filled.engine, IN_JULY, tmp_path / "taken")
    assert filled.counts() == before
