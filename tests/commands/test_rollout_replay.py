"""`evermoe rollout replay` on a real event log and ledger."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from commands import main
from evermoe.settings import settings
from monitoring.events import EventLog
from registry.assignment import assign, whole
from registry.book.ledger import Ledger
from registry.rollout import Policy, new_rollout
from tests.monitoring.rows_for_tests import a_feedback, a_request

OPENED = datetime(2025, 7, 1, tzinfo=UTC)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A home with one rollout at a share of 30%, and 400 units who told whether its answers were right."""
    yield from a_home(tmp_path, monkeypatch, "2", {"challenger": 0.3})


@pytest.fixture
def home_of_several(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The same, with three versions at 20% each; version 3 is put out when half of the units have come."""
    shares = {"challenger:2": 0.2, "challenger:3": 0.2, "challenger:4": 0.2}
    yield from a_home(tmp_path, monkeypatch, ["2", "3", "4"], shares, out="challenger:3")


def a_home(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    challengers: str | list[str],
    shares: dict[str, float],
    out: str = "",
) -> Iterator[Path]:
    monkeypatch.setenv("EVERMOE_HOME", str(folder))
    monkeypatch.delenv("EVERMOE_DATABASE_URL", raising=False)
    settings.cache_clear()
    (folder / "home.json").write_text('{"format": 1}')
    address, draw, waits = f"sqlite:///{folder / 'events.db'}", random.Random(1), []
    with Ledger(address) as ledger, EventLog(address) as log:
        policy = Policy(shares=(0.3,))
        ledger.open(new_rollout("june", "2025-06", "1", challengers, "salt", policy, OPENED), by="monthly")
        for number in range(400):
            at, unit = OPENED + timedelta(minutes=10 * number), f"u{number}"
            now = shares | ({out: 0.0} if out and number >= 200 else {})
            arm, propensity = assign("salt", unit, now)
            met = {"rollout": "june", "arm": arm, "version": arm.partition(":")[2] or "2", "propensity": propensity}
            dealt = whole(now) if len(shares) > 1 else None
            log.append(a_request(f"r{number}", at=at, unit=unit, shares=dealt, **met))
            right = float(draw.random() < (0.9 if arm in ("challenger", "challenger:4") else 0.5))
            told = a_feedback(f"k{number}", f"r{number}", at=at + timedelta(hours=1), score=right, label=None)
            waits.append(log.append(told))
        for wait in waits:
            wait.result(60)
    yield folder
    settings.cache_clear()


def test_a_ramp_and_a_fixed_share_are_judged_on_the_log_of_the_last_rollout(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.run(["rollout", "replay", "--shares", "0.2,0.4", "--json"]) == 0
    ramp = json.loads(capsys.readouterr().out)
    assert (ramp["rollout"], ramp["rewards"], ramp["enough"]) == ("june", 400, True)
    assert ramp["low"] < ramp["value"] < ramp["high"]
    assert main.run(["rollout", "replay", "june", "--shares", "0.6"]) == 0
    assert "a share of 0.6 throughout" in capsys.readouterr().out


def test_shares_that_are_none_and_a_log_that_says_too_little_are_named(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.run(["rollout", "replay", "--shares", "half"]) == 2
    assert "give numbers between 0 and 1" in capsys.readouterr().err
    assert main.run(["rollout", "replay", "--shares", "1.5"]) == 2
    assert main.run(["rollout", "replay", "july"]) == 2


def test_several_versions_are_judged_as_far_as_the_log_met_them(
    home_of_several: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.run(["rollout", "replay", "--shares", "0.3", "--json"]) == 0
    fixed = json.loads(capsys.readouterr().out)
    assert (fixed["rewards"], fixed["beyond"], fixed["unmet"]) == (200, 200, ["3"])
    assert fixed["until"] == "2025-07-02T09:20:00+00:00"
    assert set(fixed["met"]) == {"1", "2", "3", "4"}
    assert main.run(["rollout", "replay", "--floor", "0.1", "--least-move", "0.02", "--min-rewards", "4"]) == 0
    assert "promoted: better" in capsys.readouterr().out
    assert main.run(["rollout", "replay", "--shares", "0.3"]) == 0
    told = capsys.readouterr().out
    assert "a share of 0.3 throughout, alike for each version" in told
    assert "judged up to 2025-07-02 09:20 UTC: from then on version 3 was out in the log" in told
    assert main.run(["rollout", "replay", "--floor", "0.4"]) == 2
    assert "a floor of 0.4 is too much for 3 challengers" in capsys.readouterr().err
