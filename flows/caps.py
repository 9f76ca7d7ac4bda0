"""How many rows one unit may teach. Pure: rows in, rows out.

Of each month's rows a unit keeps at most a share, or what it was accustomed to send before, and at least a few rows, so that a
small month and a stream of few people keep theirs. Which of a unit's rows stay is decided by a hash of the row: the same
everywhere, and not the sender's choice. Rows of the base, which no user told, are not capped; they say who was accustomed to
what. Where it fails: one sender with many names is many units.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from hashlib import blake2b

from flows.months import month_of
from registry.snapshots import SnapshotRow

TOLD = "response:"  # how the source of a row begins that a user told (flows/freezing.py)


def capped(
    known: Iterable[SnapshotRow], fresh: Iterable[SnapshotRow], share: float, least: int
) -> tuple[list[SnapshotRow], list[SnapshotRow]]:
    """The rows that may be learned of `known` and of `fresh`, in their order. A share of 1 keeps all."""
    parts = (list(known), list(fresh))
    if share >= 1:
        return parts
    before: Counter[str] = Counter()
    learned = 0
    kept: tuple[list[SnapshotRow], list[SnapshotRow]] = ([], [])
    for place, rows in enumerate(parts):
        months: dict[str, list[SnapshotRow]] = defaultdict(list)
        for row in rows:
            months[month_of(row.at)].append(row)
        for month in sorted(months):
            stay = _of_month(months[month], before, learned, share, least)
            kept[place].extend(stay)
            before.update(row.unit for row in stay if row.unit is not None)
            learned += len(stay)
    return kept


def _of_month(
    rows: Sequence[SnapshotRow], before: Counter[str], learned: int, share: float, least: int
) -> list[SnapshotRow]:
    """The rows of one month that stay; `before` counts what each unit taught so far, of `learned` rows in all."""
    told: dict[str, list[SnapshotRow]] = defaultdict(list)
    for row in rows:
        if row.unit is not None and row.source.startswith(TOLD):
            told[row.unit].append(row)
    gone: set[int] = set()
    for unit, own in told.items():
        accustomed = before[unit] / learned if learned else 0.0
        most = max(least, int(max(share, accustomed) * len(rows)))
        gone.update(id(row) for row in sorted(own, key=_lot)[most:])
    return [row for row in rows if id(row) not in gone]


def _lot(row: SnapshotRow) -> bytes:
    """A row's place in the draw."""
    content = f"{row.source}\0{row.label}\0{row.text}"
    return blake2b(content.encode("utf-8", "surrogatepass"), digest_size=8).digest()
