"""Which months a demo replays. Pure: records in, a plan out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from evermoe.errors import BadInput
from evermoe.months import after, month_of, start_of
from evermoe.settings import StreamParams
from streams.record import Record

BASE_SHARE = 0.4  # of a stream we know nothing of, at least this much is for the base


@dataclass(frozen=True)
class Plan:
    """The base learns `before` the first of `months`; each month has its records, maybe none."""

    before: tuple[Record, ...]
    months: dict[str, tuple[Record, ...]]

    @property
    def start(self) -> str:
        """The first month replayed."""
        return next(iter(self.months))


def choose_months(records: Sequence[Record], start: str | None, count: int, default: StreamParams | None) -> Plan:
    """`count` months from `start`. Without a start: the one of params.yaml for its stream, else as late as `count` allows.

    Raises `BadInput` where the stream has no month to replay or nothing before it.
    """
    by_month = Counter(month_of(record.at) for record in records)
    if len(by_month) < 2:
        only = f"only {next(iter(by_month))}" if by_month else "no month at all"
        raise BadInput(f"the stream has {only}; a demo needs one month to learn and one to replay")
    if start is None:
        start = default.until if default is not None and default.until in by_month else latest_start(by_month, count)
    first, last = start_of(start), max(by_month)
    before = tuple(record for record in records if record.at < first)
    months: dict[str, tuple[Record, ...]] = {}
    month = start
    while len(months) < count and month <= last:
        months[month] = tuple(record for record in records if month_of(record.at) == month)
        month = after(month)
    if not months or not any(months.values()):
        raise BadInput(f"the stream has no records from {start} on; it spans {min(by_month)} to {last}")
    if not before:
        raise BadInput(
            f"the stream has no records before {start} for the base to learn from; it begins in {min(by_month)}"
        )
    labels = {record.label for record in before if record.label is not None}
    if len(labels) < 2:
        found = f"only the label {labels.pop()!r}" if labels else "no labelled record"
        raise BadInput(f"before {start} the stream has {found}; a base needs two labels or more")
    return Plan(before, months)


def latest_start(by_month: Counter[str], count: int) -> str:
    """The latest month from which `count` can be replayed and before which enough lies for a base."""
    names = sorted(by_month)
    earliest, seen = len(names) - 1, 0
    for index, name in enumerate(names):
        if seen >= BASE_SHARE * sum(by_month.values()):
            earliest = index
            break
        seen += by_month[name]
    return names[min(len(names) - 1, max(earliest, len(names) - count, 1))]
