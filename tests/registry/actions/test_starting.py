"""Putting a version on trial by hand: who, why, and when it is refused."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from evermoe.errors import BadInput, Conflict, NotFound, NotReady
from registry.actions.controls import Controls
from registry.actions.starting import start
from registry.actions.steering import abort
from registry.evidence import Evidence
from registry.rollout import Policy, Rollout
from registry.rules.best_arm import Standing

OPENED = datetime(2025, 7, 1, 6, tzinfo=UTC)
LATER = OPENED + timedelta(days=3)


def by_hand(controls: Controls, version: str = "2") -> Rollout:
    return start(controls, version, Policy(), by="ann", reason="the flow was down", now=OPENED)


def challenger(controls: Controls) -> str | None:
    version = controls.versions.challenger()
    return version and version.version


def test_a_version_started_by_hand_begins_at_the_foot_of_the_ramp_and_the_audit_says_who_and_why(
    controls: Controls,
) -> None:
    rollout = by_hand(controls)
    assert (rollout.champion, rollout.challenger, rollout.share, rollout.status) == ("1", "2", 0.05, "running")
    [row] = controls.ledger.history()
    assert (row.action, row.by, row.reason, row.at) == ("open", "ann", "the flow was down", OPENED)
    assert challenger(controls) == "2"


def test_starting_it_again_while_it_runs_changes_nothing(controls: Controls) -> None:
    assert by_hand(controls) == by_hand(controls)
    assert len(controls.ledger.history()) == 1


def test_a_version_that_was_tried_and_sent_home_is_not_tried_again(controls: Controls) -> None:
    rollout = by_hand(controls)
    controls.apply(rollout, abort(rollout, "worse"), "ann", LATER, Standing.of(Evidence().verdict(LATER)))
    with pytest.raises(
        Conflict, match="version 2 was tried against version 1 before: rollout 2025-06-v2-against-v1 is aborted"
    ):
        by_hand(controls)


def test_the_champion_an_unknown_version_and_an_empty_registry_are_refused(controls: Controls) -> None:
    with pytest.raises(BadInput, match="version 1 is the champion"):
        by_hand(controls, "1")
    with pytest.raises(NotFound, match="no version '9'"):
        by_hand(controls, "9")
    controls.versions.drop_alias("champion")
    with pytest.raises(NotReady, match="there is no champion"):
        by_hand(controls)
    assert controls.ledger.list() == ()


def test_what_mlflow_missed_is_made_good_by_starting_again(controls: Controls) -> None:
    by_hand(controls)
    controls.versions.drop_alias("challenger")
    by_hand(controls)
    assert challenger(controls) == "2"
