"""One thread writes the log, many rows to a transaction, and tells each caller only what the disk has confirmed.

Group commit: rows queue up while a transaction is being flushed, and the next transaction takes them all, so the cost of a
flush is shared by as many callers as are waiting. A row's future is resolved after the commit that holds it, never before.

The thread keeps its connection from batch to batch: asking a pool for one takes longer than most rows do. Where it was cut
meanwhile (the database was restarted) the batch is written again on a fresh one, which ids and keys make harmless.

When a batch cannot be written (full disk, locked or lost database) its futures fail with `StorageUnavailable` and the
thread goes on with the next batch on a fresh connection; nothing has to be restarted when the database comes back. When a
commit itself fails its outcome is unknown, and the same error is given: append the same row again, its id or key makes
that harmless. A row that the database cannot take fails alone. Knows nothing of HTTP, and of drift or experiments.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field, fields
from datetime import timedelta
from functools import lru_cache
from typing import Any

from sqlalchemy import Connection, Dialect, Engine, exc, select
from sqlalchemy.dialects import postgresql, sqlite

from evermoe.errors import BadInput, Conflict, EvermoeError, Expired, NotFound, StorageUnavailable
from monitoring.database import is_storage_failure, unavailable, writer_of
from monitoring.rows import Feedback, Receipt, Request, Row, check, reward_of
from monitoring.schema import feedback, requests

STUCK_SECONDS = 10.0
"""A batch that takes longer than this (locks are waited for half as long) means that new rows are refused, not queued."""

RACES = 5

REQUEST = tuple(field.name for field in fields(Request))
FEEDBACK = tuple(field.name for field in fields(Feedback))

COUNTED = "counted"
DUPLICATE = "duplicate"
ALREADY = "response already has feedback"


@dataclass(eq=False)
class Job:
    """A row on its way to the disk: `values` are its columns, `outcome` what to tell once the transaction is durable."""

    row: Row
    values: dict[str, Any]
    future: Future[Any] = field(default_factory=Future)
    outcome: Receipt | EvermoeError | None = None


class Writer:
    """The writing thread and its bounded queue."""

    def __init__(
        self, engine: Engine, *, queue_limit: int, batch_limit: int, feedback_window: timedelta | None = None
    ) -> None:
        self._engine = engine
        self._feedback_window = feedback_window
        self._queue_limit = queue_limit
        self._batch_limit = batch_limit
        self._queue: deque[Job] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._busy_since: float | None = None
        self._connection: Connection | None = None  # the thread's own
        self._thread = threading.Thread(target=self._run, name="event-log-writer", daemon=True)
        self._thread.start()

    @property
    def depth(self) -> int:
        """Rows that wait for their transaction."""
        return len(self._queue)

    def append(self, row: Row) -> Future[Any]:
        """Queue `row`. Whatever is wrong with it is told by the future, like whatever goes wrong later."""
        try:
            check(row)
            job = Job(row, columns_of(row))
        except (EvermoeError, TypeError, ValueError) as error:
            return _failed(
                error if isinstance(error, EvermoeError) else BadInput(f"this row cannot be stored: {error}")
            )
        job.future.set_running_or_notify_cancel()  # a row once taken is written: its caller may leave, not take it back
        with self._changed:
            if refusal := self._refusal():
                return _failed(StorageUnavailable(refusal))
            self._queue.append(job)
            self._changed.notify()
        return job.future

    def close(self) -> None:
        """Write what is queued, refuse what comes later, and end the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _refusal(self) -> str | None:
        if self._closed:
            return "the event log is closed; nothing was stored"
        if len(self._queue) >= self._queue_limit:
            return f"the event log has {len(self._queue)} rows waiting, its limit; nothing was stored, try again"
        if self._busy_since is not None and time.monotonic() - self._busy_since > STUCK_SECONDS:
            return f"the event log's database has not answered for {STUCK_SECONDS:.0f} s; nothing was stored, try again"
        return None

    def _run(self) -> None:
        while True:
            with self._changed:
                self._busy_since = None
                self._changed.wait_for(lambda: self._queue or self._closed)
                batch = [self._queue.popleft() for _ in range(min(self._batch_limit, len(self._queue)))]
                self._busy_since = time.monotonic()
            if not batch:
                self._hang_up()
                return
            self._write(batch)

    def _write(self, batch: list[Job]) -> None:
        try:
            self._commit(batch)
        except Exception as error:
            self._hang_up()
            if isinstance(error, exc.SQLAlchemyError) and is_storage_failure(error) and not _may_be_of_a_row(error):
                self._engine.dispose()  # whatever broke, the next batch starts on a fresh connection
                for job in batch:
                    job.future.set_exception(unavailable(self._engine, error))
            elif len(batch) > 1:
                for job in batch:
                    self._write([job])
            else:
                batch[0].future.set_exception(self._blame(batch[0], error))
            return
        for job in batch:
            if isinstance(job.outcome, EvermoeError):
                job.future.set_exception(job.outcome)
            else:
                job.future.set_result(job.outcome)

    def _commit(self, batch: Sequence[Job]) -> None:
        """One transaction; on a fresh connection where the one that was kept turns out to be cut before anything was committed."""
        kept = self._connection is not None
        connection = self._connection = self._connection or writer_of(self._engine)
        transaction = connection.begin()
        try:
            store(connection, batch, self._feedback_window)
        except exc.DBAPIError as error:
            if not (kept and error.connection_invalidated):
                raise
            self._hang_up()
            self._commit(batch)
        else:
            transaction.commit()

    def _hang_up(self) -> None:
        """Give the connection back, whatever state it is in."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(exc.SQLAlchemyError):
                connection.close()

    def _blame(self, job: Job, error: Exception) -> Exception:
        """Why one row, alone in its transaction, was refused."""
        if isinstance(error, exc.SQLAlchemyError) and is_storage_failure(error):
            return unavailable(self._engine, error)
        if isinstance(error, exc.StatementError | OverflowError | TypeError | ValueError):
            kind = "request" if isinstance(job.row, Request) else "feedback"
            line = str(getattr(error, "orig", None) or error).splitlines()[0]
            return BadInput(f"this {kind} cannot be stored: {line}")
        return error


def columns_of(row: Row) -> dict[str, Any]:
    """The columns of `row`, its numbers as plain Python numbers. Raises `TypeError` or `ValueError` where they are none."""
    values = {name: getattr(row, name) for name in (FEEDBACK if isinstance(row, Feedback) else REQUEST)}
    if isinstance(row, Feedback):
        return values | {"score": None if row.score is None else float(row.score)}
    return values | {
        "scores": None if row.scores is None else {label: float(score) for label, score in row.scores.items()},
        "propensity": float(row.propensity),
        "latency_ms": float(row.latency_ms),
        "prompt_tokens": int(row.prompt_tokens),
        "output_tokens": int(row.output_tokens),
        "experts": [int(expert) for expert in row.experts],
        "shares": None if row.shares is None else {arm: float(share) for arm, share in row.shares.items()},
    }


def request_of(columns: Any) -> Request:
    """The request in a row of the `requests` table (or of a join that has its columns)."""
    return Request(
        id=columns.id,
        at=columns.at,
        kind=columns.kind,
        unit=columns.unit,
        unit_given=columns.unit_given,
        input=columns.input,
        output=columns.output,
        scores=columns.scores,
        rollout=columns.rollout,
        arm=columns.arm,
        version=columns.version,
        propensity=columns.propensity,
        latency_ms=columns.latency_ms,
        prompt_tokens=columns.prompt_tokens,
        output_tokens=columns.output_tokens,
        experts=tuple(columns.experts),
        error=columns.error,
        shadow=columns.shadow,
        api_key=columns.api_key,
        shares=columns.shares,
    )


def store(connection: Connection, batch: Sequence[Job], window: timedelta | None = None) -> None:
    """Insert what is new of `batch` and set each job's outcome. The caller commits; until then nothing may be told.

    `window` is how long after its request feedback is taken; None: for ever.
    """
    _store_requests(connection, [job for job in batch if isinstance(job.row, Request)])
    waiting = [job for job in batch if isinstance(job.row, Feedback)]
    for _ in range(RACES):  # again for those that another process overtook between our look and our insert
        if not waiting:
            return
        waiting = _store_feedback(connection, waiting, window)
    for job in waiting:
        job.outcome = StorageUnavailable("the event log could not place this feedback among others; try again")


def _store_requests(connection: Connection, jobs: Sequence[Job]) -> None:
    """Requests whose id is new are inserted; one that is there already must be the same one, sent again."""
    if not jobs:
        return
    ordered = sorted(jobs, key=lambda job: job.values["id"])  # two processes that retry the same rows lock alike
    insert = _prepared_insert(connection.dialect)
    rows = [insert.parameters(job.values) for job in ordered]
    counting = connection.execution_options(preserve_rowcount=True)
    if counting.exec_driver_sql(insert.statement, rows).rowcount == len(rows):
        return
    ids = [job.values["id"] for job in jobs]
    stored = {found.id: found for found in connection.execute(select(requests).where(requests.c.id.in_(ids)))}
    for job in jobs:
        identifier = job.values["id"]
        if request_of(stored[identifier]) != job.row:
            job.outcome = Conflict(f"another request already has the id {identifier}; nothing was stored")


@dataclass(frozen=True)
class PreparedInsert:
    """The one statement that every request goes through, as the driver takes it.

    SQLAlchemy's own way to it takes 0.3 ms of the interpreter for each batch, which one row often is; this takes a tenth.
    """

    statement: str
    to_driver: tuple[tuple[str, Callable[[Any], Any] | None], ...]

    def parameters(self, values: dict[str, Any]) -> dict[str, Any]:
        """The columns as this database's driver wants them. Raises what a value that fits no column raises."""
        return {name: values[name] if change is None else change(values[name]) for name, change in self.to_driver}


@lru_cache(maxsize=8)  # a dialect is an engine's own, and engines come and go
def _prepared_insert(dialect: Dialect) -> PreparedInsert:
    family = postgresql if dialect.name == "postgresql" else sqlite
    spoken = dialect if dialect.name == "postgresql" else sqlite.dialect(paramstyle="named")
    statement = family.insert(requests).on_conflict_do_nothing().compile(dialect=spoken)
    changes = tuple(
        (column.name, column.type.dialect_impl(dialect).bind_processor(dialect)) for column in requests.columns
    )
    return PreparedInsert(str(statement), changes)


def _store_feedback(connection: Connection, jobs: Sequence[Job], window: timedelta | None) -> list[Job]:
    """Decide and insert in order of arrival; returns the jobs that must be decided again.

    A response of another API key is told exactly as one that does not exist, and idempotency keys of other API keys are not
    looked at: no client learns from us which ids another one has.
    """
    responses = {job.values["response_id"] for job in jobs}
    keys = {job.values["key"] for job in jobs}
    answered = {
        found.id: found
        for found in connection.execute(
            select(requests.c.id, requests.c.output, requests.c.at, requests.c.api_key).where(
                requests.c.id.in_(responses)
            )
        )
    }
    seen = {
        (found.api_key, found.key): found.response_id
        for found in connection.execute(
            select(feedback.c.api_key, feedback.c.key, feedback.c.response_id).where(feedback.c.key.in_(keys))
        )
    }
    taken = set(
        connection.scalars(
            select(feedback.c.response_id).where(feedback.c.counted, feedback.c.response_id.in_(responses))
        )
    )
    inserting: list[Job] = []
    for job in jobs:
        row = job.row
        assert isinstance(row, Feedback)
        request, key = answered.get(row.response_id), (row.api_key, row.key)
        if request is None or request.api_key not in ("", row.api_key):
            job.outcome = NotFound(f"no response has the id {row.response_id}; use the `id` that the answer came with")
        elif key in seen:
            job.outcome = (
                Receipt(counted=False, reward=None, reason=DUPLICATE)
                if seen[key] == row.response_id
                else Conflict(f"the key {row.key} belongs to feedback on another response; use a new key for each")
            )
        elif window is not None and row.at - request.at > window:
            job.outcome = Expired(
                f"response {row.response_id} is from {request.at:%Y-%m-%d}; feedback is taken for {window.days} days"
            )
        else:
            counted = row.response_id not in taken
            reward = reward_of(row, request.output) if counted else None
            job.outcome = Receipt(counted, reward, COUNTED if counted else ALREADY)
            delay = (row.at - request.at).total_seconds()
            job.values |= {"counted": counted, "reward": reward, "delay_seconds": delay}
            seen[key] = row.response_id
            taken.add(row.response_id)
            inserting.append(job)
    if not inserting:
        return []
    stored = {
        (row.api_key, row.key)
        for row in connection.execute(
            _insert(connection, feedback).on_conflict_do_nothing().returning(feedback.c.api_key, feedback.c.key),
            [job.values for job in inserting],
        )
    }
    return [job for job in inserting if (job.values["api_key"], job.values["key"]) not in stored]


def _insert(connection: Connection, table: Any) -> Any:
    return (postgresql if connection.dialect.name == "postgresql" else sqlite).insert(table)


def _may_be_of_a_row(error: exc.SQLAlchemyError) -> bool:
    """Errors of ours rather than of the disk: worth trying the rows of the batch one by one."""
    return isinstance(error, exc.ProgrammingError | exc.InterfaceError) and not getattr(
        error, "connection_invalidated", False
    )


def _failed(error: EvermoeError) -> Future[Any]:
    future: Future[Any] = Future()
    future.set_exception(error)
    return future
