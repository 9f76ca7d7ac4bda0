"""`evermoe log`: what leaves the database, and what the platform still needs of it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from commands import main
from evermoe.settings import settings
from monitoring.events import Counts, EventLog
from registry.book.ledger import Ledger
from registry.rollout import Policy, new_rollout
from registry.snapshots import SnapshotRow, Snapshots
from tests.monitoring.rows_for_tests import a_feedback, a_request

MARCH, APRIL, MAY = (datetime(2024, month, 10, tzinfo=UTC) for month in (3, 4, 5))


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A home whose log holds a request, with feedback, of each of three months of 2024."""
    monkeypatch.setenv("EVERMOE_HOME", str(tmp_path))
    monkeypatch.delenv("EVERMOE_DATABASE_URL", raising=False)
    settings.cache_clear()
    (tmp_path / "home.json").write_text('{"format": 1}')
    with EventLog(f"sqlite:///{tmp_path / 'events.db'}") as log:
        for month in (MARCH, APRIL, MAY):
            log.record(a_request(f"r{month.month}", at=month, rollout=f"rollout-{month.month}"))
            log.record(a_feedback(f"k{month.month}", f"r{month.month}", at=month + timedelta(days=1)))
    yield tmp_path
    settings.cache_clear()


def evermoe(capsys: pytest.CaptureFixture[str], *words: str) -> Any:
    assert main.run([*words, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def counts(home: Path) -> Counts:
    with EventLog(f"sqlite:///{home / 'events.db'}") as log:
        return log.counts()


def freeze(home: Path, month: str) -> None:
    Snapshots(home).freeze(month, [SnapshotRow("fix the vlan option", "network", "ann", MARCH, "test")])


def test_what_was_exported_and_frozen_leaves_and_the_last_frozen_month_stays(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = evermoe(capsys, "log", "export")
    assert [month["month"] for month in made["months"]] == ["2024-03", "2024-04", "2024-05"]
    told = evermoe(capsys, "log", "prune")
    assert (told["pruned"], len(told["kept"])) == ([], 3)
    assert "no month was frozen yet" in told["kept"][0]["reason"]
    freeze(home, "2024-05")
    told = evermoe(capsys, "log", "prune")
    assert [month["month"] for month in told["pruned"]] == ["2024-03", "2024-04"]
    assert [one["reason"] for one in told["kept"]] == ["the next update reads what users told since 2024-05-01"]
    assert counts(home) == Counts(1, 1)


def test_a_month_that_users_still_judged_later_stays_for_the_update_that_learns_it(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with EventLog(f"sqlite:///{home / 'events.db'}") as log:
        log.record(a_feedback("label", "r3", at=MAY, label="database"))
    freeze(home, "2024-05")
    evermoe(capsys, "log", "export")
    told = evermoe(capsys, "log", "prune")
    assert [month["month"] for month in told["pruned"]] == ["2024-04"]
    assert [one["month"] for one in told["kept"]] == ["2024-03", "2024-05"]


def test_rows_of_an_open_rollout_stay(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Ledger(f"sqlite:///{home / 'events.db'}") as ledger:
        ledger.open(new_rollout("rollout-4", "2024-04", "1", "2", "salt", Policy(), APRIL), by="monthly")
    freeze(home, "2024-06")
    evermoe(capsys, "log", "export")
    told = evermoe(capsys, "log", "prune")
    assert [month["month"] for month in told["pruned"]] == ["2024-03", "2024-05"]
    assert "rollout rollout-4 is running" in told["kept"][0]["reason"]
    assert counts(home) == Counts(1, 1)


def test_young_rows_stay_whatever_was_asked(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    now = datetime.now(UTC)
    young = now - timedelta(days=100)
    with EventLog(f"sqlite:///{home / 'events.db'}") as log:
        log.record(a_request("young", at=young))
    freeze(home, f"{now:%Y-%m}")
    evermoe(capsys, "log", "export")
    told = evermoe(capsys, "log", "prune", "--before", "2099-01-01")
    assert len(told["pruned"]) == 3
    assert counts(home) == Counts(1, 0)


def test_a_day_that_is_none_is_told(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(["log", "prune", "--before", "May"]) == 2
    assert "'May' is no day; write YYYY-MM-DD" in capsys.readouterr().err
