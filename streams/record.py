"""What a stream is made of: the dated record, the stream of them, and the rows that could not become one.

Knows nothing of files, networks or models: an adapter (`ansible.py`, `git.py`, `files.py`) makes these, every other room
receives them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Protocol

from evermoe.errors import BadInput
from evermoe.months import month_of

MAX_TEXT = 150_000
"""Characters; longer is a file in a cell, not something somebody asked, and no body of a request."""


@dataclass(frozen=True, slots=True)
class Record:
    """Something somebody asked at a known time. Raises `BadInput` when it has no text or no time in UTC."""

    at: datetime
    """When, timezone-aware and in UTC."""
    text: str
    label: str | None
    """The right answer; None where it is not known."""
    unit: str | None
    """Who asked, for sticky assignment. Never shown to the model: it may give the label away."""
    source: str

    def __post_init__(self) -> None:
        if not isinstance(self.at, datetime) or self.at.utcoffset() != timedelta(0):
            raise BadInput(f"a record's time must be in UTC and say so, not {self.at!r}")
        if not self.text.strip():
            raise BadInput(f"the record of {self.at.isoformat()} has no text")


@dataclass(frozen=True, slots=True)
class Rejected:
    """A row that could not become a record, whole, so that its owner can mend it."""

    file: str
    line: int
    """Of the file, from 1; in Parquet, which has no lines, the row."""
    reason: str
    raw: str


class Progress(Protocol):
    """Told how far long work has come. `total_bytes` is None while unknown."""

    def __call__(self, done_bytes: int, total_bytes: int | None) -> None: ...


class Stream(Protocol):
    """Dated records from one place, complete when it is opened."""

    @property
    def name(self) -> str: ...

    @property
    def fingerprint(self) -> str:
        """Changes when the contents do."""

    @property
    def rejected(self) -> Sequence[Rejected]:
        """Rows a user should look at."""

    @property
    def left_out(self) -> Mapping[str, int]:
        """What was passed over by rule, and how often: a repeated note, a commit without a subject."""

    def records(self) -> list[Record]:
        """Sorted by `at`; records of one instant keep the order of their source."""


@dataclass(frozen=True)
class LoadedStream:
    """A `Stream` whose records are in memory."""

    name: str
    fingerprint: str
    loaded: tuple[Record, ...]
    rejected: tuple[Rejected, ...] = ()
    left_out: Mapping[str, int] = field(default_factory=dict)

    def records(self) -> list[Record]:
        """See `Stream.records`."""
        return sorted(self.loaded, key=lambda record: record.at)


def months(records: Iterable[Record]) -> dict[str, list[Record]]:
    """Records by month 'YYYY-MM' (UTC), months in order, records in the order given. A month without records is absent."""
    grouped: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        grouped[month_of(record.at)].append(record)
    return dict(sorted(grouped.items()))
