"""A command on a home uses the Prefect server that runs on this home, or that the user named, and never another home's."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from commands.home import open_existing
from commands.processes import in_use
from commands.services import uses_own_prefect
from evermoe.errors import ServiceUnreachable
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


def test_a_server_that_the_user_named_is_used_where_it_answers(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = open_existing(home)
    assert not uses_own_prefect(here)
    monkeypatch.setenv("PREFECT_API_URL", f"http://127.0.0.1:{os.environ['EVERMOE_PREFECT_PORT']}/api")
    assert uses_own_prefect(here)
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    with pytest.raises(
        ServiceUnreachable, match=r"Prefect does not answer at http://127.0.0.1:9/api; start it, or unset"
    ):
        uses_own_prefect(here)
