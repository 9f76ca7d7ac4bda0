"""What the console says a rollout waits for is what the automatic step would do."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from registry.actions.steering import set_share
from registry.analysis.outlook import Weighed, outlook
from registry.deciding import Watch
from registry.evidence import Evidence, Verdict
from registry.rollout import Policy, Rollout, new_rollout, transition
from registry.rules.best_arm import Standing
from registry.rules.guardrails import Guarded
from registry.rules.signals import Signal
from serving.console import waits_for
from serving.words import WORDS

NOON = datetime(2025, 7, 1, 12, tzinfo=UTC)
POLICY = Policy()
ROLLOUT = new_rollout("june", "2025-06", "1", "2", "salt", POLICY, NOON)
OPEN = Evidence(0.05).verdict(NOON)
CROSSED = Watch(guardrails=(Guarded("errors", True, 0.5, 0.0, 900.0, "too many errors"),))
ALARM = Watch(signals=(Signal("sample ratio", True, "45:55"),))


@pytest.mark.parametrize(
    ("rollout", "verdict", "rewards", "watch", "why"),
    [
        (ROLLOUT, OPEN, 3, Watch(), "why_few"),
        (ROLLOUT, OPEN, 8, Watch(), "why_advance"),
        (transition(ROLLOUT, set_share(ROLLOUT, 0.5), NOON), OPEN, 8, Watch(), "why_top"),
        (ROLLOUT, replace(OPEN, e_abort=9.0), 8, Watch(), "why_harm"),
        (ROLLOUT, replace(OPEN, decision="promote"), 8, Watch(), "why_promote"),
        (ROLLOUT, replace(OPEN, decision="abort"), 8, Watch(), "why_abort"),
        (ROLLOUT, OPEN, 8, CROSSED, "why_guardrail"),
        (ROLLOUT, OPEN, 8, ALARM, "why_pause"),
        (replace(ROLLOUT, status="paused"), replace(OPEN, decision="promote"), 8, Watch(), "why_paused"),
        (replace(ROLLOUT, status="paused"), OPEN, 8, CROSSED, "why_guardrail"),
        (replace(ROLLOUT, opened_at=NOON - timedelta(days=400)), OPEN, 8, Watch(), "why_inconclusive"),
    ],
)
def test_what_it_waits_for_is_what_the_next_step_weighs(
    rollout: Rollout, verdict: Verdict, rewards: int, watch: Watch, why: str
) -> None:
    ahead = outlook(rollout, Weighed(Standing.of(verdict), (NOON,) * rewards), POLICY, NOON, watch)
    assert waits_for(ahead) == why
    assert all(why in words for words in WORDS.values())
