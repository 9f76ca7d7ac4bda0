"""The doctor finds what is wrong, says what to do, and changes nothing."""

from __future__ import annotations

import json
import os
import shutil
import socket
import sqlite3
import subprocess
import sys
from pathlib import Path

from commands.processes import free_ports
from flows.lineage.candidate import LOADER
from registry.tracker.versions import Versions


def doctor(home: Path, **env: str) -> tuple[int, dict[str, list[tuple[str, str]]]]:
    gateway, mlflow, prefect = (str(port) for port in free_ports(3))
    ports = {"EVERMOE_GATEWAY_PORT": gateway, "EVERMOE_MLFLOW_PORT": mlflow, "EVERMOE_PREFECT_PORT": prefect}
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("EVERMOE_", "PREFECT_API"))}
    told = subprocess.run(
        [sys.executable, "-m", "commands.main", "doctor", "--json", "--home", str(home)],
        capture_output=True,
        text=True,
        timeout=120,
        env={**clean, **ports, **env},
    )
    answer = json.loads(told.stdout)
    assert answer["ok"] == (told.returncode == 0)
    found: dict[str, list[tuple[str, str]]] = {}
    for check in answer["checks"]:
        found.setdefault(check["check"], []).append((check["state"], check["message"]))
    return told.returncode, found


def test_an_empty_home_is_well_and_is_not_made(tmp_path: Path) -> None:
    status, found = doctor(tmp_path / "home")
    assert status == 0, found
    assert found["python"][0][0] == "ok"
    assert found["packages"][0][0] == "ok"
    assert found["champion"][0][0] == "note"
    assert [state for state, _ in found["port"]] == ["ok"] * 3
    assert not (tmp_path / "home").exists()


def test_each_trouble_is_named_with_what_to_do(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (home / "home.json").write_text('{"format": 99}')
    (home / "events.db").write_bytes(b"this is not a database, and long enough to be read as one" * 40)
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        taken = str(other.getsockname()[1])
        status, found = doctor(home, EVERMOE_GATEWAY_PORT=taken, PREFECT_API_URL="http://127.0.0.1:9/api")
    assert status == 1
    assert found["home"] == [("fix", found["home"][0][1])]
    assert "newer" in found["home"][0][1]
    assert found["event database"][0][0] == "fix"
    assert "PREFECT_API_URL" in found["prefect"][0][1]
    (trouble,) = (message for state, message in found["port"] if state == "fix")
    assert taken in trouble
    assert "EVERMOE_GATEWAY_PORT" in trouble


def test_services_that_do_not_answer_are_named_without_their_passwords(tmp_path: Path) -> None:
    status, found = doctor(
        tmp_path,
        EVERMOE_DATABASE_URL="postgresql+psycopg://evermoe:hushhush@127.0.0.1:9/evermoe",
        EVERMOE_MLFLOW_URI="http://127.0.0.1:9",
    )
    assert status == 1
    assert found["event database"][0][0] == "fix"
    assert "hushhush" not in str(found)
    assert found["champion"][0][0] == "fix"
    assert "http://127.0.0.1:9" in found["champion"][0][1]


def test_a_database_that_another_process_uses_is_not_disturbed(tmp_path: Path) -> None:
    (tmp_path / "home.json").write_text('{"format": 1}')
    with sqlite3.connect(tmp_path / "events.db") as connection:
        connection.execute("CREATE TABLE kept (row integer)")
    before = (tmp_path / "events.db").read_bytes()
    status, found = doctor(tmp_path)
    assert status == 0, found
    assert found["event database"][0][0] == "ok"
    assert (tmp_path / "events.db").read_bytes() == before


def test_a_champion_whose_weights_are_gone_is_named(tmp_path: Path, tiny_model_folder: Path) -> None:
    (tmp_path / "home.json").write_text('{"format": 1}')
    versions = Versions(f"sqlite:///{tmp_path / 'mlflow.db'}", artifacts=tmp_path / "artifacts")
    versions.register(
        tiny_model_folder, month="2025-06", parent=None, run_id=None, loader=LOADER, description="the base"
    )
    versions.set_alias("champion", "1")
    status, found = doctor(tmp_path)
    assert (status, found["champion"][0][0]) == (0, "ok"), found
    shutil.rmtree(tmp_path / "artifacts")
    status, found = doctor(tmp_path)
    assert status == 1
    assert "version 1 has no weights" in found["champion"][0][1]
