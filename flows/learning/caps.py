"""How many rows one unit may teach. Pure: rows in, rows out.

Of each month's labels, and of its thumbs and its bare texts, a unit keeps at most a share, or what it was accustomed to send
before, and at least a few rows, so that a small month and a stream of few people keep theirs. Which of a unit's rows stay is
decided by a hash of the row: the same everywhere, and not the sender's choice. Rows of the base, which no user told, are not
capped; they say who was accustomed to what. Where it fails: one sender with many names is many units.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from hashlib import blake2b

from evermoe.months import month_of
from registry.snapshots import SnapshotRow

TOLD = "response:"  # how the source of a row begins that a user told (flows/snapshots/freezing.py)


def capped(
    known: Iterable[SnapshotRow], fresh: Iterable[SnapshotRow], share: float, least: int
) -> tuple[list[SnapshotRow], list[SnapshotRow]]:
    """The rows that may be learned of `known` and of `fresh`, in their order. A share of 1 keeps all."""
    parts = (list(known), list(fresh))
    if share >= 1:
        return parts
    before: dict[str, Counter[str]] = defaultdict(Counter)
    learned: Counter[str] = Counter()
    kept: tuple[list[SnapshotRow], list[SnapshotRow]] = ([], [])
    for place, rows in enumerate(parts):
        groups: dict[tuple[str, str], list[SnapshotRow]] = defaultdict(list)
        for row in rows:
            groups[month_of(row.at), kind_of(row)].append(row)
        gone: set[int] = set()
        for (_, kind), group in sorted(groups.items()):
            stay = _staying(group, before[kind], learned[kind], share, least)
            gone |= {id(row) for row in group} - {id(row) for row in stay}
            before[kind].update(row.unit for row in stay if row.unit is not None)
            learned[kind] += len(stay)
        kept[place].extend(row for row in rows if id(row) not in gone)
    return kept


def kind_of(row: SnapshotRow) -> str:
    """What a row teaches: a label, a liking, or a text."""
    if row.label is not None:
        return "label"
    return "thumb" if row.score is not None else "text"


def _staying(
    rows: Sequence[SnapshotRow], before: Counter[str], learned: int, share: float, least: int
) -> list[SnapshotRow]:
    """The rows of one month and kind that stay; `before` counts what each unit taught so far, of `learned` rows in all."""
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
