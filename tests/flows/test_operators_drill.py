"""The operator's drill: a bad version is promoted by hand, past all evidence, and the platform takes it back by itself.

On the real event log, ledger, MLflow and flow; users are rows of the log. The time is the one that docs/rollouts.md states.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from evermoe.settings import settings
from flows.lineage.candidate import LOADER
from flows.runtime.parts import Parts, open_parts, policy_of
from monitoring.events import Feedback
from registry.actions import steering
from registry.actions.controls import Controls
from registry.evidence import Evidence
from registry.rollout import new_rollout
from registry.rules.best_arm import Standing
from tests.monitoring.rows_for_tests import a_request

LOOK = timedelta(minutes=10)
STATED = 2 * LOOK
OPENED = datetime(2025, 6, 1, tzinfo=UTC)


@pytest.fixture
def parts(tmp_path: Path, tiny_model_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Parts]:
    """A platform whose champion is version 1, with version 2 on trial; two real models."""
    from prefect.testing.utilities import prefect_test_harness

    monkeypatch.setenv("EVERMOE_HOME", str(tmp_path / "home"))
    settings.cache_clear()
    with prefect_test_harness(server_startup_timeout=300), open_parts() as opened:
        for month, parent in (("2025-05", None), ("2025-06", "1")):
            opened.versions.register(
                tiny_model_folder, month=month, parent=parent, run_id=None, loader=LOADER, description=""
            )
        opened.versions.set_alias("champion", "1")
        rollout = new_rollout("june", "2025-06", "1", "2", "salt", policy_of(opened.params), OPENED)
        Controls(opened.ledger, opened.versions, opened.tracking).open(rollout, by="drill")
        yield opened
    settings.cache_clear()


def ask(parts: Parts, number: int, at: datetime, broken: str) -> None:
    """One unit's request, as the gateway would log it; the version named `broken` fails on one request in two."""
    plan, champion = parts.ledger.plan(), parts.versions.champion()
    assert champion is not None
    version = champion.version
    error = "RuntimeError: weights" if version == broken and number % 2 else None
    propensity, trial = (1.0 - plan.share, plan.rollout) if plan else (1.0, None)
    met = {"rollout": trial, "arm": "champion", "version": version, "propensity": propensity}
    output = "" if error else "network"
    parts.events.record(a_request(f"r{number}", at=at, unit=f"unit-{number}", output=output, error=error, **met))


@pytest.mark.slow
def test_a_bad_version_that_a_person_promoted_is_taken_back_within_the_stated_time(parts: Parts) -> None:
    from flows.rollout import rollout

    for number in range(150):
        ask(parts, number, OPENED + number * timedelta(minutes=1), broken="2")
    promoted_at = OPENED + timedelta(hours=3)
    on_trial = parts.ledger.get("june")
    controls = Controls(parts.ledger, parts.versions, parts.tracking)
    override = steering.promote(on_trial, "it must go out today")
    controls.apply(on_trial, override, "eve", promoted_at, Standing.of(Evidence().verdict(promoted_at)))
    champion = parts.versions.champion()
    assert champion is not None
    assert champion.version == "2"

    looked = 0
    for number in range(150, 200):  # one unit a minute
        now = promoted_at + (number - 149) * timedelta(minutes=1)
        ask(parts, number, now, broken="2")
        if (now - promoted_at) % LOOK == timedelta(0):
            looked += 1
            rollout(now + timedelta(seconds=1))
            if parts.ledger.get("june").status == "reverted":
                break
    champion = parts.versions.champion()
    assert champion is not None
    assert champion.version == "1"
    assert now - promoted_at <= STATED
    row = parts.ledger.history("june")[-1]
    assert (row.action, row.by) == ("revert", "flow rollout")
    assert row.reason.startswith("guardrail crossed: errors ")
    assert parts.ledger.verify().ok

    closed = parts.ledger.get("june")
    parts.events.record(Feedback("late", "r0", now + timedelta(days=1), 1.0, None))
    assert rollout(now + timedelta(days=1)) is None  # late feedback rewrites nothing
    assert parts.ledger.get("june") == closed
    print(f"taken back {now - promoted_at} after its promotion, at look {looked}")


@pytest.mark.slow
def test_where_a_person_moved_the_alias_since_nothing_is_taken_back(parts: Parts) -> None:
    from flows.rollout import rollout

    controls = Controls(parts.ledger, parts.versions, parts.tracking)
    for number in range(150):
        ask(parts, number, OPENED + number * timedelta(minutes=1), broken="2")
    promoted_at = OPENED + timedelta(hours=3)
    override = steering.promote(parts.ledger.get("june"), "it must go out today")
    controls.apply(parts.ledger.get("june"), override, "eve", promoted_at, Standing.of(Evidence().verdict(promoted_at)))
    for number in range(150, 200):
        ask(parts, number, promoted_at + (number - 149) * timedelta(minutes=1), broken="2")
    parts.versions.register(
        parts.versions.weights("1"), month="2025-07", parent="2", run_id=None, loader=LOADER, description=""
    )
    parts.versions.set_alias("champion", "3")
    assert rollout(promoted_at + timedelta(hours=1)) is None
    champion = parts.versions.champion()
    assert champion is not None
    assert champion.version == "3"
    assert parts.ledger.get("june").status == "promoted"
