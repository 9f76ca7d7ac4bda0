"""The event log when things break: full disks, lost databases, damaged files. Nothing acknowledged is lost.

Killed writers are in `tests/drills/`."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import sqlalchemy as sa
from rows_for_tests import a_feedback, a_request
from sqlalchemy import event, func, select

from evermoe.errors import StorageUnavailable
from monitoring import writer
from monitoring.events import Counts, EventLog
from monitoring.schema import requests


def one_line(error: BaseException) -> str:
    """What the user reads."""
    assert "\n" not in str(error)
    return str(error)


def test_nothing_is_acknowledged_before_its_commit(url: str) -> None:
    with EventLog(url) as log, EventLog(url) as other:
        reached = threading.Event()
        event.listen(log.engine, "commit", lambda connection: reached.set())
        release = _hold_the_disk(log)
        futures: list[Future[Any]] = [log.append(a_request()), log.append(a_feedback()), log.append(a_request())]
        assert reached.wait(30)
        assert not any(future.done() for future in futures)
        assert other.counts() == Counts(requests=0, feedback=0)
        release.set()
        assert [future.exception(timeout=30) for future in futures] == [None, None, None]
        assert other.counts() == Counts(requests=1, feedback=1)


def test_a_full_disk_is_told_and_writing_goes_on_when_there_is_space(sqlite_url: str) -> None:
    with EventLog(sqlite_url) as log:
        log.record(a_request("before"))
        room: dict[str, int] = {}

        @event.listens_for(log.engine, "before_cursor_execute")
        def limit_the_file(_: object, cursor: Any, *__: object) -> None:
            pages = room.get("pages") or 1_000_000
            cursor.connection.execute(f"PRAGMA max_page_count={pages}")

        with log.engine.connect() as connection:
            room["pages"] = connection.exec_driver_sql("PRAGMA page_count").scalar_one() + 10
        refusals = []
        for number in range(40):
            refusals.append(log.append(a_request(f"r{number}", input="x" * 4000)).exception(timeout=30))
        refused = [error for error in refusals if error is not None]
        assert isinstance(refusals[-1], StorageUnavailable)
        assert all("disk is full; free some space and try again" in one_line(error) for error in refused)
        assert log.counts().requests == 1 + 40 - len(refused) > 3
        room.clear()
        for number in range(40):
            log.record(a_request(f"r{number}", input="x" * 4000))
        assert log.counts().requests == 41


def test_a_batch_on_a_full_disk_fails_whole_and_stores_nothing(sqlite_url: str) -> None:
    with EventLog(sqlite_url) as log:
        with log.engine.connect() as connection:
            pages = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
        event.listen(log.engine, "checkout", lambda dbapi, *_: dbapi.execute(f"PRAGMA max_page_count={pages}"))
        futures = [log.append(a_request(f"r{number}", input="x" * 9000)) for number in range(100)]
        assert {type(future.exception(timeout=30)) for future in futures} == {StorageUnavailable}
        assert log.counts().requests == 0


def test_a_database_locked_by_another_is_told_and_writing_goes_on_after(sqlite_url: str) -> None:
    with EventLog(sqlite_url) as log, EventLog(sqlite_url) as other:
        with other.engine.connect().execution_options(evermoe_writes=True) as connection, connection.begin():
            with pytest.raises(StorageUnavailable, match="database is locked; try again"):
                log.record(a_request())
        log.record(a_request())
        assert log.counts().requests == 1


def test_postgresql_backends_that_are_killed_lose_no_acknowledged_row(postgres_url: str) -> None:
    acknowledged: list[str] = []
    refused: list[str] = []
    stop = threading.Event()

    def append(thread: int) -> None:
        number = 0
        while not stop.is_set():
            identifier = f"{thread}-{number}"
            number += 1
            try:
                log.record(a_request(identifier))
                acknowledged.append(identifier)
            except StorageUnavailable:
                refused.append(identifier)

    name = f"killed_{id(stop)}"
    killed = 0
    with EventLog(f"{postgres_url}&application_name={name}") as log:
        threads = [threading.Thread(target=append, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        with sa.create_engine(postgres_url, isolation_level="AUTOCOMMIT").connect() as connection:
            for _ in range(10):
                _wait(lambda goal=len(acknowledged) + 20: len(acknowledged) >= goal)  # type: ignore[misc]
                killed += connection.execute(
                    sa.text(
                        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity "
                        "WHERE application_name = :name AND pid <> pg_backend_pid()"
                    ),
                    {"name": name},
                ).scalar_one()
        stop.set()
        for thread in threads:
            thread.join()
        assert killed >= 10
        for identifier in refused:
            log.record(a_request(identifier))
        with log.engine.connect() as connection:
            assert connection.scalar(select(func.count()).select_from(requests)) == len(acknowledged) + len(refused)
            assert set(connection.scalars(select(requests.c.id))) == {*acknowledged, *refused}


def test_a_connection_lost_while_idle_is_replaced_without_a_failure(postgres_url: str) -> None:
    name = f"idle_{uuid4().hex[:8]}"
    with EventLog(f"{postgres_url}&application_name={name}") as log, EventLog(postgres_url) as other:
        log.record(a_request("r1"))
        with other.engine.connect() as connection:
            ended = connection.exec_driver_sql(
                "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity "
                f"WHERE application_name = '{name}' AND pid <> pg_backend_pid()"
            )
            assert ended.scalar_one() >= 1
        assert log.record(a_feedback()).reason == "counted"
        log.record(a_request("r2"))
        assert log.counts() == Counts(requests=2, feedback=1)


def test_a_postgresql_that_does_not_answer_is_told_without_the_password() -> None:
    with pytest.raises(StorageUnavailable, match="see that the server runs") as raised:
        EventLog("postgresql://ann:secret@127.0.0.1:1/nothing")
    assert "secret" not in one_line(raised.value)


def test_a_file_that_is_no_database_is_told_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "events.db").write_bytes(b"these are not the pages you are looking for\n" * 500)
    with pytest.raises(StorageUnavailable, match="not a database; restore the file from a backup") as raised:
        EventLog(f"sqlite:///{tmp_path / 'events.db'}")
    one_line(raised.value)


def test_a_torn_file_is_told_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "events.db"
    with EventLog(f"sqlite:///{path}") as log:
        for number in range(50):
            log.append(a_request(f"r{number}", input="x" * 2000))
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2 + 100])
    with pytest.raises(StorageUnavailable, match="malformed; restore the file from a backup") as raised:
        EventLog(f"sqlite:///{path}")
    one_line(raised.value)


def test_damage_deep_in_the_file_is_told_by_the_question_that_meets_it(tmp_path: Path) -> None:
    path = tmp_path / "events.db"
    with EventLog(f"sqlite:///{path}") as log:
        for number in range(200):
            log.append(a_request(f"r{number:03}", input="x" * 2000))
    pages = bytearray(path.read_bytes())
    for start in range(20 * 4096, len(pages), 4096):
        pages[start : start + 4096] = b"\xff" * 4096
    path.write_bytes(pages)
    with EventLog(f"sqlite:///{path}") as log:
        with pytest.raises(StorageUnavailable, match="malformed"):
            [log.request(f"r{number:03}") for number in range(200)]


def test_a_folder_that_is_missing_is_told_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(StorageUnavailable, match="see that its folder exists"):
        EventLog(f"sqlite:///{tmp_path / 'nowhere' / 'events.db'}")


def test_a_full_queue_refuses_rather_than_loses(sqlite_url: str) -> None:
    with EventLog(sqlite_url, queue_limit=5, batch_limit=1) as log:
        release = _hold_the_disk(log)
        futures = _append_until(log, lambda last: last.done())
        assert "rows waiting, its limit; nothing was stored" in one_line(futures[-1].exception() or AssertionError())
        assert log.queue_depth == 5
        release.set()
        assert all(future.result(timeout=30) is None for future in futures[:-1])
        assert log.counts().requests == len(futures) - 1


def test_a_stuck_database_refuses_new_rows_and_loses_none(sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "STUCK_SECONDS", 0.05)
    with EventLog(sqlite_url) as log:
        release = _hold_the_disk(log)
        futures = _append_until(log, lambda last: last.done())
        assert "has not answered for" in one_line(futures[-1].exception() or AssertionError())
        with pytest.raises(StorageUnavailable):
            log.record(a_request("late"))
        release.set()
        assert all(future.result(timeout=30) is None for future in futures[:-1])
        log.record(a_request("later"))
        assert log.counts().requests == len(futures)


def test_waiting_for_a_row_ends_even_when_the_database_does_not_answer(sqlite_url: str) -> None:
    with EventLog(sqlite_url) as log:
        release = _hold_the_disk(log)
        with pytest.raises(StorageUnavailable, match=r"did not confirm a row within 0\.05 s"):
            log.record(a_request(), timeout=0.05)
        release.set()
        log.record(a_request())
        assert log.counts().requests == 1


def test_a_caller_that_leaves_does_not_take_its_row_back(sqlite_url: str) -> None:
    with EventLog(sqlite_url) as log:
        release = _hold_the_disk(log)
        future = log.append(a_request())
        assert not future.cancel()
        release.set()
        future.result(timeout=30)
        assert log.request("r1") == a_request()


def _hold_the_disk(log: EventLog) -> threading.Event:
    """Let no commit through until the event that this returns is set."""
    release = threading.Event()
    event.listen(log.engine, "commit", lambda connection: release.wait(30))
    return release


def _append_until(log: EventLog, enough: Callable[[Future[None]], bool]) -> list[Future[None]]:
    futures: list[Future[None]] = []

    def one_more() -> bool:
        futures.append(log.append(a_request(f"r{len(futures)}")))
        return enough(futures[-1])

    _wait(one_more)
    return futures


def _wait(condition: Callable[[], bool]) -> None:
    """Until `condition`, for half a minute at most."""
    pause = threading.Event()
    for _ in range(3000):
        if condition():
            return
        pause.wait(0.01)
    raise AssertionError("it did not happen within 30 s")
