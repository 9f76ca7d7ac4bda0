"""`evermoe up`, whole: Prefect, its runner, MLflow and the gateway with a small real model; and nothing left of it after."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from commands.processes import answers, free_ports
from commands.services import absolute, environment
from commands.up import stop_on_signals
from evermoe.settings import Settings
from flows.lineage.candidate import LOADER
from registry.tracker.versions import Versions

UP = [sys.executable, "-m", "commands.main", "up"]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, tiny_model_folder: Path) -> Path:
    """A home with a champion."""
    home = tmp_path_factory.mktemp("home")
    (home / "home.json").write_text('{"format": 1}')
    versions = Versions(f"sqlite:///{home / 'mlflow.db'}", artifacts=home / "artifacts")
    versions.register(
        tiny_model_folder, month="2025-06", parent=None, run_id=None, loader=LOADER, description="the base"
    )
    versions.set_alias("champion", "1")
    return home


@pytest.fixture
def env(home: Path) -> dict[str, str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("EVERMOE_", "PREFECT_API"))}
    gateway, mlflow, prefect = (str(port) for port in free_ports(3))
    ports = {"EVERMOE_GATEWAY_PORT": gateway, "EVERMOE_MLFLOW_PORT": mlflow, "EVERMOE_PREFECT_PORT": prefect}
    return {**clean, **ports, "EVERMOE_HOME": str(home)}


def of_this_home(home: Path) -> Iterator[str]:
    """The command lines of the processes that carry this home in their environment."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                if f"EVERMOE_HOME={home}".encode() in (entry / "environ").read_bytes().split(b"\0"):
                    yield (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            except OSError:
                continue


def start(env: dict[str, str]) -> tuple[subprocess.Popen[str], dict[str, str]]:
    up = subprocess.Popen(
        [*UP, "--json", "--paused"], env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert up.stdout is not None
    line = up.stdout.readline()
    assert line, up.communicate()[1]
    return up, json.loads(line)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_up_serves_every_page_and_ctrl_c_leaves_no_process(home: Path, env: dict[str, str]) -> None:
    up, told = start(env)
    assert told["champion"] == "1"
    assert all(answers(told[page]) for page in ("console", "mlflow", "prefect"))
    assert answers(f"{told['prefect']}/api/health")
    asked = httpx.post(f"{told['openai']}/classify", json={"input": "fix the vlan option", "user": "ann"}, timeout=30)
    assert asked.json()["model"] == "evermoe:1", asked.text
    assert sum("flows.deployments" in command for command in of_this_home(home)) == 2  # the leash and the runner
    up.send_signal(signal.SIGINT)
    _, errors = up.communicate(timeout=60)
    assert up.returncode == 0, errors
    assert "nothing is left running" in errors
    assert list(of_this_home(home)) == []


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_kill_minus_9_of_up_leaves_no_process_either(home: Path, env: dict[str, str]) -> None:
    up, _ = start(env)
    assert len(list(of_this_home(home))) >= 8
    up.kill()
    up.wait()
    deadline = time.monotonic() + 40
    while list(of_this_home(home)) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert list(of_this_home(home)) == []
    up.communicate()


def test_a_port_in_use_is_one_line_and_nothing_is_started(home: Path, env: dict[str, str]) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        taken = str(other.getsockname()[1])
        told = subprocess.run(
            UP, env={**env, "EVERMOE_PREFECT_PORT": taken}, capture_output=True, text=True, timeout=60
        )
    assert told.returncode == 4
    assert told.stderr.splitlines()[-1].startswith(f"evermoe: port {taken} (prefect) is in use")
    assert "EVERMOE_PREFECT_PORT" in told.stderr
    assert list(of_this_home(home)) == []


def test_a_terminal_that_nohup_lets_close_stops_nothing() -> None:
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)}
    try:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        stop_on_signals()
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        stop_on_signals()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGHUP)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def test_children_in_other_folders_find_the_same_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EVERMOE_PARAMS", "mine.yaml")
    given = Settings(home=Path("home"), database_url="sqlite:///events.db", mlflow_uri="http://127.0.0.1:5000")
    found = environment(given)
    assert found["EVERMOE_PARAMS"] == str(tmp_path / "mine.yaml")
    assert found["EVERMOE_DATABASE_URL"] == f"sqlite:///{tmp_path / 'events.db'}"
    assert found["EVERMOE_MLFLOW_URI"] == "http://127.0.0.1:5000"
    assert absolute("postgresql://root@127.0.0.1/test") == "postgresql://root@127.0.0.1/test"
