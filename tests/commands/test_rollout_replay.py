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
from monitoring.events import EventLog, Feedback, Request
from registry.assignment import assign
from registry.ledger import Ledger
from registry.rollout import Policy, new_rollout

OPENED = datetime(2025, 7, 1, tzinfo=UTC)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A home with one rollout at a share of 30%, and 400 units who told whether its answers were right."""
    monkeypatch.setenv("EVERMOE_HOME", str(tmp_path))
    monkeypatch.delenv("EVERMOE_DATABASE_URL", raising=False)
    settings.cache_clear()
    (tmp_path / "home.json").write_text('{"format": 1}')
    address, draw = f"sqlite:///{tmp_path / 'events.db'}", random.Random(1)
    with Ledger(address) as ledger, EventLog(address) as log:
        ledger.open(new_rollout("june", "2025-06", "1", "2", "salt", Policy(shares=(0.3,)), OPENED), by="monthly")
        waits = []
        for number in range(400):
            arm, propensity = assign("salt", f"u{number}", {"challenger": 0.3})
            at = OPENED + timedelta(minutes=10 * number)
            names = (
                f"r{number}",
                at,
                "classify",
                f"u{number}",
                True,
                "fix the vlan",
                "network",
                None,
                "june",
                arm,
                "2",
            )
            log.append(Request(*names, propensity, 9.0, 4, 1, ()))
            right = float(draw.random() < (0.9 if arm == "challenger" else 0.5))
            waits.append(log.append(Feedback(f"k{number}", f"r{number}", at + timedelta(hours=1), right, None)))
        for wait in waits:
            wait.result(60)
    yield tmp_path
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
