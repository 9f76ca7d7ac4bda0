"""The ledger: one open rollout, one opening a month, no lost update, and an audit that shows every tampering."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from evermoe.errors import BadInput, Conflict, HomeTooNew, NotFound, StorageUnavailable
from registry.actions import steering
from registry.book.ledger import Ledger, Plan
from registry.rollout import Challenger, Decision, Policy, Rollout, new_rollout

OPENED = datetime(2025, 6, 1, 6, tzinfo=UTC)
LATER = OPENED + timedelta(days=1)


def june(**changes: Any) -> Rollout:
    challenger = changes.pop("challenger", "2")
    return replace(new_rollout("june", "2025-06", "1", challenger, "salt-june", Policy(), OPENED), **changes)


def july(**changes: Any) -> Rollout:
    return replace(new_rollout("july", "2025-07", "1", "3", "salt-july", Policy(), OPENED), **changes)


def at(share: float) -> tuple[Challenger, ...]:
    return (Challenger("2", "challenger", share),)


@pytest.fixture
def ledger(database_url: str) -> Iterator[Ledger]:
    with Ledger(database_url) as book:
        yield book


def rewrite(url: str, *statements: str) -> None:
    """Change the database behind the ledger's back, triggers off, as an intruder would."""
    engine = sa.create_engine(url)
    with engine.begin() as db:
        if engine.dialect.name == "sqlite":
            db.execute(sa.text("DROP TRIGGER audit_no_update"))
            db.execute(sa.text("DROP TRIGGER audit_no_delete"))
        else:
            db.execute(sa.text("DROP TRIGGER audit_append_only ON audit"))
        for statement in statements:
            db.execute(sa.text(statement))
    engine.dispose()


def test_an_opened_rollout_is_read_back_whole_by_another_process(ledger: Ledger, database_url: str) -> None:
    ledger.open(june(), by="monthly")
    with Ledger(database_url) as other:
        assert other.running() == other.get("june") == other.find("2025-06", "1") == june()
        assert other.list() == (june(),)


def test_the_plan_is_what_a_gateway_routes_by_and_none_when_nothing_is_open(ledger: Ledger) -> None:
    assert ledger.plan() is None
    ledger.open(june(), by="monthly")
    assert ledger.plan() == Plan("june", "1", at(0.05), "salt-june", 0)
    ledger.apply("june", Decision("advance", 0.1, "no harm"), "rollout", LATER)
    assert ledger.plan() == Plan("june", "1", at(0.1), "salt-june", 1)
    ledger.apply("june", steering.pause(june()), "ann", LATER)
    assert ledger.plan() == Plan("june", "1", at(0.1), "salt-june", 2)
    ledger.apply("june", Decision("promote", 0.1, "better"), "ann", LATER)
    assert ledger.plan() is None


def test_every_change_leaves_one_audit_row_with_who_when_why_and_the_evidence(ledger: Ledger) -> None:
    ledger.open(june(), by="monthly", evidence={"gates": "passed"})
    ledger.apply("june", Decision("advance", 0.1, "no harm"), "rollout", LATER, {"e_promote": 3.5, "at": LATER})
    ledger.apply("june", steering.abort(june(), "users complain"), "ann", LATER)
    rows = ledger.history("june")
    assert [(row.number, row.action, row.by, row.share, row.revision) for row in rows] == [
        (1, "open", "monthly", 0.05, 0),
        (2, "advance", "rollout", 0.1, 1),
        (3, "abort", "ann", 0.0, 2),
    ]
    assert [row.at for row in rows] == [OPENED, LATER, LATER]
    assert rows[0].evidence == {"gates": "passed", "terms": rows[0].evidence["terms"]}
    assert rows[1].evidence["e_promote"] == 3.5
    assert rows[2].reason == "users complain"
    assert ledger.verify().ok


def test_a_hold_changes_nothing_and_writes_nothing(ledger: Ledger) -> None:
    ledger.open(june(), by="monthly")
    assert ledger.apply("june", Decision("hold", 0.05, "wait"), "rollout", LATER) == june()
    assert len(ledger.history("june")) == 1


def test_a_retried_opening_returns_the_rollout_that_stands(ledger: Ledger) -> None:
    ledger.open(june(), by="monthly")
    moved = ledger.apply("june", Decision("advance", 0.1, "no harm"), "rollout", LATER)
    assert ledger.open(june(id="june-again", salt="other"), by="monthly") == moved
    assert len(ledger.history()) == 1 + 1


def test_a_month_never_opens_a_second_challenger_against_the_same_champion(ledger: Ledger) -> None:
    ledger.open(june(), by="monthly")
    ledger.apply("june", steering.abort(june()), "ann", LATER)
    with pytest.raises(Conflict, match=r"2025-06 already opened rollout june .*aborted"):
        ledger.open(june(id="again", salt="x", challenger="9"), by="monthly")


def test_a_second_rollout_waits_until_the_first_is_closed(ledger: Ledger) -> None:
    ledger.open(june(), by="monthly")
    with pytest.raises(Conflict, match="june is still running"):
        ledger.open(july(), by="monthly")
    ledger.apply("june", Decision("inconclusive", 0.0, "superseded by the challenger of 2025-07"), "monthly", LATER)
    ledger.open(july(), by="monthly")
    assert [(one.id, one.status) for one in ledger.list()] == [("june", "inconclusive"), ("july", "running")]


def test_of_two_controllers_that_decided_on_the_same_revision_the_second_loses(
    ledger: Ledger, database_url: str
) -> None:
    ledger.open(june(), by="monthly")
    with Ledger(database_url) as other:
        assert other.apply("june", Decision("advance", 0.1, "a"), "one", LATER, revision=0).share == 0.1
        with pytest.raises(Conflict, match="changed meanwhile"):
            ledger.apply("june", Decision("advance", 0.1, "b"), "two", LATER, revision=0)
    assert [row.by for row in ledger.history("june")] == ["monthly", "one"]


def test_controllers_racing_from_many_threads_lose_no_change_and_break_no_chain(database_url: str) -> None:
    with Ledger(database_url) as ledger:
        ledger.open(june(), by="monthly")

    def control(name: str) -> int:
        applied = 0
        with Ledger(database_url) as book:
            for turn in range(10):
                seen = book.get("june")
                try:
                    book.apply("june", Decision("share", 0.1 + turn / 100, name), name, LATER, revision=seen.revision)
                    applied += 1
                except Conflict:
                    pass
        return applied

    with ThreadPoolExecutor(4) as pool:
        applied = sum(pool.map(control, ["a", "b", "c", "d"]))
    with Ledger(database_url) as ledger:
        assert applied >= 10
        assert ledger.get("june").revision == applied == len(ledger.history("june")) - 1
        assert ledger.verify().ok


def test_two_processes_may_make_the_tables_at_once(database_url: str) -> None:
    with ThreadPoolExecutor(4) as pool:
        books = list(pool.map(Ledger, [database_url] * 4))
    assert all(book.running() is None for book in books)
    for book in books:
        book.close()


def test_what_the_state_forbids_conflicts_and_leaves_no_trace(ledger: Ledger) -> None:
    ledger.open(june(), by="monthly")
    ledger.apply("june", steering.abort(june()), "ann", LATER)
    with pytest.raises(Conflict, match="aborted"):
        ledger.apply("june", Decision("promote", 0.5, "too late"), "rollout", LATER)
    assert [row.action for row in ledger.history("june")] == ["open", "abort"]


def test_an_unknown_rollout_is_named(ledger: Ledger) -> None:
    for call in (ledger.get, ledger.history, lambda name: ledger.apply(name, Decision("abort", 0, ""), "ann", LATER)):
        with pytest.raises(NotFound, match="no rollout 'august'"):
            call("august")


@pytest.mark.parametrize("name", ["au\0gust", "au\ud800gust"])
def test_a_name_no_database_can_hold_is_an_unknown_rollout(ledger: Ledger, name: str) -> None:
    for call in (ledger.get, ledger.history, lambda name: ledger.apply(name, Decision("abort", 0, ""), "ann", LATER)):
        with pytest.raises(NotFound, match="no rollout 'au"):
            call(name)


def test_a_file_that_is_damaged_while_it_is_in_use_is_told_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "events.db"
    with Ledger(f"sqlite:///{path}") as ledger:
        ledger.open(june(), by="monthly")
    pages = bytearray(path.read_bytes())
    pages[4096:] = b"\xff" * (len(pages) - 4096)
    with Ledger(f"sqlite:///{path}") as ledger:
        path.write_bytes(pages)
        with pytest.raises(StorageUnavailable, match="malformed; restore the file") as error:
            ledger.list()
    assert "\n" not in str(error.value)


def test_a_postgresql_that_became_a_read_only_replica_is_told_in_one_line(postgres_url: str) -> None:
    Ledger(postgres_url).close()
    read_only = postgres_url.replace("-csearch_path", "-cdefault_transaction_read_only%3Don -csearch_path")
    with Ledger(read_only) as ledger:
        assert ledger.running() is None
        with pytest.raises(StorageUnavailable, match="read-only transaction") as error:
            ledger.open(june(), by="monthly")
    assert "\n" not in str(error.value)


def test_a_pool_without_a_free_connection_is_told_in_one_line(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise sa.exc.TimeoutError("QueuePool limit of size 5 overflow 10 reached")

    monkeypatch.setattr(ledger._engine, "connect", full)
    for call in (ledger.plan, lambda: ledger.open(june(), by="monthly")):
        with pytest.raises(StorageUnavailable, match="QueuePool limit"):
            call()


def test_the_database_itself_refuses_to_change_or_drop_an_audit_row(ledger: Ledger, database_url: str) -> None:
    ledger.open(june(), by="monthly")
    engine = sa.create_engine(database_url)
    for statement in ("UPDATE audit SET \"by\" = 'nobody'", "DELETE FROM audit"):
        with pytest.raises(sa.exc.DBAPIError, match="append-only"), engine.begin() as db:
            db.execute(sa.text(statement))
    engine.dispose()
    assert ledger.verify().ok


@pytest.mark.parametrize(
    ("statement", "broken_at"),
    [
        ("UPDATE audit SET reason = 'all was well' WHERE number = 2", 2),
        ("UPDATE audit SET share = 0.9 WHERE number = 1", 1),
        ("DELETE FROM audit WHERE number = 2", 2),
        ("DELETE FROM audit WHERE number = 3", 3),
        ("DELETE FROM audit", 1),
    ],
)
def test_a_row_changed_or_dropped_behind_its_back_is_found(
    ledger: Ledger, database_url: str, statement: str, broken_at: int
) -> None:
    ledger.open(june(), by="monthly")
    ledger.apply("june", Decision("advance", 0.1, "no harm"), "rollout", LATER)
    ledger.apply("june", Decision("abort", 0, "worse"), "rollout", LATER)
    assert (ledger.verify().ok, ledger.verify().rows) == (True, 3)
    rewrite(database_url, statement)
    found = ledger.verify()
    assert (found.ok, found.broken_at) == (False, broken_at)
    assert found.reason


@pytest.mark.parametrize("written", ["replace(challengers, '0.1', '0.9')", "'not json'"])
def test_shares_that_nobody_decided_are_found(ledger: Ledger, database_url: str, written: str) -> None:
    ledger.open(june(), by="monthly")
    ledger.apply("june", Decision("advance", 0.1, "no harm"), "rollout", LATER)
    rewrite(database_url, f"UPDATE rollouts SET challengers = {written}")
    found = ledger.verify()
    assert (found.ok, found.reason) == (False, "rollout june and the audit disagree about its shares")


@pytest.mark.parametrize("written", ["status = 'promoted'", "status = 'paused'", "open_slot = NULL"])
def test_a_state_that_nobody_decided_is_found(ledger: Ledger, database_url: str, written: str) -> None:
    ledger.open(june(), by="monthly")
    ledger.apply("june", Decision("pause", 0.05, "a look"), "ann", LATER)
    ledger.apply("june", Decision("resume", 0.05, "seen"), "ann", LATER)
    assert ledger.verify().ok
    rewrite(database_url, f"UPDATE rollouts SET {written}")
    found = ledger.verify()
    assert (found.ok, found.broken_at) == (False, 4)
    assert found.reason.startswith("rollout june is ")
    assert found.reason.endswith(", and running by the audit")


@pytest.mark.parametrize("written", ["champion = '9'", "salt = 'one that suits me'", "month = '2024-01'"])
def test_terms_that_a_rollout_was_not_opened_with_are_found(ledger: Ledger, database_url: str, written: str) -> None:
    ledger.open(june(), by="monthly")
    assert ledger.verify().ok
    assert june().salt not in str(ledger.history())
    rewrite(database_url, f"UPDATE rollouts SET {written}")
    found = ledger.verify()
    assert (found.ok, found.broken_at) == (False, 2)
    assert found.reason == "the month, champion or salt of rollout june is not what it was opened with"


def test_several_challengers_are_read_back_with_their_shares_and_who_is_out_stays_out(
    ledger: Ledger, database_url: str
) -> None:
    trio = new_rollout("trio", "2025-08", "1", ("5", "6", "7"), "salt-trio", Policy(), OPENED)
    assert ledger.open(trio, by="ann") == trio == ledger.open(replace(trio, id="again", salt="x"), by="ann")
    with pytest.raises(Conflict, match="2025-08 already opened rollout trio"):
        ledger.open(new_rollout("duo", "2025-08", "1", ("5", "6"), "salt-duo", Policy(), OPENED), by="ann")
    ledger.apply("trio", steering.set_share(trio, 0.2, "more of it", "6"), "ann", LATER)
    dropped = ledger.apply("trio", steering.abort(ledger.get("trio"), "odd answers", "5"), "bob", LATER)
    with Ledger(database_url) as other:
        assert other.running() == dropped
        five, six, seven = other.get("trio").challengers
        assert (five.share, five.out) == (0.0, "odd answers")
        assert (six.share, seven.share) == (0.2, 0.05)
        plan = other.plan()
        assert plan is not None
        assert (list(plan.shares), [one.version for one in plan.inside]) == (
            ["challenger:5", "challenger:6", "challenger:7"],
            ["6", "7"],
        )
        assert sum(plan.logged.values()) == pytest.approx(1.0)
        other.apply("trio", steering.promote(other.get("trio"), "good enough", "7"), "ann", LATER)
        assert (other.get("trio").challenger, other.get("trio").share) == ("7", 0.05)
        assert [row.shares for row in other.history("trio")][:2] == [
            {"5": 0.05, "6": 0.05, "7": 0.05},
            {"5": 0.05, "6": 0.2, "7": 0.05},
        ]
        assert other.verify().ok


def test_words_no_database_can_hold_are_kept_as_far_as_they_go(ledger: Ledger) -> None:
    ledger.open(june(), by="monthly")
    ledger.apply("june", steering.abort(june(), "nul \0 and half a pair \ud800 and 中文"), "\ud800nn", LATER)
    assert ledger.history("june")[1].reason == "nul ? and half a pair ? and 中文"
    assert ledger.verify().ok


def test_times_are_kept_in_utc_whatever_zone_they_came_in(ledger: Ledger) -> None:
    tokyo = timezone(timedelta(hours=9))
    ledger.open(june(opened_at=OPENED.astimezone(tokyo)), by="monthly")
    assert ledger.get("june").opened_at == OPENED
    assert ledger.get("june").opened_at.utcoffset() == timedelta(0)


def test_a_time_without_a_zone_is_refused(ledger: Ledger) -> None:
    with pytest.raises(ValueError, match="time zone"):
        ledger.open(june(opened_at=datetime(2025, 6, 1)), by="monthly")
    assert ledger.running() is None


def test_a_ledger_of_a_newer_format_is_not_misread(ledger: Ledger, database_url: str) -> None:
    engine = sa.create_engine(database_url)
    with engine.begin() as db:
        db.execute(sa.text("UPDATE ledger_schema SET version = 99"))
    engine.dispose()
    with pytest.raises(HomeTooNew, match="format 99"):
        Ledger(database_url)


def test_a_database_that_cannot_be_opened_is_named_in_one_line(tmp_path: Path) -> None:
    for url, kind in (
        (f"sqlite:///{tmp_path}/missing/events.db", StorageUnavailable),
        ("postgresql://nobody@127.0.0.1:1/none", StorageUnavailable),
        ("no url", BadInput),
        ("nosuch://x", BadInput),
    ):
        with pytest.raises(kind) as error:
            Ledger(url)
        assert "\n" not in str(error.value)
