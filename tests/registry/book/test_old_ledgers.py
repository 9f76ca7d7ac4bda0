"""A ledger of an older format becomes one of this when it is opened, with every rollout and an audit that still verifies.

`ledger_of_format_2.json` holds the rows that the code of format 2 wrote.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa

from registry.book.ledger import SCHEMA, Ledger
from registry.rollout import Challenger, Decision

LATER = datetime(2025, 7, 9, tzinfo=UTC)
ROWS = json.loads(Path(__file__).with_name("ledger_of_format_2.json").read_text())

V2 = sa.MetaData()
TABLES = {
    "ledger_schema": sa.Table("ledger_schema", V2, sa.Column("version", sa.Integer, primary_key=True)),
    "rollouts": sa.Table(
        "rollouts",
        V2,
        sa.Column("id", sa.Text, primary_key=True),
        *(sa.Column(name, sa.Text, nullable=False) for name in ("month", "champion", "challenger")),
        sa.Column("salt", sa.Text, nullable=False, unique=True),
        sa.Column("share", sa.Float, nullable=False),
        sa.Column("step", sa.Integer, nullable=False),
        *(sa.Column(name, sa.Text, nullable=False) for name in ("status", "opened_at", "step_started_at")),
        sa.Column("closed_at", sa.Text),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("revision", sa.Integer, nullable=False),
        sa.Column("open_slot", sa.Integer, unique=True),
        sa.UniqueConstraint("month", "champion"),
    ),
    "audit": sa.Table(
        "audit",
        V2,
        sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("rollout", sa.Text, nullable=False, index=True),
        sa.Column("revision", sa.Integer, nullable=False),
        *(sa.Column(name, sa.Text, nullable=False) for name in ("at", "by", "action")),
        sa.Column("share", sa.Float, nullable=False),
        *(sa.Column(name, sa.Text, nullable=False) for name in ("reason", "evidence")),
        *(sa.Column(name, sa.Text, nullable=False, unique=True) for name in ("previous", "hash")),
    ),
}


@pytest.fixture(params=[1, 2])
def old_url(request: pytest.FixtureRequest, database_url: str) -> str:
    """A ledger of format 1 or 2 (format 1 has no leases; neither has this one of format 2 yet, which is the same to a reader)."""
    engine = sa.create_engine(database_url)
    with engine.begin() as db:
        V2.create_all(db)
        for name, table in TABLES.items():
            db.execute(table.insert(), ROWS[name])
        db.execute(TABLES["ledger_schema"].update().values(version=request.param))
    engine.dispose()
    return database_url


def test_every_rollout_is_there_with_its_one_challenger_and_the_audit_verifies(old_url: str) -> None:
    with Ledger(old_url) as ledger:
        june, july = ledger.list()
        assert (june.challenger, june.share, june.status) == ("2", 0.1, "promoted")
        assert july.challengers == (Challenger("3", "challenger", 0.3),)
        assert ledger.running() == july
        assert ledger.verify().ok
        assert ledger.verify().head == ROWS["audit"][-1]["hash"]
        assert [(row.share, row.shares) for row in ledger.history("july")] == [(0.05, {}), (0.3, {})]


def test_it_goes_on_where_it_was_and_new_rows_are_chained_to_the_old(old_url: str) -> None:
    with Ledger(old_url) as ledger:
        ledger.apply("july", Decision("advance", 0.5, "no harm"), "flow rollout", LATER)
        with ledger.lease("one", lambda: LATER) as held:
            ledger.apply("july", Decision("abort", 0.0, "worse"), "one", LATER + timedelta(days=1), held=held)
        assert [row.shares for row in ledger.history("july")][-2:] == [{"3": 0.5}, {"3": 0.0}]
        assert ledger.verify().ok


def test_the_shares_of_a_row_cannot_be_changed_or_taken_away_unseen(old_url: str) -> None:
    with Ledger(old_url) as ledger:
        ledger.apply("july", Decision("advance", 0.5, "no harm"), "flow rollout", LATER)
        engine = sa.create_engine(old_url)
        for shares in ("NULL", "'{\"3\": 0.1}'"):
            with engine.begin() as db:
                if engine.dialect.name == "sqlite":
                    db.execute(sa.text("DROP TRIGGER IF EXISTS audit_no_update"))
                else:
                    db.execute(sa.text("DROP TRIGGER IF EXISTS audit_append_only ON audit"))
                db.execute(sa.text(f"UPDATE audit SET shares = {shares} WHERE number = 6"))
            assert ledger.verify().broken_at == 6
        engine.dispose()


def test_opened_again_nothing_is_migrated_twice(old_url: str) -> None:
    for _ in range(2):
        with Ledger(old_url) as ledger:
            assert len(ledger.list()) == 2
    engine = sa.create_engine(old_url)
    with engine.connect() as db:
        assert db.execute(sa.text("SELECT version FROM ledger_schema")).scalars().all() == [SCHEMA]
    engine.dispose()
