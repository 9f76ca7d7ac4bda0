"""Three versions on trial at once, steered by the flow alone on the real event log, ledger and MLflow; users are rows of the log.

Every look is a controller of its own: it opens everything anew and keeps nothing, as one that was killed and started again.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from evermoe.settings import settings
from flows.lineage.candidate import LOADER
from flows.runtime.parts import Parts, open_parts, policy_of
from monitoring.events import Feedback
from registry.actions.controls import Controls
from registry.assignment import assign
from registry.rollout import new_rollout
from tests.monitoring.rows_for_tests import a_request

OPENED = datetime(2025, 6, 1, tzinfo=UTC)
PLEASED = {"1": 0.5, "2": 0.45, "3": 0.95, "4": 0.5}
BROKEN = "2"
"""A version that fails on every second request, whatever its answers are worth."""


@pytest.fixture
def parts(tmp_path: Path, tiny_model_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Parts]:
    """A platform whose champion is version 1, with versions 2, 3 and 4 on trial."""
    from prefect.testing.utilities import prefect_test_harness

    monkeypatch.setenv("EVERMOE_HOME", str(tmp_path / "home"))
    settings.cache_clear()
    with prefect_test_harness(server_startup_timeout=300), open_parts() as opened:
        for month, parent in (("2025-05", None), ("2025-06", "1"), ("2025-07", "1"), ("2025-08", "1")):
            opened.versions.register(
                tiny_model_folder, month=month, parent=parent, run_id=None, loader=LOADER, description=""
            )
        opened.versions.set_alias("champion", "1")
        rollout = new_rollout("trio", "2025-08", "1", ("2", "3", "4"), "salt", policy_of(opened.params), OPENED)
        Controls(opened.ledger, opened.versions, opened.tracking).open(rollout, by="drill")
        yield opened
    settings.cache_clear()


def ask(parts: Parts, number: int, at: datetime, draw: np.random.Generator) -> None:
    """One unit's request and its feedback, as the gateway would log them."""
    plan = parts.ledger.plan()
    assert plan is not None
    arm, propensity = assign(plan.salt, f"unit-{number}", plan.shares)
    version = plan.versions[arm]
    error = "RuntimeError: weights" if version == BROKEN and number % 2 else None
    met = {"rollout": plan.rollout, "arm": arm, "version": version, "propensity": propensity, "shares": plan.logged}
    output = "" if error else "network"
    parts.events.record(a_request(f"r{number}", at=at, unit=f"unit-{number}", output=output, error=error, **met))
    if not error:
        parts.events.record(Feedback(f"k{number}", f"r{number}", at, float(draw.random() < PLEASED[version]), None))


@pytest.mark.slow
def test_the_broken_version_goes_by_its_guardrail_the_best_takes_over_and_the_books_say_so(parts: Parts) -> None:
    from flows.rollout import rollout

    draw, number = np.random.default_rng(1), 0
    while parts.ledger.get("trio").open:
        assert number < 4000, parts.ledger.get("trio")
        for _ in range(100):
            ask(parts, number, OPENED + number * timedelta(minutes=1), draw)
            number += 1
        rollout(OPENED + number * timedelta(minutes=1))
    ended = parts.ledger.get("trio")
    assert (ended.status, ended.challenger) == ("promoted", "3")
    out = {one.version: one.out for one in ended.challengers}
    assert out["2"].startswith("guardrail crossed: errors ")
    assert out["4"].startswith("worse than version 3: ")
    champion = parts.versions.champion()
    assert champion is not None
    assert champion.version == "3"

    rows = parts.ledger.history("trio")
    assert parts.ledger.verify().ok
    assert {"shift", "drop", "promote"} <= {row.action for row in rows}
    for row in rows:
        assert set(row.shares) == {"2", "3", "4"}
        assert row.share == pytest.approx(sum(row.shares.values()))
    assert set(rows[1].evidence["arms"]) == {"2", "3", "4"}

    told = {version.version: version for version in parts.versions.all()}
    assert told["3"].tags["evermoe.replaced"] == "1"
    assert "was put out of the trial" in told["2"].description
    assert "Version 3 replaced version 1" in told["3"].description
    [run] = [
        run for run in parts.tracking.client.search_runs([parts.tracking.experiment]) if run.info.run_name == "rollout"
    ]
    assert {"share.2", "share.3", "share.4", "lift.3", "e_promote.4"} <= run.data.metrics.keys()
    print(f"version 3 took over after {number} users and {len(rows)} decisions")
