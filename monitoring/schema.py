"""The tables of the event log and of the API keys, and how a database of an older version becomes one of this.

Knows what is stored; not how its database is opened (`monitoring/database.py`), when it is written (`monitoring/writer.py`)
or what is asked of it (`monitoring/events.py`).
"""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Connection,
    DateTime,
    Dialect,
    Engine,
    Float,
    Index,
    Integer,
    MetaData,
    Table,
    Text,
    UniqueConstraint,
    and_,
    inspect,
    select,
    text,
    update,
)
from sqlalchemy.types import TypeDecorator

from evermoe.errors import HomeTooNew
from monitoring.database import connect, storage_errors, writing
from monitoring.rows import CLIENT_LEFT, CUT_TO_NOTHING

SCHEMA_VERSION = 3
PART = "events"
_ADVISORY_LOCK = 0x45564D4F  # any number, the same in every process that creates these tables


class UtcDateTime(TypeDecorator[datetime]):
    """An aware datetime, stored in UTC. SQLite has no time zones, so there the UTC time is stored without one."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(f"{value} has no time zone")
        utc = value.astimezone(UTC)
        return utc.replace(tzinfo=None) if dialect.name == "sqlite" else utc

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class AnyText(TypeDecorator[str]):
    """Any Python string, given back as it was.

    PostgreSQL stores no NUL and UTF-8 no lone surrogate, yet a JSON body may hold both (`"\\u0000"`, `"\\ud800"`). They are
    written as the control character SUB and four hexadecimal digits; so is SUB itself.
    """

    impl = Text
    cache_ok = True
    _unstorable = re.compile("[\x00\x1a\ud800-\udfff]")
    _escaped = re.compile("\x1a([0-9a-f]{4})")

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        return value if value is None else self._unstorable.sub(lambda found: f"\x1a{ord(found[0]):04x}", value)

    def process_result_value(self, value: str | None, dialect: Dialect) -> str | None:
        if value is None or "\x1a" not in value:
            return value
        return self._escaped.sub(lambda found: chr(int(found[1], 16)), value)


class AsJson(TypeDecorator[Any]):
    """Numbers and names as JSON text: the log never searches inside them."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Dialect) -> str | None:
        return None if value is None else json.dumps(value)

    def process_result_value(self, value: str | None, dialect: Dialect) -> Any:
        return None if value is None else json.loads(value)


METADATA = MetaData()

schema_versions = Table(
    "schema_versions",
    METADATA,
    Column("part", AnyText, primary_key=True),
    Column("version", Integer, nullable=False),
)

requests = Table(
    "requests",
    METADATA,
    Column("id", AnyText, primary_key=True),
    Column("at", UtcDateTime, nullable=False),
    Column("kind", AnyText, nullable=False),
    Column("unit", AnyText, nullable=False),
    Column("unit_given", Boolean, nullable=False),
    Column("input", AnyText, nullable=False),
    Column("output", AnyText, nullable=False),
    Column("scores", AsJson),
    Column("rollout", AnyText),
    Column("arm", AnyText, nullable=False),
    Column("version", AnyText, nullable=False),
    Column("propensity", Float(53), nullable=False),
    Column("latency_ms", Float(53), nullable=False),
    Column("prompt_tokens", BigInteger, nullable=False),
    Column("output_tokens", BigInteger, nullable=False),
    Column("experts", AsJson, nullable=False),
    Column("error", AnyText),
    Column("shadow", AnyText),
    Column("api_key", AnyText, nullable=False, server_default=""),
    Column("shares", AsJson),
    Index("requests_by_time", "at", "arm"),
    Index("requests_by_rollout", "rollout"),
)

feedback = Table(
    "feedback",
    METADATA,
    Column("sequence", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True),
    Column("key", AnyText, nullable=False),
    Column("response_id", AnyText, nullable=False),
    Column("at", UtcDateTime, nullable=False),
    Column("score", Float(53)),
    Column("label", AnyText),
    Column("counted", Boolean, nullable=False),
    Column("reward", Float(53)),
    Column("delay_seconds", Float(53), nullable=False),
    Column("api_key", AnyText, nullable=False, server_default=""),
    UniqueConstraint("api_key", "key", name="feedback_key_once"),  # each client has idempotency keys of its own
    sqlite_autoincrement=True,
)

FAILED = and_(
    requests.c.error.is_not(None),
    # at the end, because older rows name the exception before it
    *(requests.c.error.not_like(f"%{no_fault}") for no_fault in (CLIENT_LEFT, CUT_TO_NOTHING)),
)
"""Requests of which the arm is to blame that they have no answer."""

# One counted feedback a response, held by the database itself: two gateways may write at the same moment.
_counted_once = Index(
    "feedback_counted_once",
    feedback.c.response_id,
    unique=True,
    sqlite_where=feedback.c.counted,
    postgresql_where=feedback.c.counted,
)

api_keys = Table(
    "api_keys",
    METADATA,
    Column("id", AnyText, primary_key=True),
    Column("name", AnyText, nullable=False, unique=True),
    Column("role", AnyText, nullable=False),
    Column("secret_sha256", AnyText, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("revoked_at", UtcDateTime),
)

sessions = Table(
    "sessions",
    METADATA,
    Column("token_sha256", AnyText, primary_key=True),
    Column("api_key", AnyText, nullable=False),
    Column("expires_at", UtcDateTime, nullable=False),
)


def open_database(url: str) -> Engine:
    """The engine of `url` with the tables in place. Raises `BadInput`, `StorageUnavailable`, `HomeTooNew`."""
    engine = connect(url)
    try:
        with storage_errors(engine), writing(engine) as connection:
            _create_tables(connection)
        return engine
    except BaseException:
        engine.dispose()
        raise


def _create_tables(connection: Connection) -> None:
    if connection.dialect.name == "postgresql":  # two gateways may start on an empty database together
        connection.execute(text("SELECT pg_advisory_xact_lock(:number)"), {"number": _ADVISORY_LOCK})
    found = None
    if inspect(connection).has_table(schema_versions.name):
        found = connection.scalar(select(schema_versions.c.version).where(schema_versions.c.part == PART))
    if found is None:
        METADATA.create_all(connection)
        connection.execute(schema_versions.insert().values(part=PART, version=SCHEMA_VERSION))
        return
    if found > SCHEMA_VERSION:
        raise HomeTooNew(
            f"the event log was written by a newer Evermoe (format {found}, this one reads {SCHEMA_VERSION}); "
            "upgrade Evermoe"
        )
    for version in range(found + 1, SCHEMA_VERSION + 1):
        MIGRATIONS[version](connection)
        connection.execute(update(schema_versions).where(schema_versions.c.part == PART).values(version=version))


def _add_api_keys(connection: Connection) -> None:
    """Version 2: keys and sessions, whose key a row came with, and idempotency keys that are unique for each API key.

    Old rows came with no key. SQLite cannot drop the old rule from a table, so there the feedback is written anew.
    """
    column = "ADD COLUMN api_key TEXT NOT NULL DEFAULT ''"
    connection.execute(text(f"ALTER TABLE requests {column}"))
    connection.execute(text(f"ALTER TABLE feedback {column}"))
    if connection.dialect.name == "postgresql":
        connection.execute(text("ALTER TABLE feedback DROP CONSTRAINT feedback_key_key"))
        connection.execute(text("ALTER TABLE feedback ADD CONSTRAINT feedback_key_once UNIQUE (api_key, key)"))
    else:
        connection.execute(text("ALTER TABLE feedback RENAME TO feedback_before"))
        connection.execute(text(f"DROP INDEX {_counted_once.name}"))
        feedback.create(connection)  # as version 2 has it: a later version that changes this table writes it out here
        names = ", ".join(column.name for column in feedback.columns)
        connection.execute(
            text(f"INSERT INTO feedback ({names}) SELECT {names} FROM feedback_before ORDER BY sequence")
        )
        connection.execute(text("DROP TABLE feedback_before"))
    METADATA.create_all(connection, [api_keys, sessions])


def _add_shares(connection: Connection) -> None:
    """Version 3: the shares of all arms beside a request, which old rows did not need: they had one challenger."""
    connection.execute(text("ALTER TABLE requests ADD COLUMN shares TEXT"))


MIGRATIONS = {2: _add_api_keys, 3: _add_shares}
"""What turns a database of the version before into one of this version, within the transaction that opens it."""
