"""A database of an older version becomes one of this version when it is opened, with every row it had."""

from __future__ import annotations

import threading
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from rows_for_tests import NOON, a_feedback, a_request

from evermoe.errors import Conflict
from monitoring.database import connect
from monitoring.events import Counts, EventLog
from monitoring.schema import SCHEMA_VERSION, AnyText, AsJson, UtcDateTime, schema_versions

V1 = sa.MetaData()
V1_VERSIONS = sa.Table(
    "schema_versions",
    V1,
    sa.Column("part", AnyText, primary_key=True),
    sa.Column("version", sa.Integer, nullable=False),
)
V1_REQUESTS = sa.Table(
    "requests",
    V1,
    sa.Column("id", AnyText, primary_key=True),
    sa.Column("at", UtcDateTime, nullable=False),
    *(sa.Column(name, AnyText, nullable=False) for name in ("kind", "unit")),
    sa.Column("unit_given", sa.Boolean, nullable=False),
    *(sa.Column(name, AnyText, nullable=False) for name in ("input", "output")),
    sa.Column("scores", AsJson),
    sa.Column("rollout", AnyText),
    *(sa.Column(name, AnyText, nullable=False) for name in ("arm", "version")),
    *(sa.Column(name, sa.Float(53), nullable=False) for name in ("propensity", "latency_ms")),
    *(sa.Column(name, sa.BigInteger, nullable=False) for name in ("prompt_tokens", "output_tokens")),
    sa.Column("experts", AsJson, nullable=False),
    sa.Column("error", AnyText),
    sa.Column("shadow", AnyText),
    sa.Index("requests_by_time", "at", "arm"),
    sa.Index("requests_by_rollout", "rollout"),
)
V1_FEEDBACK = sa.Table(
    "feedback",
    V1,
    sa.Column("sequence", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=True),
    sa.Column("key", AnyText, nullable=False, unique=True),
    sa.Column("response_id", AnyText, nullable=False),
    sa.Column("at", UtcDateTime, nullable=False),
    sa.Column("score", sa.Float(53)),
    sa.Column("label", AnyText),
    sa.Column("counted", sa.Boolean, nullable=False),
    sa.Column("reward", sa.Float(53)),
    sa.Column("delay_seconds", sa.Float(53), nullable=False),
    sqlite_autoincrement=True,
)
sa.Index(
    "feedback_counted_once",
    V1_FEEDBACK.c.response_id,
    unique=True,
    sqlite_where=V1_FEEDBACK.c.counted,
    postgresql_where=V1_FEEDBACK.c.counted,
)


@pytest.fixture
def old_url(url: str) -> str:
    """A log of version 1: two requests, the first with one feedback that counts and one that does not."""
    engine = connect(url)
    told = {"response_id": "r1", "at": NOON + timedelta(hours=1), "label": "network", "delay_seconds": 3600.0}
    with engine.begin() as connection:
        V1.create_all(connection)
        connection.execute(V1_VERSIONS.insert().values(part="events", version=1))
        for row in (a_request("r1"), a_request("r2")):
            values = {column.name: getattr(row, column.name) for column in V1_REQUESTS.columns}
            connection.execute(V1_REQUESTS.insert().values(**values))
        connection.execute(V1_FEEDBACK.insert().values(**told, key="k1", counted=True, reward=1.0))
        connection.execute(V1_FEEDBACK.insert().values(**told, key="k2", counted=False))
    engine.dispose()
    return url


def shape(url: str) -> dict[str, Any]:
    """What the database says its tables are, for comparison."""
    engine = connect(url)
    seen = sa.inspect(engine)
    names = sorted(seen.get_table_names())
    told = {
        name: (
            sorted(
                (c["name"], str(c["type"]), c["nullable"], (c["default"] or "")[:2]) for c in seen.get_columns(name)
            ),
            sorted((i["name"] or "", i["column_names"], i["unique"]) for i in seen.get_indexes(name)),
            sorted((u["name"] or "", u["column_names"]) for u in seen.get_unique_constraints(name)),
            seen.get_pk_constraint(name)["constrained_columns"],
        )
        for name in names
    }
    engine.dispose()
    return told


def test_every_old_row_is_there_and_reads_as_one_that_came_without_a_key(old_url: str) -> None:
    with EventLog(old_url) as log:
        assert log.request("r1") == a_request("r1")
        assert log.counts() == Counts(requests=2, feedback=2)
        assert [(found.response_id, found.reward) for found in log.rewards("2025-06")] == [("r1", 1.0)]
        with log.engine.connect() as connection:
            assert connection.scalar(sa.select(schema_versions.c.version)) == SCHEMA_VERSION


def test_the_rules_of_the_old_rows_hold_and_new_feedback_comes_after_them(old_url: str) -> None:
    with EventLog(old_url) as log:
        assert log.record(a_feedback("k1", "r1")).reason == "duplicate"
        assert not log.record(a_feedback("k3", "r1", api_key="ann")).counted
        with pytest.raises(Conflict, match="k1 belongs to feedback on another response"):
            log.record(a_feedback("k1", "r2"))
        assert log.record(a_feedback("k1", "r2", api_key="ann")).counted
        with log.engine.connect() as connection:
            order = connection.execute(sa.text("SELECT sequence, key FROM feedback ORDER BY sequence")).all()
    assert [key for _, key in order] == ["k1", "k2", "k3", "k1"]
    assert [number for number, _ in order][:2] == [1, 2]


def test_a_migrated_database_is_the_one_that_would_be_made_today(old_url: str) -> None:
    EventLog(old_url).close()
    migrated = shape(old_url)
    engine = connect(old_url)
    with engine.begin() as connection:
        for name in migrated:
            connection.execute(sa.text(f"DROP TABLE {name}"))
    engine.dispose()
    EventLog(old_url).close()
    assert migrated == shape(old_url)


def test_logs_that_open_an_old_database_at_the_same_moment_migrate_it_once(old_url: str) -> None:
    opened: list[EventLog] = []
    threads = [threading.Thread(target=lambda: opened.append(EventLog(old_url))) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [log.counts() for log in opened] == [Counts(requests=2, feedback=2)] * 6
    for log in opened:
        log.close()


def test_a_migration_that_fails_leaves_the_database_as_it_was(old_url: str) -> None:
    before, engine = shape(old_url), connect(old_url)
    obstacle = {
        "sqlite": "CREATE TABLE feedback_before (x INTEGER)",
        "postgresql": "ALTER TABLE feedback RENAME CONSTRAINT feedback_key_key TO another_name",
    }
    with engine.begin() as connection:
        connection.execute(sa.text(obstacle[engine.dialect.name]))
    engine.dispose()
    with pytest.raises(Exception, match="feedback"):
        EventLog(old_url)
    after = shape(old_url)
    assert {name: after[name][0] for name in before} == {name: columns for name, (columns, *_) in before.items()}
