"""`evermoe serve` from the outside: what it says when it cannot start, and how it stops."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from evermoe.settings import ROOT
from monitoring.events import EventLog
from tests.serving.conftest import GatewayProcess


def serve(*options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "commands.main", "serve", *options], cwd=ROOT, capture_output=True, text=True, timeout=60
    )


def test_an_empty_home_is_told_what_to_do_in_one_line(tmp_path: Path) -> None:
    refused = serve("--home", str(tmp_path / "none"))
    assert refused.returncode == 3
    assert refused.stderr.strip().endswith("has no model to serve: run `evermoe demo`, or `dvc repro` to make a base")
    assert refused.stderr.count("\n") == 1
    assert not (tmp_path / "none").exists()


def test_a_home_from_a_newer_version_is_refused(tmp_path: Path) -> None:
    (tmp_path / "home.json").write_text(json.dumps({"format": 99}))
    refused = serve("--home", str(tmp_path))
    assert refused.returncode == 5
    assert "is newer than this Evermoe reads" in refused.stderr
    assert refused.stderr.count("\n") == 1


def test_a_port_in_use_is_named_in_one_line(home: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        refused = serve("--home", str(home), "--port", str(port))
    assert refused.returncode == 4
    assert refused.stderr == (
        f"evermoe: port {port} on 127.0.0.1 is in use; stop what listens there, or choose another with --port\n"
    )


def test_a_missing_mlflow_server_is_named_in_one_line(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        uri = f"http://127.0.0.1:{nobody.getsockname()[1]}"
        monkeypatch.setenv("EVERMOE_MLFLOW_URI", uri)
        refused = serve("--home", str(home))
    assert refused.returncode == 4
    assert uri in refused.stderr
    assert refused.stderr.count("\n") == 1


def test_a_version_to_rehearse_that_is_not_registered_is_named_in_one_line(home: Path) -> None:
    refused = serve("--home", str(home), "--port", "0", "--rehearse", "99")
    assert refused.returncode == 2
    assert "no version '99'" in refused.stderr
    assert refused.stderr.count("\n") == 1


@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_answers_what_is_in_flight_flushes_the_log_and_ends_with_zero(
    launch: Callable[[], GatewayProcess], home: Path, stop: signal.Signals
) -> None:
    gateway = launch()
    body = {"model": "evermoe", "prompt": "fix the", "stream": True, "max_tokens": 100, "temperature": 2.0, "seed": 5}
    with httpx.stream("POST", f"{gateway.url}/v1/completions", json=body, timeout=30) as answer:
        lines = answer.iter_lines()
        first = next(lines)
        gateway.signal(stop)
        rest = [line for line in lines if line]
    assert rest[-1] == "data: [DONE]"
    assert gateway.wait() == 0
    assert "Traceback" not in gateway.said
    with EventLog(f"sqlite:///{home / 'events.db'}") as events:
        row = events.request(json.loads(first.removeprefix("data: "))["id"])
    assert row.error is None
    assert gateway.said.count("\n") == 1  # where it was; no access log, no noise


def test_two_gateways_share_one_log_and_one_plan(home: Path, launch: Callable[..., GatewayProcess]) -> None:
    one = launch()
    two = GatewayProcess(home, free_port())
    try:
        answer = httpx.post(f"{one.url}/v1/classify", json={"input": "fix the vlan option"}).json()
        receipts = []
        tellers = [
            threading.Thread(
                target=lambda url=url: receipts.append(
                    httpx.post(f"{url}/v1/feedback", json={"id": answer["id"], "key": "k", "score": 1}).json()
                )
            )
            for url in (one.url, two.url)
        ]
        for teller in tellers:
            teller.start()
        for teller in tellers:
            teller.join()
        assert sorted(receipt["counted"] for receipt in receipts) == [False, True]
    finally:
        two.close()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
