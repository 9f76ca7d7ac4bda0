"""The month's run tree in a real MLflow: found again by its keys, readable, and quick to say that MLflow is not there."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from faults import break_mlflow

from evermoe.errors import BadInput, ServiceUnreachable, StorageUnavailable
from registry.book.audit import AuditRow
from registry.book.ledger import Ledger
from registry.evidence import Evidence
from registry.rollout import Decision, Policy, Rollout, new_rollout
from registry.rules.best_arm import Standing
from registry.snapshots import Snapshot
from registry.tracker.runs import Tracking
from registry.tracker.versions import Versions

OPENED = datetime(2025, 6, 1, 6, tzinfo=UTC)
ROLLOUT = new_rollout("june", "2025-06", "1", "2", "salt", Policy(), OPENED)


@pytest.fixture
def tracking(tracking_uri: str, tmp_path: Path) -> Tracking:
    return Tracking(tracking_uri, tmp_path / "artifacts")


def runs(tracking: Tracking) -> dict[str, list]:  # type: ignore[type-arg]
    """Every run by its name."""
    found: dict[str, list] = {}  # type: ignore[type-arg]
    for run in tracking.client.search_runs([tracking.experiment]):
        found.setdefault(run.info.run_name, []).append(run)
    return found


def verdict(now: datetime) -> Standing:
    evidence = Evidence()
    evidence.observe("champion", 1.0, 0.95, "ann", OPENED)
    return Standing.of(evidence.verdict(now))


def test_a_month_is_one_run_with_its_steps_as_children(tracking: Tracking) -> None:
    for name in ("drift", "snapshot", "train", "distil", "gates", "rollout"):
        with tracking.step("2025-06", name, "first"):  # type: ignore[arg-type]
            pass
    tree = runs(tracking)
    assert sorted(tree) == ["2025-06", "distil", "drift", "gates", "rollout", "snapshot", "train"]
    month = tree.pop("2025-06")[0]
    assert month.data.tags["evermoe.month"] == "2025-06"
    assert {run.data.tags["mlflow.parentRunId"] for (run,) in tree.values()} == {month.info.run_id}
    assert {run.info.status for (run,) in tree.values()} | {month.info.status} == {"FINISHED"}


def test_a_retried_step_goes_on_in_the_run_it_began(tracking: Tracking, tracking_uri: str) -> None:
    with suppress(RuntimeError), tracking.step("2025-06", "train", "first") as failed:
        failed.params({"rows": 10, "epochs": 2})
        raise RuntimeError("power cut")
    run = tracking.client.get_run(failed.run_id)
    assert (run.info.status, run.data.tags["evermoe.error"]) == ("FAILED", "RuntimeError: power cut")
    with Tracking(tracking_uri).step("2025-06", "train", "first") as again:
        again.params({"rows": 12, "epochs": 2})
    run = tracking.client.get_run(again.run_id)
    assert again.run_id == failed.run_id
    assert (run.info.status, run.data.tags["evermoe.error"]) == ("FINISHED", "")
    assert run.data.params == {"rows": "10", "epochs": "2"}
    assert run.data.tags["retried.rows"] == "12"
    with tracking.step("2025-06", "train", "second") as other:
        assert other.run_id != again.run_id


def test_two_threads_that_begin_a_month_share_its_run(tracking: Tracking, tracking_uri: str) -> None:
    with ThreadPoolExecutor(4) as pool:
        found = set(pool.map(lambda _: Tracking(tracking_uri).month_run("2025-06"), range(4)))
    assert len(found) == 1
    assert len(runs(tracking)["2025-06"]) == 1


def test_what_a_step_logs_is_read_back(tracking: Tracking, tmp_path: Path) -> None:
    (tmp_path / "note.txt").write_text("kept")
    with tracking.step("2025-06", "train", "first") as step:
        step.params({"epochs": 2})
        step.curve("loss", [(step_, 1 / (step_ + 1)) for step_ in range(1500)])
        step.metrics({"accuracy": 0.7, "endless": float("inf")}, at=OPENED)
        step.tags({"git": "abc"})
        step.describe("**what changed**")
        step.html("<h1>drift</h1>", "drift/report.html")
        step.record({"at": OPENED, "team": "网络"}, "facts.json")
        step.file(tmp_path / "note.txt")
    run = tracking.client.get_run(step.run_id)
    history = tracking.client.get_metric_history(step.run_id, "loss")
    assert [point.step for point in history] == list(range(1500))
    assert run.data.metrics["accuracy"] == 0.7
    assert tracking.client.get_metric_history(step.run_id, "accuracy")[0].timestamp == OPENED.timestamp() * 1000
    assert run.data.tags["mlflow.note.content"] == "**what changed**"
    folder = Path(run.info.artifact_uri.removeprefix("file://"))
    assert folder.is_relative_to(tmp_path / "artifacts")
    assert (folder / "drift" / "report.html").read_text() == "<h1>drift</h1>"
    assert json.loads((folder / "facts.json").read_text()) == {"at": str(OPENED), "team": "网络"}
    assert (folder / "note.txt").read_text() == "kept"


def test_a_snapshot_is_a_dataset_with_the_md5_that_dvc_tracks(tracking: Tracking, tmp_path: Path) -> None:
    snapshot = Snapshot("2025-06", tmp_path / "2025-06.jsonl", "d41d8cd98f00b204e9800998ecf8427e", 200)
    with tracking.step("2025-06", "snapshot", "first") as step:
        step.dataset(snapshot, "training")
        step.dataset(snapshot, "training")  # a retry
    (seen,) = tracking.client.get_run(step.run_id).inputs.dataset_inputs
    assert (seen.dataset.name, seen.dataset.digest) == ("snapshot-2025-06", "d41d8cd98f00b204e9800998ecf8427e")
    assert json.loads(seen.dataset.profile) == {"num_rows": 200}
    assert {(tag.key, tag.value) for tag in seen.tags} == {("mlflow.data.context", "training")}


def test_a_version_is_the_output_of_the_run_that_made_it(tracking: Tracking, tmp_path: Path) -> None:
    model = tracking.client.create_logged_model(tracking.experiment, name="evermoe")
    with tracking.step("2025-06", "distil", "first") as step:
        step.produced(model.model_id)
        step.produced(model.model_id)
    outputs = tracking.client.get_run(step.run_id).outputs.model_outputs
    assert [output.model_id for output in outputs] == [model.model_id]


def test_looks_at_a_rollout_are_curves_over_minutes_since_it_opened(tracking: Tracking) -> None:
    for minutes in (10, 20, 30):
        now = OPENED + timedelta(minutes=minutes)
        run_id = tracking.look(ROLLOUT, verdict(now), now)
    for name in ("share", "e_promote", "e_abort", "lift", "lift_low", "lift_high", "rewards_champion", "mean_champion"):
        assert [point.step for point in tracking.client.get_metric_history(run_id, name)] == [10, 20, 30]
    assert tracking.client.get_run(run_id).data.params["challenger"] == "2"
    assert len(runs(tracking)["rollout"]) == 1


@pytest.fixture
def closed(tmp_path: Path) -> Iterator[tuple[Rollout, tuple[AuditRow, ...]]]:
    """A rollout that was advanced by the flow and promoted by hand, with its audit."""
    with Ledger(f"sqlite:///{tmp_path / 'events.db'}") as ledger:
        ledger.open(ROLLOUT, by="monthly")
        ledger.apply(
            "june", Decision("advance", 0.1, "no harm"), "rollout", OPENED + timedelta(days=1), {"e_promote": 2.5}
        )
        last = ledger.apply("june", Decision("promote", 0.1, "ann is sure"), "ann", OPENED + timedelta(days=2))
        yield last, ledger.history("june")


def test_every_decision_by_flow_or_by_hand_is_a_run_of_its_own_once(
    tracking: Tracking, closed: tuple[Rollout, tuple[AuditRow, ...]]
) -> None:
    rollout, history = closed
    tracking.decisions(ROLLOUT, history[:2])
    run_id = tracking.decisions(rollout, history)
    assert tracking.decisions(rollout, history) == run_id
    tree = runs(tracking)
    assert sorted(tree) == ["2025-06", "advance to 0.1", "open at 0.05", "promote", "rollout"]
    assert all(len(one) == 1 for one in tree.values())
    (promoted,), (advanced,), (parent,) = tree["promote"], tree["advance to 0.1"], tree["rollout"]
    assert promoted.data.tags["mlflow.parentRunId"] == run_id == parent.info.run_id
    assert (promoted.data.params["by"], promoted.data.tags["evermoe.reason"]) == ("ann", "ann is sure")
    assert promoted.data.tags["evermoe.audit_hash"] == history[-1].hash
    assert advanced.data.metrics == {"share": 0.1, "e_promote": 2.5}
    assert (parent.info.status, parent.data.tags["evermoe.decision"]) == ("FINISHED", "promoted")


def test_a_decision_logged_half_way_is_completed_by_the_next_sync(
    tracking: Tracking, closed: tuple[Rollout, tuple[AuditRow, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    rollout, history = closed
    with monkeypatch.context() as patch:
        patch.setattr(tracking.client, "log_batch", lambda *a, **k: (_ for _ in ()).throw(ConnectionError("gone")))
        with pytest.raises(ConnectionError):
            tracking.decisions(rollout, history)
    tracking.decisions(rollout, history)
    tree = runs(tracking)
    assert tree["open at 0.05"][0].data.params["by"] == "monthly"
    assert {run.info.status for name in ("open at 0.05", "advance to 0.1", "promote") for run in tree[name]} == {
        "FINISHED"
    }


def test_a_decision_whose_run_was_interrupted_is_completed_by_the_next_sync(
    tracking: Tracking, closed: tuple[Rollout, tuple[AuditRow, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    rollout, history = closed
    with monkeypatch.context() as patch:  # dies when its run is made and its evidence is not yet written
        patch.setattr(tracking.client, "log_text", lambda *a, **k: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            tracking.decisions(rollout, history)
    tracking.decisions(rollout, history)
    (opened,) = runs(tracking)["open at 0.05"]
    assert opened.info.status == "FINISHED"
    assert [file.path for file in tracking.client.list_artifacts(opened.info.run_id)] == ["evidence.json"]


def test_a_rollout_whose_decisions_are_all_logged_is_not_gone_through_again(
    tracking: Tracking, closed: tuple[Rollout, tuple[AuditRow, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    rollout, history = closed
    run_id = tracking.decisions(rollout, history)
    for write in ("create_run", "set_terminated", "log_text", "set_tag"):
        monkeypatch.delattr(f"mlflow.MlflowClient.{write}")
    assert tracking.decisions(rollout, history) == run_id


def test_a_step_that_fails_tells_its_own_error_even_when_mlflow_fails_too(
    tracking: Tracking, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracking.month_run("2025-06")
    monkeypatch.setattr(tracking.client, "log_batch", lambda *a, **k: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(RuntimeError, match="out of memory"), tracking.step("2025-06", "train", "first"):
        raise RuntimeError("out of memory")


def test_an_mlflow_that_fails_later_is_told_in_one_line(tracking: Tracking, tmp_path: Path) -> None:
    with tracking.step("2025-06", "train", "first") as run:
        pass
    break_mlflow(tmp_path / "mlflow.db", "runs")
    calls = (
        lambda: run.tags({"git": "abc"}),
        lambda: run.metrics({"loss": 1.0}),
        lambda: tracking.month_run("2025-07"),
        lambda: tracking.decisions(ROLLOUT, ()),
        lambda: tracking.step("2025-06", "train", "first").__enter__(),
    )
    for call in calls:
        with pytest.raises(StorageUnavailable, match=r"the MLflow database failed: .*no such table: runs") as error:
            call()  # type: ignore[no-untyped-call]
        assert "\n" not in str(error.value)


def test_a_step_no_month_has_is_refused(tracking: Tracking) -> None:
    with pytest.raises(BadInput, match="'dream' is no step"), tracking.step("2025-06", "dream", "first"):  # type: ignore[arg-type]
        pass


@pytest.mark.parametrize("room", [Tracking, Versions])
def test_an_mlflow_server_that_is_not_there_is_named_in_one_line_within_seconds(room: type) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{probe.getsockname()[1]}"
    began = time.monotonic()
    with pytest.raises(ServiceUnreachable, match=address) as error:
        room(address)
    assert time.monotonic() - began < 10
    assert "\n" not in str(error.value)


def test_an_mlflow_server_that_never_answers_is_given_up_on_within_seconds() -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        began = time.monotonic()
        with pytest.raises(ServiceUnreachable, match="Timeout"):
            Tracking(f"http://127.0.0.1:{silent.getsockname()[1]}")
        assert time.monotonic() - began < 10


def test_an_mlflow_database_that_cannot_be_opened_is_named_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a database, not a folder")
    for uri in (
        f"sqlite:///{tmp_path}/file/mlflow.db",
        f"sqlite:///{tmp_path}/file",
        "postgresql://nobody@127.0.0.1:1/none",
    ):
        with pytest.raises(StorageUnavailable, match="MLflow database") as error:
            Tracking(uri)
        assert "\n" not in str(error.value)


def test_a_tracking_uri_of_no_known_kind_is_refused() -> None:
    with pytest.raises(BadInput, match="MLflow URI"):
        Tracking("./mlruns")
