"""Versions in a real MLflow: no pickle, lineage, aliases, and weights that come back byte for byte."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import mlflow
import numpy as np
import pytest
import requests
from faults import break_mlflow, mend_mlflow
from mlflow import MlflowClient
from safetensors.numpy import save_file

from evermoe.errors import BadInput, NotFound, ServiceUnreachable, StorageUnavailable
from registry.tracker.versions import Version, Versions

LOADER = Path(__file__).parents[1] / "loader.py"


@pytest.fixture
def versions(tracking_uri: str, tmp_path: Path) -> Versions:
    return Versions(tracking_uri, artifacts=tmp_path / "artifacts")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "base"
    made.mkdir()
    save_file({"weight": np.arange(6, dtype=np.float32)}, made / "model.safetensors")
    (made / "config.json").write_text("{}")
    return made


def register(
    versions: Versions, folder: Path, month: str = "2025-06", parent: str | None = None, **more: object
) -> Version:
    given = {"run_id": None, "loader": LOADER, "description": f"learned {month}", "tags": {"git": "abc"}} | more
    return versions.register(folder, month=month, parent=parent, **given)  # type: ignore[arg-type]


def test_a_registered_folder_comes_back_byte_for_byte_with_its_lineage(versions: Versions, folder: Path) -> None:
    made = register(versions, folder, parent="7")
    assert (made.version, made.month, made.parent, made.description) == ("1", "2025-06", "7", "learned 2025-06")
    assert made.tags["git"] == "abc"
    weights = versions.weights("1")
    assert (weights / "model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()
    assert versions.all() == (made,)


def test_registering_leaves_no_trace_in_mlflows_global_state_or_the_working_folder(
    versions: Versions, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    register(versions, folder)
    assert not mlflow.is_tracking_uri_set()
    assert list((tmp_path / "here").iterdir()) == []


def test_nothing_in_the_artifact_tree_is_pickled(versions: Versions, folder: Path, tmp_path: Path) -> None:
    register(versions, folder)
    files = [path for path in (tmp_path / "artifacts").rglob("*") if path.is_file()]
    assert {"MLmodel", "loader.py", "model.safetensors"} <= {path.name for path in files}
    assert not [path for path in files if path.suffix in {".pkl", ".pickle", ".pt", ".pth", ".bin", ".joblib"}]
    assert not [path for path in files if path.read_bytes()[:1] == b"\x80"]  # how a pickle begins


def test_mlflow_loads_a_version_by_alias_through_the_loader_script(versions: Versions, folder: Path) -> None:
    versions.set_alias("champion", register(versions, folder).version)
    try:
        mlflow.set_tracking_uri(versions.uri)
        answer = mlflow.pyfunc.load_model("models:/evermoe@champion").predict(["hello"])
    finally:
        mlflow.set_tracking_uri(None)
    assert answer[0].endswith("artifacts/weights: hello")


def test_the_same_month_and_parent_are_registered_once(versions: Versions, folder: Path) -> None:
    first = register(versions, folder)
    assert register(versions, folder, description="again") == first
    assert register(versions, folder, parent="1").version == "2"
    assert versions.find("2025-06", "1") == versions.get("2")
    assert versions.find("2025-07", "1") is None


def test_aliases_move_and_are_seen_everywhere(versions: Versions, folder: Path) -> None:
    assert (versions.champion(), versions.challenger(), versions.all()) == (None, None, ())
    register(versions, folder)
    register(versions, folder, "2025-07", "1")
    versions.set_alias("champion", "1")
    versions.set_alias("challenger", "2")
    assert [one.aliases for one in versions.all()] == [("champion",), ("challenger",)]
    versions.set_alias("champion", "2")
    versions.drop_alias("challenger")
    versions.drop_alias("challenger")  # twice is once
    assert (versions.champion(), versions.challenger()) == (versions.get("2"), None)
    assert versions.get("2").aliases == ("champion",)


def test_metrics_are_those_of_the_run_and_of_the_model(versions: Versions, folder: Path) -> None:
    experiment = versions.client.get_experiment_by_name("evermoe").experiment_id
    run_id = versions.client.create_run(experiment).info.run_id
    made = register(versions, folder, run_id=run_id, metrics={"accuracy_2025_05": 0.7})
    assert made.run_id == run_id
    assert versions.client.get_run(run_id).data.metrics == {"accuracy_2025_05": 0.7}
    model = versions.client.get_logged_model(made.model_id)
    assert [(metric.key, metric.value) for metric in model.metrics] == [("accuracy_2025_05", 0.7)]


def test_tags_are_added_later_too(versions: Versions, folder: Path) -> None:
    register(versions, folder)
    versions.tag("1", {"gates": "failed: past_month_loss"})
    assert versions.get("1").tags["gates"] == "failed: past_month_loss"


@pytest.mark.parametrize("call", ["get", "weights"])
@pytest.mark.parametrize("version", ["9", "nine"])
def test_an_unknown_version_is_named(versions: Versions, folder: Path, call: str, version: str) -> None:
    register(versions, folder)
    with pytest.raises(NotFound, match=f"no version '{version}'"):
        getattr(versions, call)(version)


def test_an_alias_cannot_point_at_nothing(versions: Versions, folder: Path) -> None:
    register(versions, folder)
    with pytest.raises(NotFound):
        versions.set_alias("champion", "9")


def test_weights_that_were_deleted_are_one_clear_line(versions: Versions, folder: Path) -> None:
    register(versions, folder)
    (versions.weights("1") / "config.json").unlink()
    with pytest.raises(NotFound, match="moved or deleted"):
        versions.weights("1")


def test_what_is_no_safetensors_folder_is_refused_before_anything_is_stored(versions: Versions, folder: Path) -> None:
    (folder / "optimizer.pt").write_bytes(b"\x80")
    with pytest.raises(BadInput, match=r"optimizer\.pt: pickled"):
        register(versions, folder)
    (folder / "optimizer.pt").unlink()
    with pytest.raises(BadInput, match="loads a version is not there"):
        register(versions, folder, loader=folder / "nowhere.py")
    (folder / "model.safetensors").unlink()
    with pytest.raises(BadInput, match="not a model folder"):
        register(versions, folder)
    assert versions.all() == ()


@pytest.mark.parametrize("table", ["registered_models", "model_versions"])
def test_an_mlflow_that_fails_is_no_registry_without_versions(
    versions: Versions, folder: Path, tmp_path: Path, table: str
) -> None:
    register(versions, folder)
    versions.set_alias("champion", "1")
    break_mlflow(tmp_path / "mlflow.db", table)
    calls: list[Callable[[], object]] = [
        versions.all,
        lambda: versions.find("2025-06", None),
        lambda: versions.get("1"),
        versions.champion,
        lambda: versions.weights("1"),
        lambda: versions.set_alias("challenger", "1"),
        lambda: versions.tag("1", {"seen": "yes"}),
        lambda: register(versions, folder),
    ]
    for call in calls:
        with pytest.raises(StorageUnavailable, match="the MLflow database failed") as error:
            call()
        assert "\n" not in str(error.value)
    mend_mlflow(tmp_path / "mlflow.db", table)
    assert [one.version for one in versions.all()] == ["1"]


def test_an_mlflow_server_that_went_away_is_told_in_one_line(
    versions: Versions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{probe.getsockname()[1]}"
    versions.uri, versions.client = address, MlflowClient(address, address)
    for call in (versions.all, versions.champion, lambda: versions.get("1")):
        with pytest.raises(ServiceUnreachable, match=f"the MLflow server at {address} failed") as error:
            call()  # type: ignore[operator]
        assert "\n" not in str(error.value)


def test_a_remote_store_without_the_weights_is_one_clear_line(
    versions: Versions, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = register(versions, folder)
    location = versions.client.get_logged_model(made.model_id).artifact_location
    shutil.rmtree(Path(location.removeprefix("file://")) / "artifacts" / "weights")
    monkeypatch.setattr("registry.tracker.logged._local", lambda uri: None)
    versions.models.cache = tmp_path / "cache"
    with pytest.raises(NotFound, match="version 1 has no weights"):
        versions.weights("1")


def test_a_home_that_was_moved_still_has_its_weights(versions: Versions, folder: Path, tmp_path: Path) -> None:
    register(versions, folder)
    (tmp_path / "artifacts").rename(tmp_path / "moved")
    weights = Versions(versions.uri, artifacts=tmp_path / "moved").weights("1")
    assert weights.is_relative_to(tmp_path / "moved")
    assert (weights / "model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()
    with pytest.raises(NotFound, match="moved or deleted"):
        versions.weights("1")


def test_processes_that_register_the_same_at_once_make_one_version(
    versions: Versions, folder: Path, tmp_path: Path
) -> None:
    command = [sys.executable, str(Path(__file__).with_name("registering_process.py")), versions.uri]
    command += [str(tmp_path / "artifacts"), str(folder), str(LOADER)]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert [process.communicate(timeout=120)[0].strip() for process in processes] == ["1", "1"]
    assert [one.version for one in versions.all()] == ["1"]


def test_of_two_that_no_lock_kept_apart_the_later_takes_its_own_away(
    versions: Versions, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = versions.find
    first = register(versions, folder)
    answers = iter([None])  # the other one registers after our look
    monkeypatch.setattr(versions, "find", lambda month, parent: next(answers, found(month, parent)))
    assert register(versions, folder) == first
    assert [one.version for one in versions.all()] == ["1"]


def logged_status(versions: Versions) -> list[str]:
    """The status of every logged model, READY or not, the oldest first."""
    experiment = versions.client.get_experiment_by_name("evermoe")
    assert experiment is not None
    found = versions.client.search_logged_models([experiment.experiment_id])
    return [str(one.status) for one in sorted(found, key=lambda one: one.creation_timestamp)]


class PowerCutError(Exception):
    """In the middle of a registration."""


def cut(*given: object, **named: object) -> None:
    raise PowerCutError


@pytest.mark.parametrize("step", ["log_model_artifacts", "create_model_version"])
def test_a_registration_that_died_before_its_version_was_made_leaves_nothing_that_is_ready(
    versions: Versions, folder: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(versions.client, step, cut)
        with pytest.raises(PowerCutError):
            register(versions, folder)
    assert (versions.all(), logged_status(versions)) == ((), ["PENDING"])
    assert register(versions, folder).version == "1"
    assert logged_status(versions) == ["FAILED", "READY"]


def test_a_registration_that_died_after_its_version_was_made_is_settled(
    versions: Versions, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(versions.client, "finalize_logged_model", cut)
        with pytest.raises(PowerCutError):
            register(versions, folder)
    assert ([one.version for one in versions.all()], logged_status(versions)) == (["1"], ["PENDING"])
    versions.settle()
    assert logged_status(versions) == ["READY"]
    assert register(versions, folder).version == "1"


def test_small_files_are_kept_beside_the_weights(versions: Versions, folder: Path) -> None:
    made = register(versions, folder, beside={"lineage.json": "{}"})
    assert versions.beside(made.version, "lineage.json") == "{}"
    assert versions.beside(made.version, "another.json") is None
    assert not (versions.weights(made.version) / "lineage.json").exists()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """A real MLflow server that keeps artifacts itself, as a remote one does."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += [
        "--backend-store-uri",
        f"sqlite:///{tmp_path}/server.db",
        "--artifacts-destination",
        str(tmp_path / "remote"),
    ]
    quiet = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with (tmp_path / "server.log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, cwd=tmp_path, env=quiet, start_new_session=True)
    url = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 120
        while True:
            try:
                if requests.get(f"{url}/health", timeout=1).ok:
                    break
            except requests.RequestException:
                if time.monotonic() > deadline or process.poll() is not None:
                    raise AssertionError((tmp_path / "server.log").read_text()) from None
                time.sleep(0.2)
        yield url
    finally:
        os.killpg(process.pid, signal.SIGKILL)  # the workers too
        process.wait()


@pytest.mark.slow
def test_weights_on_a_server_are_brought_here_once(server: str, folder: Path, tmp_path: Path) -> None:
    versions = Versions(server, cache=tmp_path / "cache")
    made = register(versions, folder, beside={"lineage.json": "{}"})
    assert [versions.beside("1", name) for name in ("lineage.json", "another.json")] == ["{}", None]
    weights = versions.weights("1")
    assert weights == tmp_path / "cache" / made.model_id / "weights"
    assert (weights / "model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()
    stamp = weights.stat().st_mtime_ns
    assert versions.weights("1").stat().st_mtime_ns == stamp
