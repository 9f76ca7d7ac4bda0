"""How the database of events and rollouts is opened: SQLite by default, PostgreSQL by URL, durable on both.

Knows connections, transactions and what their failures mean to a user; knows no table.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event, exc, make_url

from evermoe.errors import BadInput, StorageUnavailable, without_password

LOCK_WAIT_SECONDS = 5


def connect(url: str) -> Engine:
    """The engine of `url`; a bare `postgresql://` is spoken by psycopg, which is what we install. Opens no connection yet.

    Raises `BadInput` for what is neither an SQLite file nor PostgreSQL.
    """
    try:
        parsed = make_url(url)
        if parsed.get_backend_name() in ("postgresql", "postgres"):  # by any driver: psycopg is the one installed
            parsed = parsed.set(drivername="postgresql+psycopg")
        family = parsed.get_backend_name()
    except (exc.ArgumentError, ValueError):  # the latter for a port that is no number, as after a password with a slash
        told = without_password(url)
        raise BadInput(f"{told}: not a database address; use sqlite:///FILE or postgresql://USER@HOST/NAME") from None
    if parsed.drivername == "sqlite" and parsed.database and parsed.database != ":memory:":
        engine = create_engine(parsed, pool_pre_ping=True, connect_args={"timeout": LOCK_WAIT_SECONDS})
        event.listen(engine, "connect", _prepare_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
        return engine
    if family == "postgresql":
        patience = {"connect_timeout": LOCK_WAIT_SECONDS, "tcp_user_timeout": 10_000, "client_encoding": "utf8"}
        engine = create_engine(parsed, pool_pre_ping=True, connect_args=patience)
        event.listen(engine, "connect", _prepare_postgresql)
        return engine
    raise BadInput(
        f"{parsed.render_as_string()}: events and rollouts live in an SQLite file or in PostgreSQL; "
        "use sqlite:///FILE or postgresql://USER@HOST/NAME"
    )


def _prepare_sqlite(connection: Any, _: Any) -> None:
    connection.isolation_level = None  # we begin transactions ourselves, see _begin_sqlite
    connection.execute(f"PRAGMA busy_timeout={LOCK_WAIT_SECONDS * 1000}")
    _to_wal(connection)
    connection.create_function("lower", 1, _lower, deterministic=True)  # SQLite's own knows no letter outside ASCII
    connection.execute("PRAGMA synchronous=FULL")  # in WAL mode: every commit is on the disk before it returns


def _lower(text: Any) -> Any:
    return text.lower() if isinstance(text, str) else text


def _to_wal(connection: Any) -> None:
    """Turn the file to WAL. Where another process is doing the same SQLite does not wait, whatever the timeout, so we do."""
    deadline = time.monotonic() + LOCK_WAIT_SECONDS
    while True:
        try:
            if connection.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
                connection.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
        time.sleep(0.02)


def _begin_sqlite(connection: Connection) -> None:
    writes = connection.get_execution_options().get("evermoe_writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _prepare_postgresql(connection: Any, _: Any) -> None:
    with connection.cursor() as cursor:
        cursor.execute(f"SET lock_timeout = '{LOCK_WAIT_SECONDS}s'")
        cursor.execute("SET statement_timeout = '30s'")
        cursor.execute("SET synchronous_commit = on")
        cursor.execute("SET TIME ZONE 'UTC'")
    connection.commit()


@contextmanager
def writing(engine: Engine) -> Iterator[Connection]:
    """A transaction that may write. SQLite takes its write lock now: upgrading a read lock later fails without waiting."""
    with writer_of(engine) as connection, connection.begin():
        yield connection


def writer_of(engine: Engine) -> Connection:
    """A connection whose transactions may write (see `writing`), for whoever begins them and closes it."""
    return engine.connect().execution_options(evermoe_writes=True)


@contextmanager
def storage_errors(engine: Engine) -> Iterator[None]:
    """Turn what a broken, full, locked or unreachable database raises into one line that says so."""
    try:
        yield
    except exc.DBAPIError as error:
        if is_storage_failure(error):
            raise unavailable(engine, error) from error
        raise
    except exc.TimeoutError as error:
        raise unavailable(engine, error) from error


def is_storage_failure(error: exc.SQLAlchemyError) -> bool:
    """Whether `error` says something about the database rather than about the rows it was given."""
    if isinstance(error, exc.TimeoutError):
        return True
    if not isinstance(error, exc.DBAPIError):
        return False
    return error.connection_invalidated or not isinstance(error, exc.IntegrityError | exc.DataError)


def unavailable(engine: Engine, error: BaseException) -> StorageUnavailable:
    """`error` as the one line that a user reads."""
    cause = getattr(error, "orig", None) or error
    line = next(iter(str(cause).strip().splitlines()), type(cause).__name__)
    place = engine.url.render_as_string(hide_password=True)
    advice = "try again"
    if isinstance(cause, sqlite3.Error):
        if "not a database" in line or "malformed" in line:
            advice = "restore the file from a backup, or move it away to start an empty log"
        elif "disk is full" in line or "disk I/O" in line:
            advice = "free some space and try again"
        elif "unable to open" in line or "readonly" in line:
            advice = "see that its folder exists and can be written"
    elif "connect" in line:
        advice = "see that the server runs and the address is right"
    return StorageUnavailable(f"{place}: {line}; {advice}")
