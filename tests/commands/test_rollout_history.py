"""`evermoe rollout history` on an audit that somebody has changed behind its back."""

from __future__ import annotations

import json
import sqlite3
from datetime import UTC, datetime
from pathlib import Path

import pytest

from commands import main
from evermoe.settings import settings
from registry.book.ledger import Ledger
from registry.rollout import Decision, Policy, new_rollout

NOON = datetime(2025, 7, 1, 12, tzinfo=UTC)


def test_a_tampered_row_is_named_and_the_command_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("EVERMOE_HOME", str(tmp_path))
    monkeypatch.delenv("EVERMOE_DATABASE_URL", raising=False)
    settings.cache_clear()
    (tmp_path / "home.json").write_text('{"format": 1}')
    with Ledger(f"sqlite:///{tmp_path / 'events.db'}") as ledger:
        ledger.open(new_rollout("june", "2025-06", "1", "2", "salt", Policy(), NOON), by="monthly")
        ledger.apply("june", Decision("abort", 0, "worse"), "ann (key 3f2a9c1e)", NOON)
    assert main.run(["rollout", "history"]) == 0
    assert "the audit chain is whole" in capsys.readouterr().out
    with sqlite3.connect(tmp_path / "events.db") as database:
        database.execute("DROP TRIGGER audit_no_update")
        database.execute("UPDATE audit SET \"by\" = 'bob' WHERE number = 2")
    line = "evermoe: the audit chain is broken: audit row 2 was changed after it was written\n"
    for words in (["rollout", "history"], ["rollout", "history", "--json"]):
        assert main.run(words) == 1
        said = capsys.readouterr()
        assert said.err == line
    told = json.loads(said.out)
    assert (told["verified"], told["broken_at"]) == (False, 2)
    with sqlite3.connect(tmp_path / "events.db") as database:
        database.execute("UPDATE audit SET evidence = '{\"x\":', at = 'yesterday' WHERE number = 2")
    assert main.run(["rollout", "history", "--json"]) == 1
    said = capsys.readouterr()
    assert said.err == line
    assert [row["action"] for row in json.loads(said.out)["decisions"]] == ["open"]
    settings.cache_clear()
