"""Carrying out decisions: the ledger first, the aliases and MLflow after, and what a process left undone made good."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from faults import break_mlflow, mend_mlflow

from evermoe.errors import Conflict, StorageUnavailable
from registry.actions import steering
from registry.actions.controls import Controls
from registry.evidence import Evidence
from registry.rollout import Decision, Policy, Rollout, in_force, new_rollout
from registry.rules.best_arm import Standing

LOADER = Path(__file__).parents[1] / "loader.py"
OPENED = datetime(2025, 7, 1, 6, tzinfo=UTC)
LATER = OPENED + timedelta(days=3)


def on_trial(controls: Controls) -> Rollout:
    rollout = new_rollout("june", "2025-06", "1", "2", "salt", Policy(), OPENED)
    return controls.open(rollout, by="flow monthly")


def verdict() -> Standing:
    return Standing.of(Evidence().verdict(LATER))


def aliases(controls: Controls) -> tuple[str | None, str | None]:
    champion, challenger = controls.versions.champion(), controls.versions.challenger()
    return champion and champion.version, challenger and challenger.version


def test_opening_names_the_challenger_and_opening_again_changes_nothing(controls: Controls) -> None:
    assert on_trial(controls) == on_trial(controls)
    assert aliases(controls) == ("1", "2")
    assert [row.action for row in controls.ledger.history()] == ["open"]


def test_a_promotion_moves_the_champion_and_leaves_no_challenger(controls: Controls) -> None:
    rollout = on_trial(controls)
    controls.apply(rollout, steering.promote(rollout, "reviewed"), "ann", LATER, verdict())
    assert aliases(controls) == ("2", None)
    row = controls.ledger.history()[-1]
    assert (row.action, row.by, row.reason) == ("promote", "ann", "reviewed")
    names = {run.info.run_name for run in controls.tracking.client.search_runs([controls.tracking.experiment])}
    assert {"rollout", "open at 0.05", "promote"} <= names


def test_an_abort_keeps_the_champion(controls: Controls) -> None:
    rollout = on_trial(controls)
    controls.apply(rollout, steering.abort(rollout), "ann", LATER, verdict())
    assert aliases(controls) == ("1", None)


def test_a_decision_on_what_has_changed_meanwhile_is_refused(controls: Controls) -> None:
    rollout = on_trial(controls)
    controls.apply(rollout, steering.set_share(rollout, 0.3), "ann", LATER, verdict())
    with pytest.raises(Conflict, match="changed meanwhile"):
        controls.apply(rollout, steering.abort(rollout), "bob", LATER, verdict())
    assert controls.ledger.get("june").share == 0.3


def test_what_a_process_left_undone_between_ledger_and_alias_is_made_good(controls: Controls) -> None:
    rollout = on_trial(controls)
    controls.ledger.apply("june", steering.promote(rollout), "ann", LATER)  # and here the process died
    assert aliases(controls) == ("1", "2")
    controls.settle()
    assert aliases(controls) == ("2", None)


def test_settling_leaves_alone_a_champion_that_was_chosen_since(controls: Controls) -> None:
    rollout = on_trial(controls)
    controls.apply(rollout, steering.promote(rollout), "ann", LATER, verdict())
    controls.versions.set_alias("champion", "1")  # a person went back in MLflow
    controls.settle()
    assert aliases(controls) == ("1", None)


def taken_back(controls: Controls) -> Decision:
    rollout = on_trial(controls)
    controls.apply(rollout, steering.promote(rollout), "ann", LATER, verdict())
    return Decision("revert", 0.0, "guardrail crossed: errors")


def test_a_promotion_that_is_gone_back_from_brings_the_champion_before_it_back(controls: Controls) -> None:
    decision = taken_back(controls)
    assert controls.versions.get("1").tags["evermoe.replaced_by"] == "2"
    after = controls.apply(controls.ledger.get("june"), decision, "flow rollout", LATER, verdict())
    assert after.status == "reverted"
    assert "evermoe.replaced_by" not in controls.versions.get("1").tags
    assert "evermoe.replaced" not in controls.versions.get("2").tags
    assert aliases(controls) == ("1", None)
    assert [row.action for row in controls.ledger.history()] == ["open", "promote", "revert"]
    assert controls.ledger.verify().ok


def test_a_way_back_that_stopped_before_the_alias_is_made_good_once(controls: Controls) -> None:
    decision = taken_back(controls)
    controls.ledger.apply("june", decision, "flow rollout", LATER)  # and here the process died
    assert aliases(controls) == ("2", None)
    controls.settle()
    assert aliases(controls) == ("1", None)
    controls.versions.set_alias("champion", "2")  # a person insists
    controls.settle()
    assert aliases(controls) == ("2", None)


def test_a_promotion_is_not_taken_back_under_another_rollout(controls: Controls) -> None:
    decision = taken_back(controls)
    controls.ledger.open(new_rollout("july", "2025-07", "2", "3", "other", Policy(), LATER), by="flow monthly")
    with pytest.raises(Conflict, match="cannot revert rollout june: rollout july was opened since"):
        controls.apply(controls.ledger.get("june"), decision, "ann", LATER, verdict())
    assert aliases(controls)[0] == "2"


def test_a_promotion_is_taken_back_after_a_rollout_that_moved_nothing(controls: Controls) -> None:
    decision = taken_back(controls)
    controls.ledger.open(new_rollout("july", "2025-07", "2", "3", "other", Policy(), LATER), by="flow monthly")
    controls.ledger.apply("july", Decision("abort", 0.0, "worse"), "ann", LATER)
    last = in_force(reversed(controls.ledger.list()))
    assert last is not None
    after = controls.apply(last, decision, "ann", LATER, verdict())
    assert (after.id, after.status, aliases(controls)[0]) == ("june", "reverted", "1")


def test_a_version_that_somebody_deleted_stops_no_look(controls: Controls) -> None:
    taken_back(controls)
    controls.versions.set_alias("champion", "1")
    controls.versions.client.delete_model_version("evermoe", "2")
    controls.settle()
    assert aliases(controls)[0] == "1"


def test_what_was_promoted_is_in_place_as_long_as_nobody_chose_another(controls: Controls) -> None:
    taken_back(controls)
    promoted = controls.ledger.get("june")
    controls.check_in_place(promoted)
    controls.versions.set_alias("champion", "1")
    with pytest.raises(Conflict, match="the champion is version 1 by now; there is nothing to take back"):
        controls.check_in_place(promoted)


@pytest.mark.parametrize("decide", [steering.promote, steering.pause, lambda rollout: steering.set_share(rollout, 0.3)])
def test_a_decision_is_carried_out_once_and_to_the_end_however_often_it_is_tried_again(
    controls: Controls, tmp_path: Path, decide: Callable[[Rollout], Decision]
) -> None:
    rollout = on_trial(controls)
    decision = decide(rollout)
    break_mlflow(tmp_path / "mlflow.db", "runs")
    with pytest.raises(StorageUnavailable):
        controls.apply(rollout, decision, "flow rollout", LATER, verdict())
    mend_mlflow(tmp_path / "mlflow.db", "runs")
    again = [controls.apply(rollout, decision, "flow rollout", LATER, verdict()) for _ in range(2)]
    assert again == [controls.ledger.get("june")] * 2
    assert [row.action for row in controls.ledger.history()] == ["open", decision.action]
    assert len(logged(controls, decision.action)) == 1


@pytest.mark.parametrize(("by", "share", "reason"), [("bob", 0.3, "why"), ("ann", 0.4, "why"), ("ann", 0.3, "other")])
def test_only_the_very_same_decision_counts_as_carried_out(
    controls: Controls, by: str, share: float, reason: str
) -> None:
    rollout = on_trial(controls)
    controls.apply(rollout, steering.set_share(rollout, 0.3, "why"), "ann", LATER, verdict())
    with pytest.raises(Conflict, match="changed meanwhile"):
        controls.apply(rollout, steering.set_share(rollout, share, reason), by, LATER, verdict())


def test_what_a_process_left_undone_in_mlflow_is_made_good_for_what_closed_and_for_what_it_opened(
    controls: Controls,
) -> None:
    rollout = on_trial(controls)
    controls.ledger.apply("june", steering.abort(rollout), "ann", LATER)  # and here the process died
    july = new_rollout("july", "2025-07", "1", "2", "another salt", Policy(), LATER)
    controls.ledger.open(july, by="flow monthly")  # and here the next one
    controls.versions.drop_alias("challenger")
    controls.settle()
    assert aliases(controls) == ("1", "2")
    assert len(logged(controls, "abort")) == 1
    assert len(logged(controls, "open")) == 2
    controls.settle()
    assert len(logged(controls, "open")) == 2


def test_a_challenger_of_a_champion_that_was_replaced_meanwhile_is_not_put_on_trial(controls: Controls) -> None:
    controls.versions.set_alias("champion", "2")
    late = new_rollout("june", "2025-06", "1", "3", "salt", Policy(), OPENED)
    with pytest.raises(Conflict, match="the champion is version 2 by now"):
        controls.open(late, by="flow monthly")
    assert controls.ledger.list() == ()


def test_a_promotion_that_has_not_reached_the_alias_counts_as_a_new_champion(controls: Controls) -> None:
    controls.ledger.apply("june", steering.promote(on_trial(controls)), "ann", LATER)  # and here the process died
    with pytest.raises(Conflict, match="the champion is version 2 by now"):
        controls.open(new_rollout("july", "2025-07", "1", "3", "another salt", Policy(), LATER), by="flow monthly")
    assert controls.open(controls.ledger.get("june"), by="flow monthly").status == "promoted"  # a retry


def logged(controls: Controls, action: str) -> list[str]:
    """The runs of decisions of this kind that were logged to their end."""
    found = controls.tracking.client.search_runs([controls.tracking.experiment], f"tags.`evermoe.action` = '{action}'")
    return [run.info.run_name for run in found if run.info.status == "FINISHED"]


def test_of_several_what_a_killed_controller_left_undone_is_made_good_for_every_version(
    controls: Controls, tmp_path: Path
) -> None:
    controls.versions.register(
        tmp_path / "weights", month="2025-07", parent="1", run_id=None, loader=LOADER, description="2025-07"
    )
    duo = new_rollout("duo", "2025-07", "1", ("2", "3"), "salt", Policy(), OPENED)
    rollout = controls.open(duo, by="ann")
    assert aliases(controls) == ("1", "2")
    rollout = controls.ledger.apply("duo", steering.abort(rollout, "odd answers", "2"), "flow rollout", LATER)
    controls.settle()  # as the next look begins
    assert aliases(controls) == ("1", "3")
    tags = controls.versions.get("2").tags
    assert (tags["evermoe.trial"], tags["evermoe.trial_reason"]) == ("aborted", "odd answers")
    assert controls.versions.get("3").tags["evermoe.trial"] == "running"
    controls.ledger.apply("duo", steering.promote(rollout, "better"), "flow rollout", LATER)
    controls.settle()
    assert aliases(controls) == ("3", None)
    assert "Version 2 did not replace version 1: it was put out of the trial." in controls.versions.get("2").description
    assert "Version 3 replaced version 1" in controls.versions.get("3").description
    assert controls.versions.get("1").tags["evermoe.replaced_by"] == "3"
