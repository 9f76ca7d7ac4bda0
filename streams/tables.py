"""Cuts JSONL, CSV and Parquet files into rows with exact line numbers; a row that is no row becomes a `Rejected`.

Does not know which column means what.
"""

from __future__ import annotations

import csv
import hashlib
import json
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import Any

from evermoe.errors import BadInput
from streams.record import Progress, Rejected

JSONL = (".jsonl", ".ndjson")
FORMATS = (*JSONL, ".csv", ".tsv", ".parquet")
BOM = b"\xef\xbb\xbf"
UTF_16 = (b"\xff\xfe", b"\xfe\xff")
REPORT_EVERY = 1 << 20  # bytes between two reports of progress


Wanted = Callable[[tuple[str, ...]], Iterable[str]]
"""Of a file's columns those that are read."""


@dataclass(frozen=True, slots=True)
class Row:
    """Cells by column name."""

    line: int
    cells: dict[str, object]
    source: str | None
    """The lines it was read from; None in Parquet."""

    def rejected(self, file: Path, reason: str) -> Rejected:
        """This row, kept aside for `reason`."""
        raw = json.dumps(self.cells, default=str) if self.source is None else _printable(self.source)
        return Rejected(str(file), self.line, reason, raw)


@dataclass(frozen=True)
class Table:
    """A file cut into rows. `columns` is empty only when no row could be read."""

    columns: tuple[str, ...]
    rows: tuple[Row | Rejected, ...]
    sha256: str


def read_table(path: Path, progress: Progress | None = None, wanted: Wanted | None = None) -> Table:
    """Read `path` by the ending of its name. Of a Parquet file only those columns are read that `wanted` names of all; without it,
    all. Raises `BadInput`, and what `wanted` raises."""
    ending = path.suffix.lower()
    try:
        size = path.stat().st_size
        if path.is_dir():
            raise BadInput(f"{path}: a directory; name one file of it")
        if ending not in FORMATS:
            raise BadInput(f"{path}: cannot tell its format from the name; it should end in {', '.join(FORMATS)}")
        if size == 0:
            raise BadInput(f"{path}: the file is empty")
        with path.open("rb") as file:
            if ending == ".parquet":
                table = read_parquet(path, file, wanted)
            else:
                if file.read(2) in UTF_16:
                    raise BadInput(f"{path}: the file is UTF-16; save it as UTF-8")
                file.seek(0)
                lines = Lines(file, size, progress)
                table = read_jsonl(path, lines) if ending in JSONL else read_csv(path, lines)
    except FileNotFoundError:
        raise BadInput(f"{path}: no such file") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise BadInput(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error})") from None
    if progress is not None:
        progress(size, size)
    return table


class Lines:
    """The lines of a file as text, counted and hashed as they go; bytes that are no UTF-8 become lone surrogates.

    `taken` holds the lines since it was last cleared.
    """

    def __init__(self, file: BufferedReader, size: int, progress: Progress | None) -> None:
        self.number = 0
        self.taken: list[str] = []
        self.digest = hashlib.sha256()
        self._file, self._size, self._progress = file, size, progress
        self._waiting: deque[str] = deque()
        self._done = self._reported = 0

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = self._waiting.popleft() if self._waiting else self._read()
        self.number += 1
        self.taken.append(line)
        return line

    def _read(self) -> str:
        line = next(self._file)
        self.digest.update(line)
        text = line.removeprefix(BOM if self._done == 0 else b"").decode("utf-8", "surrogateescape")
        self._done += len(line)
        if self._progress is not None and self._done - self._reported >= REPORT_EVERY:
            self._reported = self._done
            self._progress(self._done, self._size)
        return text

    def put_back(self, keep: int) -> None:
        """Give the lines taken, all but the first `keep`, to whoever reads next."""
        self._waiting.extendleft(reversed(self.taken[keep:]))
        self.number -= len(self.taken[keep:])
        del self.taken[keep:]


def read_jsonl(path: Path, lines: Lines) -> Table:
    """One JSON object a line. The columns are the keys of all lines together."""
    rows: list[Row | Rejected] = []
    columns: dict[str, None] = {}
    for line in lines:
        lines.taken.clear()
        if not line.strip():
            continue
        reason = None if _is_utf8(line) else "invalid UTF-8"
        try:
            cells = json.loads(line)
        except RecursionError:
            reason = reason or "broken JSON: nested too deep"
        except json.JSONDecodeError as error:
            reason = reason or f"broken JSON: {error.msg} at column {error.colno}"
        except ValueError as error:  # a number of more digits than Python converts
            reason = reason or f"broken JSON: {error}"
        else:
            reason = reason or (None if isinstance(cells, dict) else f"not a JSON object but {type(cells).__name__}")
        if reason is not None:
            rows.append(Rejected(str(path), lines.number, reason, _printable(line)))
        else:
            columns.update(dict.fromkeys(cells))
            rows.append(Row(lines.number, cells, line))
    return Table(tuple(columns), tuple(rows), lines.digest.hexdigest())


def read_csv(path: Path, lines: Lines) -> Table:
    """A line of column names, then rows of as many cells; cells part at the comma, semicolon or tab, whichever the names use.

    When the quotes of a row are broken only its first line is rejected and reading goes on with the second: a quote that is
    opened by mistake would otherwise swallow the rest of the file.
    """
    head = next((line for line in lines if line.strip()), "")
    lines.put_back(keep=0)
    reader = csv.reader(lines, delimiter=max(",;\t", key=head.count), strict=True)
    columns: tuple[str, ...] = ()
    rows: list[Row | Rejected] = []
    limit = csv.field_size_limit(2**31 - 1)  # of the process; a long cell is judged by the length of its text, later
    try:
        while True:
            lines.taken.clear()
            number = lines.number + 1
            reason = None
            try:
                cells = next(reader)
            except StopIteration:
                break
            except csv.Error as error:
                lines.put_back(keep=1)
                unclosed = "unexpected end" in str(error)
                reason = f"broken CSV: {'a quote is opened and never closed' if unclosed else error}"
            source = "".join(lines.taken)
            if reason is None and (not cells or (not columns and not any(map(str.strip, cells)))):
                continue  # nothing, or what spreadsheets leave above the names: only blanks and delimiters
            if reason is None and not _is_utf8(source):
                reason = "invalid UTF-8"
            if reason is None and columns and len(cells) != len(columns):
                reason = f"{len(cells)} cells where there are {len(columns)} columns"
            if not columns and reason is not None:
                raise BadInput(f"{path}: line {number} should name the columns, but: {reason}")
            if not columns:
                columns = tuple(name.strip() for name in cells)
            elif reason is not None:
                rows.append(Rejected(str(path), number, reason, _printable(source)))
            else:
                rows.append(Row(number, dict(zip(columns, cells, strict=True)), source))
    finally:
        csv.field_size_limit(limit)
    return Table(columns, tuple(rows), lines.digest.hexdigest())


def read_parquet(path: Path, file: BufferedReader, wanted: Wanted | None = None) -> Table:
    """Rows count from 1. Times keep microseconds. A column that nobody wants can be as large and as odd as it likes."""
    import pyarrow  # here, because half a second of import is too much for those who read no Parquet
    import pyarrow.parquet

    digest = hashlib.file_digest(file, "sha256").hexdigest()
    rows: list[Row | Rejected] = []
    try:
        parquet = pyarrow.parquet.ParquetFile(file)
        columns = tuple(parquet.schema_arrow.names)
        read = list(columns if wanted is None else dict.fromkeys(wanted(columns)))
        for batch in parquet.iter_batches(columns=read):
            arrays = [
                array.cast(pyarrow.timestamp("us", array.type.tz), safe=False)
                if pyarrow.types.is_timestamp(array.type)
                else array
                for array in batch.columns
            ]
            for scalars in zip(*arrays, strict=True):
                rows.append(_parquet_row(path, len(rows) + 1, batch.schema.names, scalars))
    except (pyarrow.ArrowException, OSError) as error:
        raise BadInput(f"{path}: not a readable Parquet file ({str(error).splitlines()[0]})") from None
    except LookupError as error:
        raise BadInput(f"{path}: a column's time zone is not known here: {error.args[0]}") from None
    return Table(columns, tuple(rows), digest)


def _parquet_row(path: Path, number: int, columns: Sequence[str], scalars: Sequence[Any]) -> Row | Rejected:
    cells: dict[str, object] = {}
    reason = None
    for column, scalar in zip(columns, scalars, strict=True):
        try:
            cells[column] = scalar.as_py()
        except UnicodeDecodeError:
            reason = f"invalid UTF-8 in column {column}"
            is_text = hasattr(scalar, "as_buffer")  # else a list or a structure that holds some
            held = (
                scalar.as_buffer().to_pybytes().decode("utf-8", "backslashreplace") if is_text else f"({scalar.type})"
            )
            cells[column] = held
        except (ValueError, OverflowError) as error:
            reason = f"column {column} cannot be read: {error}"
            cells[column] = f"({scalar.type})"  # its own text may be what cannot be made
    row = Row(number, cells, None)
    return row if reason is None else row.rejected(path, reason)


def _is_utf8(text: str) -> bool:
    """False when a byte of it was decoded to a lone surrogate."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _printable(raw: str) -> str:
    r"""The row without its line end, with bytes that are no UTF-8 as \xNN, so that it can be written as JSON."""
    return raw.rstrip("\r\n").encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
