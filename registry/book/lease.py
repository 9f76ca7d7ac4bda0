"""Who may steer the rollouts now: a lease that one controller holds for a while, and a token that fences all before it.

A controller takes the lease before it looks. Each taking gives a higher token, and the ledger checks the token within the
transaction that would write: a controller that was paused past its lease, and comes to while another holds it, writes
nothing (the fencing of Kleppmann, "How to do distributed locking", 2016). A person does not wait: what a person decides takes the
lease from whoever holds it, in the transaction that carries it out.

Knows a row of the ledger's database and times that it is given; clocks that differ cost time, never safety. Knows nothing of
rollouts.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from evermoe.errors import Conflict
from registry.book.audit import metadata, storable, stored

LASTS = timedelta(minutes=2)
"""Longer than a look takes; after a controller that died, the next one waits this long at most."""
FREE = ""
_NAME = "rollouts"

LEASES = sa.Table(
    "leases",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("holder", sa.Text, nullable=False),
    sa.Column("token", sa.Integer, nullable=False),
    sa.Column("expires_at", sa.Text, nullable=False),  # UTC, as text that sorts; FREE: nobody holds it
)


@dataclass(frozen=True)
class Lease:
    """The right to steer until `expires_at`, or until another controller has taken it. `token` grows with each taking."""

    holder: str
    token: int
    expires_at: datetime


class Fenced(Conflict):
    """Another controller, or a person, has taken the lease since; nothing of this one was carried out."""


def take(db: Connection, holder: str, now: datetime, lasts: timedelta) -> Lease | None:
    """The lease, or None while another holds it. Like all here, in a transaction that keeps other writers out."""
    row = db.execute(LEASES.select().filter_by(name=_NAME)).first()
    if row is not None and row.expires_at > stored(now):
        return None
    return _hand_to(db, holder, stored(now + lasts), now + lasts)


def take_over(db: Connection, by: str, now: datetime) -> None:
    """Fence whoever holds the lease, and hold it no longer than this transaction."""
    _hand_to(db, by, FREE, now)


def check(db: Connection, lease: Lease) -> None:
    """Raises `Fenced` unless nobody took the lease since."""
    row = db.execute(LEASES.select().filter_by(name=_NAME)).first()
    if row is None or row.token != lease.token:
        now = "nobody" if row is None else row.holder
        raise Fenced(f"{lease.holder} no longer steers the rollouts: {now} took over; nothing was changed")


def release(db: Connection, lease: Lease) -> None:
    """Let others take it at once. Of a lease that was lost, nothing."""
    db.execute(LEASES.update().filter_by(name=_NAME, token=lease.token).values(expires_at=FREE))


def _hand_to(db: Connection, holder: str, until: str, expires_at: datetime) -> Lease:
    token = (db.scalar(sa.select(LEASES.c.token).filter_by(name=_NAME)) or 0) + 1
    values = {"holder": storable(holder), "token": token, "expires_at": until}
    if token == 1:
        db.execute(LEASES.insert().values(name=_NAME, **values))
    else:
        db.execute(LEASES.update().filter_by(name=_NAME).values(**values))
    return Lease(holder, token, expires_at)
