"""A command on a home uses the Prefect server that runs on this home, and never another home's."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from commands.home import open_existing
from commands.processes import in_use
from evermoe.settings import settings


class Healthy(BaseHTTPRequestHandler):
    """What Prefect answers to `/api/health`."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A home whose port for Prefect is taken by a server that answers."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Healthy) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("EVERMOE_PREFECT_PORT", str(server.server_port))
        for name in ("EVERMOE_HOME", "PREFECT_HOME", "PREFECT_LOGGING_LEVEL", "PREFECT_API_URL"):
            monkeypatch.setenv(name, "")
            monkeypatch.delenv(name)
        home = tmp_path / "home"
        home.mkdir()
        yield home
        server.shutdown()
    settings.cache_clear()


def test_a_server_that_does_not_run_on_this_home_is_another_homes(home: Path) -> None:
    open_existing(home)
    assert "PREFECT_API_URL" not in os.environ


def test_the_server_that_runs_on_this_home_is_used(home: Path) -> None:
    with in_use(home):
        open_existing(home)
    assert os.environ["PREFECT_API_URL"] == f"http://127.0.0.1:{os.environ['EVERMOE_PREFECT_PORT']}/api"
