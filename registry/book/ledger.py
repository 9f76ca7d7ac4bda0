"""The book of rollouts: their present state, and an append-only, hash-chained audit of everything that changed them.

Knows how to store and fence rollouts; what should happen next is `deciding.decide`'s, who may ask is the edge's. Shares its
database with the event log (SQLite or PostgreSQL by URL) but neither its tables nor its schema version.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, fields, replace
from datetime import datetime, timedelta
from functools import cached_property
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, RowMapping

from evermoe.errors import Conflict, HomeTooNew, NotFound, StorageUnavailable
from monitoring import database
from registry.assignment import CHAMPION, arm_of, whole
from registry.book import audit, lease
from registry.book.audit import AUDIT, AuditRow, Verification, metadata, storable, stored
from registry.book.lease import LASTS, Lease
from registry.rollout import FOLLOWS, OPEN, Challenger, Decision, Rollout, Status, Tried, in_force, listed, transition

SCHEMA = 3
TERMS = "terms"  # in the evidence of an opening
_POSTGRES_LOCK = 0x65766572  # one writer at a time; SQLite locks the file by itself

_schema = sa.Table("ledger_schema", metadata, sa.Column("version", sa.Integer, primary_key=True))
_rollouts = sa.Table(
    "rollouts",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("month", sa.Text, nullable=False),
    sa.Column("champion", sa.Text, nullable=False),
    sa.Column(
        "challengers", sa.Text, nullable=False, server_default="[]"
    ),  # JSON: version, arm, share and, where it is out, why
    sa.Column("salt", sa.Text, nullable=False, unique=True),
    sa.Column("step", sa.Integer, nullable=False),
    sa.Column("status", sa.Text, nullable=False),
    sa.Column("opened_at", sa.Text, nullable=False),
    sa.Column("step_started_at", sa.Text, nullable=False),
    sa.Column("closed_at", sa.Text),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("revision", sa.Integer, nullable=False),
    sa.Column("open_slot", sa.Integer, unique=True),  # 1 while running or paused, else NULL: there is one slot
    sa.UniqueConstraint("month", "champion"),
)


@dataclass(frozen=True)
class Plan(Tried):
    """What a gateway needs to route: the champion, the challengers with their shares, and a salt.

    `revision` changes whenever any of them may have.
    """

    rollout: str
    champion: str
    challengers: tuple[Challenger, ...]
    salt: str
    revision: int

    @cached_property
    def logged(self) -> dict[str, float]:
        """The shares of all arms, the champion's first, as requests are logged with them."""
        return whole(self.shares)

    @cached_property
    def versions(self) -> Mapping[str, str]:
        """The version that the units of each arm meet."""
        return {CHAMPION: self.champion, **{one.arm: one.version for one in self.challengers}}


class Ledger:
    """The rollouts of one database. Safe to use from several threads and processes."""

    def __init__(self, url: str) -> None:
        self._engine = database.connect(url)
        try:
            self._prepare()
        except sa.exc.DBAPIError as error:
            raise StorageUnavailable(f"the rollout ledger cannot be opened: {_first_line(error)}") from None

    @contextmanager
    def lease(self, holder: str, clock: Callable[[], datetime], lasts: timedelta = LASTS) -> Iterator[Lease | None]:
        """The lease to steer, for as long as the block takes or until another takes over; None while another holds it."""
        with self._writing() as db:
            mine = lease.take(db, holder, clock(), lasts)
        try:
            yield mine
        finally:
            if mine is not None:
                with suppress(StorageUnavailable), self._writing() as db:  # without a database it runs out by itself
                    lease.release(db, mine)

    def open(
        self, rollout: Rollout, by: str, evidence: Mapping[str, Any] | None = None, *, held: Lease | None = None
    ) -> Rollout:
        """Store a new rollout. The same month, champion and challengers again return the one that is stored (a retry).

        `held` is the lease it is opened under; without one, whoever holds it is fenced. Raises `Conflict` when that month
        already opened other challengers against this champion, or when a rollout is open, and `Fenced`.
        """
        with self._writing() as db:
            if held is not None:
                lease.check(db, held)
            same = (
                db.execute(_rollouts.select().filter_by(month=rollout.month, champion=rollout.champion))
                .mappings()
                .first()
            )
            if same is not None:
                if _versions(known := _rollout(same)) == _versions(rollout):
                    return known
                raise Conflict(
                    f"{rollout.month} already opened rollout {same['id']} against version {rollout.champion} ({same['status']})"
                )
            other = db.execute(_rollouts.select().where(_rollouts.c.open_slot == 1)).mappings().first()
            if other is not None:
                raise Conflict(
                    f"rollout {other['id']} is still {other['status']}; promote, abort or supersede it first"
                )
            if db.execute(_rollouts.select().filter_by(id=rollout.id)).first() is not None:
                raise Conflict(f"a rollout {rollout.id} exists already; give the new one another id")
            if held is None:
                lease.take_over(db, by, rollout.opened_at)
            db.execute(_rollouts.insert().values(**_values(rollout)))
            tried = f"version{'s' if rollout.several else ''} {listed(one.version for one in rollout.challengers)}"
            reason = rollout.reason or f"{rollout.month}: {tried} against {rollout.champion}"
            _write_down(
                db,
                rollout,
                rollout.opened_at,
                by,
                "open",
                reason,
                {**(evidence or {}), TERMS: _terms(_values(rollout))},
            )
            return rollout

    def apply(
        self,
        rollout_id: str,
        decision: Decision,
        by: str,
        now: datetime,
        evidence: Mapping[str, Any] | None = None,
        *,
        revision: int | None = None,
        held: Lease | None = None,
    ) -> Rollout:
        """Carry out a decision and write it to the audit, both or neither. A hold changes and writes nothing.

        `held` is the lease it was decided under, and `Fenced` is raised when another has taken that since. Without one a
        person decided: whoever holds the lease is fenced.

        `revision` is the one the decision was made on: when the rollout has changed since, the decision is stale and
        `Conflict` is raised. None decides on whatever stands. Raises `NotFound`, and `Conflict` when the state forbids it, or
        a promotion would be taken back after another rollout was opened.
        """
        with self._writing() as db:
            before = _found(db, rollout_id)
            if held is not None:
                lease.check(db, held)
            if revision is not None and before.revision != revision:
                raise Conflict(
                    f"rollout {rollout_id} changed meanwhile (revision {before.revision}, decided on {revision}); look again"
                )
            after = transition(before, decision, now)
            if after is before:
                return before
            if decision.action == "revert":
                _require_in_force(db, before)
            if held is None:
                lease.take_over(db, by, now)
            changed = db.execute(
                _rollouts.update().filter_by(id=rollout_id, revision=before.revision).values(**_values(after))
            )
            if changed.rowcount != 1:
                raise Conflict(f"rollout {rollout_id} changed meanwhile; look again")
            _write_down(db, after, now, by, decision.action, decision.reason, evidence)
            return after

    def running(self) -> Rollout | None:
        """The rollout that is running or paused, if any. There is never more than one."""
        with self._reading() as db:
            row = db.execute(_rollouts.select().where(_rollouts.c.open_slot == 1)).mappings().first()
            return None if row is None else _rollout(row)

    def plan(self) -> Plan | None:
        """How to route now, or None when every unit meets the champion."""
        if (rollout := self.running()) is None:
            return None
        return Plan(rollout.id, rollout.champion, rollout.challengers, rollout.salt, rollout.revision)

    def get(self, rollout_id: str) -> Rollout:
        """One rollout. Raises `NotFound`."""
        with self._reading() as db:
            return _found(db, rollout_id)

    def find(self, month: str, champion: str) -> Rollout | None:
        """The rollout that this month opened against this champion, if it did."""
        with self._reading() as db:
            row = db.execute(_rollouts.select().filter_by(month=month, champion=champion)).mappings().first()
            return None if row is None else _rollout(row)

    def list(self) -> tuple[Rollout, ...]:
        """All rollouts, the oldest first."""
        with self._reading() as db:
            return _listed(db)

    def history(self, rollout_id: str | None = None, *, before: int | None = None) -> tuple[AuditRow, ...]:
        """The audit rows of one rollout, or of all, the oldest first; those `before` a number, where a later one cannot be read.
        Raises `NotFound`."""
        with self._reading() as db:
            query = AUDIT.select().order_by(AUDIT.c.number)
            if before is not None:
                query = query.where(AUDIT.c.number < before)
            if rollout_id is not None:
                _found(db, rollout_id)
                query = query.where(AUDIT.c.rollout == rollout_id)
            return tuple(audit.read(dict(row)) for row in db.execute(query).mappings())

    def verify(self) -> Verification:
        """Recompute the audit's chain and compare it with the rollouts, while nobody writes."""
        with self._writing() as db:
            rows = db.execute(AUDIT.select().order_by(AUDIT.c.number)).mappings().all()
            standing = db.execute(_rollouts.select()).mappings().all()
        present = {row["id"]: audit.Present(row["revision"], _standing_shares(row)) for row in standing}
        found, status, terms = audit.verify([dict(row) for row in rows], present), dict[str, Status](), dict[str, str]()
        for row in rows if found.ok else ():
            status[row["rollout"]] = FOLLOWS.get(row["action"], status.get(row["rollout"], "running"))
            terms.setdefault(row["rollout"], json.loads(row["evidence"]).get(TERMS, ""))
        for row in standing if found.ok else ():
            told, reason = status[row["id"]], ""
            if row["status"] != told or bool(row["open_slot"]) != (told in OPEN):
                reason = f"rollout {row['id']} is {row['status']}, and {told} by the audit"
            elif terms[row["id"]] not in ("", _terms(dict(row))):
                reason = f"the month, champion or salt of rollout {row['id']} is not what it was opened with"
            if reason:
                return replace(found, broken_at=found.rows + 1, reason=reason)
        return found

    def close(self) -> None:
        """Give the connections back."""
        self._engine.dispose()

    def __enter__(self) -> Ledger:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _prepare(self) -> None:
        """Make the tables on first use; refuse those of a newer version."""
        with self._engine.connect() as db:
            if sa.inspect(db).has_table("ledger_schema"):
                written = db.scalar(sa.select(sa.func.max(_schema.c.version)))
                if written is not None:
                    if written > SCHEMA:
                        raise HomeTooNew(
                            f"the rollout ledger has format {written}, this Evermoe reads {SCHEMA}; upgrade Evermoe"
                        )
                    if written == SCHEMA:
                        return
        with self._writing() as db:
            metadata.create_all(db)  # of format 1, all but the leases are there
            written = db.scalar(sa.select(sa.func.max(_schema.c.version)))
            if written is None:
                db.execute(_schema.insert().values(version=SCHEMA))
            elif written < SCHEMA:  # another process may have been here first
                _name_challengers(db)
                db.execute(_schema.update().values(version=SCHEMA))
            audit.protect(db)

    @contextmanager
    def _writing(self) -> Iterator[Connection]:
        """A transaction with no other writer beside it, so that the audit has one last row."""
        with self._errors(), database.writing(self._engine) as db:
            if db.dialect.name == "postgresql":
                db.execute(sa.text("SELECT pg_advisory_xact_lock(:key)"), {"key": _POSTGRES_LOCK})
            yield db

    @contextmanager
    def _reading(self) -> Iterator[Connection]:
        with self._errors(), self._engine.connect() as db:
            yield db

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sa.exc.IntegrityError as error:
            raise Conflict(f"the rollout ledger refused this: {_first_line(error)}") from None
        except sa.exc.SQLAlchemyError as error:
            if not database.is_storage_failure(error):
                raise
            raise database.unavailable(self._engine, error) from error


def _name_challengers(db: Connection) -> None:
    """Format 3: a rollout names its challengers, each with its share, and the audit the share of each."""
    db.execute(sa.text("ALTER TABLE audit ADD COLUMN shares TEXT"))
    db.execute(sa.text("ALTER TABLE rollouts ADD COLUMN challengers TEXT NOT NULL DEFAULT '[]'"))
    for row in db.execute(sa.text("SELECT id, challenger, share FROM rollouts")).all():
        alone = Challenger(row.challenger, arm_of(row.challenger, alone=True), row.share)
        db.execute(_rollouts.update().filter_by(id=row.id).values(challengers=_stored((alone,))))
    for column in ("challenger", "share"):
        db.execute(sa.text(f"ALTER TABLE rollouts DROP COLUMN {column}"))


def _write_down(
    db: Connection,
    rollout: Rollout,
    at: datetime,
    by: str,
    action: str,
    reason: str,
    evidence: Mapping[str, Any] | None,
) -> None:
    audit.append(
        db,
        rollout=rollout.id,
        revision=rollout.revision,
        at=at,
        by=by,
        action=action,
        share=rollout.share,
        shares=_shares(rollout),
        reason=reason,
        evidence=evidence or {},
    )


def _terms(row: Mapping[str, Any]) -> str:
    """What of a rollout's row never changes, as SHA-256: the salt is nobody's to read who may read the audit."""
    return hashlib.sha256(json.dumps([row["month"], row["champion"], row["salt"]]).encode()).hexdigest()


def _shares(rollout: Rollout) -> dict[str, float]:
    """Of each challenger, by its version."""
    return {one.version: one.share for one in rollout.challengers}


def _standing_shares(row: RowMapping) -> dict[str, float]:
    """Of a rollout's row, whoever wrote it: where it cannot be read, shares that nobody has."""
    try:
        return _shares(_rollout(row))
    except (ValueError, TypeError, LookupError):
        return {"": -1.0}


def _found(db: Connection, rollout_id: str) -> Rollout:
    row = None
    if storable(rollout_id) == rollout_id:  # else: no database can hold it, and PostgreSQL refuses to look for it
        row = db.execute(_rollouts.select().filter_by(id=rollout_id)).mappings().first()
    if row is None:
        raise NotFound(f"no rollout {rollout_id!r}; `evermoe rollout history` lists them")
    return _rollout(row)


def _require_in_force(db: Connection, rollout: Rollout) -> None:
    """Raise `Conflict` where another rollout was opened since and is open, or moved the champion: it goes by what this promoted."""
    last = in_force(reversed(_listed(db)))
    if last is not None and last.id != rollout.id:
        raise Conflict(
            f"cannot revert rollout {rollout.id}: rollout {last.id} was opened since; abort that one, if it is open"
        )


def _listed(db: Connection) -> tuple[Rollout, ...]:
    """All rollouts, the oldest first."""
    opened = sa.select(AUDIT.c.rollout, AUDIT.c.number).where(AUDIT.c.action == "open").subquery()
    rows = db.execute(
        _rollouts.select()
        .outerjoin_from(_rollouts, opened, opened.c.rollout == _rollouts.c.id)
        .order_by(opened.c.number)
    )
    return tuple(_rollout(row) for row in rows.mappings())


def _values(rollout: Rollout) -> dict[str, Any]:
    values = {field.name: getattr(rollout, field.name) for field in fields(rollout)}
    for name in ("opened_at", "step_started_at", "closed_at"):
        values[name] = None if values[name] is None else stored(values[name])
    values |= {"challengers": _stored(rollout.challengers), "reason": storable(rollout.reason)}
    return values | {"open_slot": 1 if rollout.open else None}


def _stored(challengers: Sequence[Challenger]) -> str:
    """Challengers as JSON text."""
    return json.dumps([asdict(one) | {"out": storable(one.out)} for one in challengers])


def _versions(rollout: Rollout) -> set[str]:
    return {one.version for one in rollout.challengers}


def _rollout(row: RowMapping) -> Rollout:
    values = {field.name: row[field.name] for field in fields(Rollout)}
    for name in ("opened_at", "step_started_at", "closed_at"):
        values[name] = None if values[name] is None else datetime.fromisoformat(values[name])
    arms = tuple(Challenger(**one) for one in json.loads(values["challengers"]))
    return Rollout(**values | {"challengers": arms})


def _first_line(error: Exception) -> str:
    return str(getattr(error, "orig", error)).strip().splitlines()[0]
