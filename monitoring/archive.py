"""Months of the event log as Parquet files, and what may leave the database because it is in them.

A folder holds `requests-2025-06.parquet` and `feedback-2025-06.parquet` for each month (of the requests' time; feedback is
with its request) and `manifest.json`, which names each file with its rows and SHA-256. A file is whole or it is not there,
and the manifest is written last: after a kill, exporting again gives the same. Pruning reads the files back, compares every
row with the database, and deletes month by month: what was not exported, or differs, stays. After a kill, pruning again
finishes. Text is as the database stores it (`monitoring.schema.AnyText`), scores and experts are JSON text.

Knows the log's tables and months. Does not know which months others still need: its callers say (`keep`).
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq
from sqlalchemy import Boolean, Connection, DateTime, Engine, Float, Table, Text, delete, func, select, type_coerce

from evermoe.errors import BadInput, Conflict, StorageUnavailable
from evermoe.locks import exclusive
from evermoe.months import after, end_of, month_of, start_of
from monitoring.database import storage_errors, writing
from monitoring.schema import AnyText, AsJson, UtcDateTime, feedback, requests

MANIFEST = "manifest.json"
FORMAT = 1
BATCH = 2000
State = Literal["exported", "pruning", "pruned"]


@dataclass(frozen=True)
class File:
    """One Parquet file of the folder."""

    name: str
    rows: int
    sha256: str


@dataclass(frozen=True)
class Month:
    """A month of the folder. `state` says whether its rows are still in the database, are leaving it, or have left."""

    month: str
    part: int
    requests: File
    feedback: File
    state: State = "exported"


@dataclass(frozen=True)
class Kept:
    """A month that was not pruned, and why."""

    month: str
    reason: str


def export(engine: Engine, before: datetime, folder: Path) -> tuple[Month, ...]:
    """Write every month that ended by `before` and still has rows in the database; returns those that were written.

    A month that is there already is written anew, because feedback comes late; one whose rows have left the database is left
    alone, and rows that came after that make another part. Raises `Conflict` for a month whose pruning was broken off, and
    `StorageUnavailable` for a folder that cannot be written.
    """
    written = []
    with _writing_to(folder), storage_errors(engine), engine.connect() as connection:
        first = connection.scalar(select(func.min(requests.c.at)))
        month = month_of(first) if first else ""
        while first and end_of(month) <= before:
            if connection.scalar(select(func.count()).select_from(requests).where(in_month(month))):
                written.append(_export_month(connection, month, folder))
            month = after(month)
    return tuple(written)


def prune(
    engine: Engine, before: datetime, folder: Path, keep: Callable[[str], str | None]
) -> tuple[tuple[Month, ...], tuple[Kept, ...]]:
    """Delete the months that ended by `before`, are in the folder, and of which `keep` gives no reason to stay.

    Returns what left and what stayed with its reason: a damaged file, rows that are not in it or differ from it, or `keep`'s.
    """
    pruned, kept = [], []
    for month in manifest(folder):
        if month.state == "pruned" or end_of(month.month) > before:
            continue
        with _writing_to(folder), storage_errors(engine):
            reason = keep(month.month) or _damage(folder, month) or _difference(engine, folder, month)
            if reason is not None:
                kept.append(Kept(month.month, reason))
                continue
            _note(folder, replace(month, state="pruning"))
            for table, file in ((feedback, month.feedback), (requests, month.requests)):
                for rows in _read(folder / file.name, table):
                    with writing(engine) as connection:
                        _delete(connection, table, rows)
            _note(folder, gone := replace(month, state="pruned"))
        pruned.append(gone)
    return tuple(pruned), tuple(kept)


@contextmanager
def _writing_to(folder: Path) -> Iterator[None]:
    """One process at a time: two would write the same drafts."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with exclusive(folder / ".writing"):
            yield
    except OSError as error:
        raise StorageUnavailable(f"{folder} cannot be written or read: {error.strerror or error}") from None


def manifest(folder: Path) -> tuple[Month, ...]:
    """The months of a folder, the oldest first. Raises `BadInput` where the manifest cannot be read."""
    try:
        content = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        if content["format"] != FORMAT:
            raise BadInput(f"{folder / MANIFEST} has format {content['format']}, this Evermoe reads {FORMAT}")
        return tuple(
            Month(**one | {"requests": File(**one["requests"]), "feedback": File(**one["feedback"])})
            for one in content["months"]
        )
    except FileNotFoundError:
        return ()
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadInput(f"{folder / MANIFEST} cannot be read ({error}); restore it, or export to a new folder") from None


def in_month(month: str) -> Any:
    """Requests asked in the month."""
    return (requests.c.at >= start_of(month)) & (requests.c.at < end_of(month))


def told_since(engine: Engine, month: str, since: datetime) -> bool:
    """Whether feedback on the month's requests came at or after `since`."""
    query = select(feedback.c.sequence).join(requests, requests.c.id == feedback.c.response_id)
    return _any(engine, query.where(in_month(month), feedback.c.at >= since))


def is_of_rollout(engine: Engine, month: str, rollout: str) -> bool:
    """Whether the rollout answered one of the month's requests."""
    return _any(engine, select(requests.c.id).where(in_month(month), requests.c.rollout == rollout))


def _any(engine: Engine, query: Any) -> bool:
    with engine.connect() as connection:
        return connection.execute(query.limit(1)).first() is not None


def _export_month(connection: Connection, month: str, folder: Path) -> Month:
    before = [one for one in manifest(folder) if one.month == month]
    last = before[-1] if before else None
    if last is not None and last.state == "pruning":
        raise Conflict(f"{month} is half-way out of the database; finish with `evermoe log prune`, then export again")
    part = 1 if last is None else last.part + (last.state == "pruned")
    files: dict[str, File] = {}
    for table in (requests, feedback):
        name = f"{table.name}-{month}{'' if part == 1 else f'.{part}'}.parquet"
        files[table.name] = _write(folder / name, table, _stored(connection, table, in_month(month)))
    made = Month(month, part, files["requests"], files["feedback"])
    _note(folder, made)
    return made


def _columns(table: Table) -> list[Any]:
    """The columns as they are stored: escaped text stays escaped, JSON stays text."""
    plain = (AnyText, AsJson)
    return [type_coerce(c, Text).label(c.name) if isinstance(c.type, plain) else c for c in table.columns]


def _stored(connection: Connection, table: Table, where: Any) -> Iterator[list[dict[str, Any]]]:
    query = select(*_columns(table)).where(where).order_by(*table.primary_key.columns)
    if table is feedback:
        query = query.join(requests, requests.c.id == feedback.c.response_id)
    found = connection.execution_options(yield_per=BATCH).execute(query).mappings()
    for rows in found.partitions():
        yield [dict(row) for row in rows]


def _schema(table: Table) -> pa.Schema:
    def kind(column: Any) -> pa.DataType:
        if isinstance(column.type, UtcDateTime | DateTime):
            return pa.timestamp("us", tz="UTC")
        if isinstance(column.type, Boolean):
            return pa.bool_()
        if isinstance(column.type, Float):
            return pa.float64()
        return pa.string() if isinstance(column.type, AnyText | AsJson) else pa.int64()

    return pa.schema([pa.field(column.name, kind(column), nullable=column.nullable) for column in table.columns])


def _write(path: Path, table: Table, batches: Iterator[list[dict[str, Any]]]) -> File:
    """Write the rows beside `path` and put them in its place once they are on the disk."""
    beside, count, schema = path.with_suffix(".part"), 0, _schema(table)
    with pq.ParquetWriter(beside, schema, compression="zstd") as writer:
        for rows in batches:
            writer.write_table(pa.Table.from_pylist(rows, schema))
            count += len(rows)
    digest = _sha256(beside)
    _replace(beside, path)
    return File(path.name, count, digest)


def _note(folder: Path, month: Month) -> None:
    """Put a month into the manifest, in place of what it said of that part before."""
    others = [one for one in manifest(folder) if (one.month, one.part) != (month.month, month.part)]
    months = sorted([*others, month], key=lambda one: (one.month, one.part))
    beside = folder / f"{MANIFEST}.part"
    beside.write_text(json.dumps({"format": FORMAT, "months": [asdict(one) for one in months]}, indent=1) + "\n")
    _replace(beside, folder / MANIFEST)


def _replace(beside: Path, path: Path) -> None:
    """Make `beside` the file `path`, durably, both or neither."""
    for place in (beside, None, path.parent):
        if place is None:
            os.replace(beside, path)
            continue
        opened = os.open(place, os.O_RDONLY)
        try:
            os.fsync(opened)
        finally:
            os.close(opened)


def _read(path: Path, table: Table) -> Iterator[list[dict[str, Any]]]:
    """The rows of a file; what an older version did not write was not there."""
    lacking = dict.fromkeys(column.name for column in table.columns if column.nullable)
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(BATCH):
            yield [lacking | row for row in batch.to_pylist()]


def _damage(folder: Path, month: Month) -> str | None:
    """Why a month's files are not what the manifest says."""
    for file in (month.requests, month.feedback):
        path = folder / file.name
        if not path.exists() or _sha256(path) != file.sha256:
            return f"{file.name} is missing or was changed since it was written; export the month again"
    return None


def _difference(engine: Engine, folder: Path, month: Month) -> str | None:
    """Why the database holds something of the month that the files do not.

    Once its pruning has begun, rows that have left it are no difference, nor are those that came since: they stay, for
    another part.
    """
    for table, file in ((requests, month.requests), (feedback, month.feedback)):
        (key,) = table.primary_key.columns.keys()
        with engine.connect() as connection:
            held = in_month(month.month)
            query = select(func.count()).select_from(table).where(held)
            if table is feedback:
                query = query.join_from(feedback, requests, requests.c.id == feedback.c.response_id)
            there, known = connection.execute(query).scalar_one(), 0
            for rows in _read(folder / file.name, table):
                found = _held(connection, table, [row[key] for row in rows])
                if any(row != found.get(row[key], row) for row in rows):
                    return f"a row of {file.name} differs from the database; export the month again"
                known += len(found)
        if month.state == "exported" and (there > known or known < file.rows):
            return f"{file.name} has {file.rows} rows, the database {there}; export the month again"
    return None


def _delete(connection: Connection, table: Table, rows: Sequence[dict[str, Any]]) -> None:
    """Delete rows that are in the database just as they were exported, within the transaction that compares them."""
    (key,) = table.primary_key.columns.keys()
    held = _held(connection, table, [row[key] for row in rows])
    gone = [row[key] for row in rows if row == held.get(row[key])]
    if table is requests:  # a request with feedback that no file has stays, with it
        told = select(feedback.c.response_id).where(feedback.c.response_id.in_(gone))
        rated = set(connection.scalars(told))
        gone = [id for id in gone if id not in rated]
    connection.execute(delete(table).where(table.c[key].in_(gone)))


def _held(connection: Connection, table: Table, keys: Sequence[Any]) -> dict[Any, dict[str, Any]]:
    """The rows of these keys, as `_read` gives them."""
    (key,) = table.primary_key.columns.keys()
    found = connection.execute(select(*_columns(table)).where(table.c[key].in_(keys))).mappings()
    return {row[key]: dict(row) for row in found}


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
