"""The user's own records: a JSONL, CSV or Parquet file with named columns.

A row that cannot be used is kept aside with its file, line and reason; it is never lost in silence and never guessed right.
How each format is cut into rows is `tables.py`'s affair; nothing here knows what the labels mean.
"""

from __future__ import annotations

import json
import math
import os
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from evermoe.errors import BadInput, StorageUnavailable
from evermoe.words import as_name
from streams.dates import parse_moment
from streams.record import MAX_TEXT, LoadedStream, Progress, Record, Rejected
from streams.tables import Row, read_table

MAX_NAME = {"label": 256, "unit": 512}  # characters; what the event log and the gateway take

USUAL_NAMES = {
    "at": ("at", "date", "timestamp", "created_at", "time", "datetime", "created", "when", "ts"),
    "text": ("text", "message", "body", "note", "content", "subject", "input", "title", "description", "question"),
    "label": ("label", "category", "class", "team", "target", "topic"),
    "unit": ("unit", "user", "author", "customer", "user_id", "author_id", "customer_id"),
}
REQUIRED = ("at", "text")


@dataclass(frozen=True)
class Columns:
    """Which column holds what. None: guess among the usual names; `label` and `unit` may then be absent."""

    at: str | None = None
    text: str | None = None
    label: str | None = None
    unit: str | None = None


def open_file(
    path: Path, *, columns: Columns | None = None, rejects: Path | None = None, progress: Progress | None = None
) -> LoadedStream:
    """The records of one file; its fingerprint is the SHA-256 of its bytes.

    Rejected rows are on the stream, and in `rejects` (JSONL; made when there are any) where that is given. Raises `BadInput`
    for a file that is unreadable, empty, of another format, without the columns, or without one usable row.
    """
    if rejects is not None and rejects.resolve() == path.resolve():
        raise BadInput(f"{rejects}: the rejected rows would overwrite the file they come from; name another file")
    asked = columns or Columns()
    table = read_table(path, progress, lambda names: choose_columns(path, names, asked).values() if names else ())
    rejected = [row for row in table.rows if isinstance(row, Rejected)]
    records: list[Record] = []
    if table.columns:
        chosen = choose_columns(path, table.columns, asked)
        for row in table.rows:
            if isinstance(row, Row):
                try:
                    records.append(_record(row, chosen))
                except ValueError as error:
                    rejected.append(row.rejected(path, str(error)))
    rejected.sort(key=lambda row: row.line)
    if rejects is not None:
        _keep_aside(rejected, rejects)
    if not records and not rejected:
        raise BadInput(f"{path}: the file has no rows")
    if not records:
        first = rejected[0]
        count = "its only row" if len(rejected) == 1 else f"none of its {len(rejected)} rows"
        verb = "cannot" if len(rejected) == 1 else "can"
        raise BadInput(f"{path}: {count} {verb} be used; line {first.line}: {first.reason}")
    return LoadedStream("files", table.sha256, tuple(records), tuple(rejected))


def choose_columns(path: Path, columns: Sequence[str], asked: Columns) -> dict[str, str]:
    """Role ('at', 'text', 'label', 'unit') to column name. Raises `BadInput` that names the columns there are."""
    found = f"the columns are {', '.join(columns[:30])}"
    chosen: dict[str, str] = {}
    for role in (item.name for item in fields(Columns)):
        name: str | None = getattr(asked, role)
        if name is not None:
            if name not in columns:
                raise BadInput(f"{path}: no column {name!r} for {role}; {found}")
        else:
            by_lower = {column.strip().lower(): column for column in reversed(columns)}
            name = next((by_lower[usual] for usual in USUAL_NAMES[role] if usual in by_lower), None)
            if name is None and role in REQUIRED:
                raise BadInput(f"{path}: cannot tell which column is the {role}; name it with --{role}; {found}")
        if name is not None:
            if columns.count(name) > 1:
                raise BadInput(f"{path}: column {name!r} is there {columns.count(name)} times; rename all but one")
            chosen[role] = name
    return chosen


def _record(row: Row, chosen: dict[str, str]) -> Record:
    """Raises `ValueError` with the reason a user can act on."""
    at = parse_moment(row.cells.get(chosen["at"]))
    text = row.cells.get(chosen["text"])
    if text is None:
        raise ValueError("no text")
    if not isinstance(text, str):
        raise ValueError(f"the text is not a string but {type(text).__name__}")
    if not text.strip():
        raise ValueError("the text is empty")
    label, unit = (_name(row.cells.get(chosen[role]), role) if role in chosen else None for role in ("label", "unit"))
    for role, value in (("text", text), ("label", label), ("unit", unit)):
        if value is not None and "\0" in value:
            raise ValueError(f"NUL byte in the {role}")
        if value is not None and not _is_unicode(value):
            raise ValueError(f"invalid UTF-8 in the {role}")
        if value is not None and len(value) > MAX_NAME.get(role, MAX_TEXT):
            raise ValueError(f"the {role} has {len(value)} characters, more than {MAX_NAME.get(role, MAX_TEXT)}")
    return Record(at, text, label, unit, "files")


def _name(value: object, role: str) -> str | None:
    """A label or a unit as a string; numbers are names too. Empty is unknown, and so is what is not a number."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, str):
        return as_name(value) or None
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return str(value)
    raise ValueError(f"the {role} is not a name but {type(value).__name__}")


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:  # a lone surrogate: a byte that was no UTF-8, or half of a pair in JSON
        return False
    return True


def _keep_aside(rejected: Sequence[Rejected], rejects: Path) -> None:
    """Write all or nothing; without rejected rows an older list is taken away, because it no longer says the truth."""
    try:
        if not rejected:
            rejects.unlink(missing_ok=True)
            return
        rejects.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(dir=rejects.parent, prefix=f".{rejects.name}.")
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                file.writelines(json.dumps(asdict(row)) + "\n" for row in rejected)
            os.replace(temporary, rejects)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise StorageUnavailable(
            f"{rejects}: cannot keep the rejected rows ({error.strerror}); free the disk or name another"
        ) from None
