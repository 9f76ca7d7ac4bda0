"""An append-only, hash-chained list of what was done to rollouts, by whom and why: the table, its chain, its proof.

Knows nothing of what the actions mean. Each row's hash covers the hash before it and the row's own content, so changing,
dropping or inserting a row breaks every hash after it; triggers refuse UPDATE and DELETE. Someone who owns the database can
still rewrite the whole chain: whoever must notice keeps `Verification.head` elsewhere.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.engine import Connection

GENESIS = "0" * 64
metadata = sa.MetaData()

AUDIT = sa.Table(
    "audit",
    metadata,
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("rollout", sa.Text, nullable=False, index=True),
    sa.Column("revision", sa.Integer, nullable=False),
    sa.Column("at", sa.Text, nullable=False),
    sa.Column("by", sa.Text, nullable=False),
    sa.Column("action", sa.Text, nullable=False),
    sa.Column("share", sa.Float, nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("evidence", sa.Text, nullable=False),
    sa.Column("shares", sa.Text),  # of each challenger, by version; rows of format 2 and before have `share` alone
    sa.Column("previous", sa.Text, nullable=False, unique=True),  # a chain cannot fork
    sa.Column("hash", sa.Text, nullable=False, unique=True),
)

_SQLITE_APPEND_ONLY = [
    f"CREATE TRIGGER IF NOT EXISTS audit_no_{verb.lower()} BEFORE {verb} ON audit "
    "BEGIN SELECT RAISE(ABORT, 'the audit is append-only'); END"
    for verb in ("UPDATE", "DELETE")
]
_POSTGRES_APPEND_ONLY = [
    "CREATE OR REPLACE FUNCTION audit_append_only() RETURNS trigger LANGUAGE plpgsql AS "
    "$$ BEGIN RAISE EXCEPTION 'the audit is append-only'; END $$",
    "CREATE OR REPLACE TRIGGER audit_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON audit "
    "FOR EACH STATEMENT EXECUTE FUNCTION audit_append_only()",
]


@dataclass(frozen=True)
class AuditRow:
    """One change of one rollout: when, by whom, what, why, on which evidence, chained to the row before it."""

    number: int
    rollout: str
    revision: int
    at: datetime
    by: str
    action: str
    share: float
    reason: str
    evidence: dict[str, Any]
    previous: str
    hash: str
    shares: dict[str, float] = field(default_factory=dict)
    """Of each challenger, by its version; empty in rows of old, whose one challenger has `share`."""


class Present(NamedTuple):
    """A rollout as it stands: its last change, and the share of each challenger by its version."""

    revision: int
    shares: Mapping[str, float]


@dataclass(frozen=True)
class Verification:
    """Whether the audit is whole. `broken_at` is the number of the first row that does not fit, `head` the last hash."""

    rows: int
    head: str
    broken_at: int | None
    reason: str

    @property
    def ok(self) -> bool:
        """Nothing was changed, dropped or inserted."""
        return not self.reason


def protect(db: Connection) -> None:
    """Let the database itself refuse to change or delete what is written."""
    for statement in _SQLITE_APPEND_ONLY if db.dialect.name == "sqlite" else _POSTGRES_APPEND_ONLY:
        db.execute(sa.text(statement))


def append(
    db: Connection,
    *,
    rollout: str,
    revision: int,
    at: datetime,
    by: str,
    action: str,
    share: float,
    shares: Mapping[str, float],
    reason: str,
    evidence: Mapping[str, Any],
) -> None:
    """Add a row to the chain. The caller's transaction must keep other writers out."""
    last = db.execute(sa.select(AUDIT.c.number, AUDIT.c.hash).order_by(AUDIT.c.number.desc()).limit(1)).first()
    row: dict[str, Any] = {
        "number": 1 if last is None else last.number + 1,
        "rollout": rollout,
        "revision": revision,
        "at": stored(at),
        "by": storable(by),
        "action": action,
        "share": share,
        "reason": storable(reason),
        "evidence": json.dumps(evidence, sort_keys=True, default=str),
        "shares": json.dumps(shares),
        "previous": GENESIS if last is None else last.hash,
    }
    db.execute(AUDIT.insert().values(**row, hash=_hash(row)))


def read(row: Mapping[str, Any]) -> AuditRow:
    """A row of the table as data."""
    values = {known.name: row[known.name] for known in fields(AuditRow)}
    values |= {"at": datetime.fromisoformat(row["at"]), "evidence": json.loads(row["evidence"])}
    return AuditRow(**values | {"shares": json.loads(row["shares"] or "{}")})


def verify(rows: Iterable[Mapping[str, Any]], present: Mapping[str, Present]) -> Verification:
    """Recompute the chain over `rows`, oldest first, and compare its end with each rollout as it stands."""
    head, number, written = GENESIS, 0, dict[str, Present]()
    for number, row in enumerate(rows, start=1):
        if row["number"] != number or row["previous"] != head:
            return Verification(
                number, head, number, f"audit row {number} is missing or does not follow the one before it"
            )
        if row["hash"] != _hash(row):
            return Verification(number, head, number, f"audit row {number} was changed after it was written")
        head = row["hash"]
        written[row["rollout"]] = Present(row["revision"], read(row).shares)
    for name in sorted(written.keys() | present.keys()):
        told, stands = written.get(name), present.get(name)
        if told is None or stands is None or told.revision != stands.revision:
            return Verification(
                number, head, number + 1, f"rollout {name} and the audit disagree about its last change"
            )
        if told.shares and told.shares != stands.shares:
            return Verification(number, head, number + 1, f"rollout {name} and the audit disagree about its shares")
    return Verification(number, head, None, "")


def stored(at: datetime) -> str:
    """UTC as text, the same on every database. A naive time is a bug of the caller."""
    if at.tzinfo is None:
        raise ValueError(f"{at} has no time zone")
    return at.astimezone(UTC).isoformat(timespec="microseconds")


def storable(text: str) -> str:
    """Text that every database takes: no NUL, no half of a surrogate pair."""
    return text.encode("utf-8", "replace").decode("utf-8").replace("\0", "?")


def _hash(row: Mapping[str, Any]) -> str:
    """sha256 over the content of a row and the hash before it, in one spelling. A row of old has no shares in its content."""
    content = {column.name: row[column.name] for column in AUDIT.columns if column.name != "hash"}
    if content["shares"] is None:
        del content["shares"]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
