"""A gateway on a loopback port, made of real parts: a tiny trained model, the event log, the ledger, MLflow, uvicorn."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest
import uvicorn
from fastapi import FastAPI

from evermoe.settings import ROOT
from model import LanguageModel, from_pretrained
from monitoring.events import EventLog
from monitoring.keys import Role
from registry.actions.controls import Controls
from registry.assignment import Apart
from registry.book.ledger import Ledger
from registry.rollout import Policy, Rollout, new_rollout
from registry.tracker.runs import Tracking
from registry.tracker.versions import Versions
from serving.access import Access
from serving.app import create_app
from serving.engine import Engine
from serving.limits import Limits
from serving.rollouts import Rollouts
from serving.router import Router
from serving.server import listen

LOADER = Path(__file__).parents[1] / "registry" / "loader.py"
OPENED = datetime(2025, 6, 1, tzinfo=UTC)


def wait_for(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    """Return once `condition` holds; fail if it does not within `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


@dataclass
class Served:
    """A running gateway, and its parts to look into from the side."""

    url: str
    events: EventLog
    controls: Controls
    engine: Engine
    router: Router
    http: httpx.Client
    database: Path
    app: FastAPI

    @property
    def ledger(self) -> Ledger:
        return self.controls.ledger

    def open_rollout(self, challenger: str = "2", share: float = 0.5, month: str = "2025-06") -> Rollout:
        """Open a rollout against version 1 and wait until the gateway follows it."""
        policy = Policy(shares=(share,))
        rollout = new_rollout(f"{month}-{challenger}", month, "1", challenger, f"salt-{month}", policy, OPENED)
        self.controls.open(rollout, "test")
        self.follow(lambda: self.router.versions == ("1", challenger))
        return rollout

    def as_(self, *roles: Role) -> list[httpx.Client]:
        """A client for each role, with a key of that name, once the gateway knows the keys."""
        access: Access = self.app.state.access
        texts = [access.keys.create(role, role, datetime.now(UTC)).text for role in roles]
        self.follow(lambda: all(access.holder(text) for text in texts))
        return [
            httpx.Client(base_url=self.url, headers={"Authorization": f"Bearer {text}"}, timeout=30) for text in texts
        ]

    def follow(self, condition: Callable[[], bool]) -> None:
        """Wait until the gateway has come to where `condition` holds."""
        wait_for(condition)


@pytest.fixture(scope="session")
def registered(tmp_path_factory: pytest.TempPathFactory, tiny_model_folder: Path) -> Path:
    """A home in whose MLflow the tiny model is registered twice; version 1 is champion. Copy `mlflow.db` to change it."""
    home = tmp_path_factory.mktemp("registered")
    versions = Versions(f"sqlite:///{home / 'mlflow.db'}", artifacts=home / "artifacts")
    for month, parent in (("2025-05", None), ("2025-06", "1")):
        versions.register(
            tiny_model_folder, month=month, parent=parent, run_id=None, loader=LOADER, description=f"learned {month}"
        )
    versions.set_alias("champion", "1")
    return home


@pytest.fixture
def home(registered: Path, tmp_path: Path) -> Path:
    """A home of the test's own with the two versions."""
    shutil.copy(registered / "mlflow.db", tmp_path / "mlflow.db")
    return tmp_path


@pytest.fixture
def four_versions(home: Path, tiny_model_folder: Path) -> None:
    """Versions 3 and 4 are there too."""
    versions = Versions(f"sqlite:///{home / 'mlflow.db'}", artifacts=home / "artifacts")
    for month in ("2025-07", "2025-08"):
        versions.register(tiny_model_folder, month=month, parent="1", run_id=None, loader=LOADER, description=month)


@pytest.fixture
def start(home: Path) -> Iterator[Callable[..., Served]]:
    """Starts a gateway; it stops when the test ends."""
    with contextlib.ExitStack() as stack:

        def start(
            *,
            replay: bool = False,
            waiting: int = 512,
            database: str | None = None,
            feedback_window: timedelta | None = None,
            limits: Limits | None = None,
            apart: Apart = Apart(),
            policy: Policy = Policy(),
        ) -> Served:
            url, tracking_uri = database or f"sqlite:///{home / 'events.db'}", f"sqlite:///{home / 'mlflow.db'}"
            versions = Versions(tracking_uri, artifacts=home / "artifacts")
            tracking = Tracking(tracking_uri, home / "artifacts")
            events, ledger = EventLog(url, feedback_window=feedback_window), stack.enter_context(Ledger(url))
            controls = Controls(ledger, versions, tracking)
            engine = Engine(lambda version: from_pretrained(versions.weights(version)), threads=1, waiting=waiting)
            rollouts = Rollouts(controls, events, policy)
            router = Router(rollouts.deployment, engine, every=0.05, reload_after=0.0, apart=apart)
            app = create_app(
                engine=engine, router=router, events=events, rollouts=rollouts, limits=limits, replay=replay
            )
            address = stack.enter_context(running(app))
            http = stack.enter_context(httpx.Client(base_url=address, timeout=30))
            return Served(address, events, controls, engine, router, http, home / "events.db", app)

        yield start


@pytest.fixture(scope="session")
def tiny_model(tiny_model_folder: Path) -> LanguageModel:
    """The model that every version of these tests is, to ask directly."""
    return from_pretrained(tiny_model_folder)


@pytest.fixture
def served(start: Callable[..., Served]) -> Served:
    return start()


@contextlib.contextmanager
def running(app: FastAPI) -> Iterator[str]:
    """The address of `app`, served by uvicorn in a thread."""
    listener = listen("127.0.0.1", 0)
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", lifespan="on", timeout_graceful_shutdown=10))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    port = listener.getsockname()[1]
    thread.start()
    try:
        wait_for(lambda: server.started or not thread.is_alive(), 120.0)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(30)


class GatewayProcess:
    """`evermoe serve` as a process of its own."""

    def __init__(self, home: Path, port: int, database_url: str | None = None, *options: str) -> None:
        self.url = f"http://127.0.0.1:{port}"
        environment = (
            os.environ | {"OMP_NUM_THREADS": "1"} | ({"EVERMOE_DATABASE_URL": database_url} if database_url else {})
        )
        command = [sys.executable, "-m", "commands.main", "serve", "--home", str(home), "--port", str(port), *options]
        self._log = (home / "gateway.log").open("ab+")
        self._process = subprocess.Popen(command, cwd=ROOT, env=environment, stderr=self._log, stdin=subprocess.DEVNULL)
        self.signal = self._process.send_signal
        self.wait_until_ready()

    @property
    def said(self) -> str:
        """What it and its predecessors on this home have written to stderr."""
        return Path(self._log.name).read_text(encoding="utf-8")

    def wait_until_ready(self) -> None:
        """Return when it serves; fail with its log when it ends before."""

        def ready() -> bool:
            assert self._process.poll() is None, self.said
            try:
                return httpx.get(f"{self.url}/ready", timeout=5).status_code == 200
            except httpx.TransportError:
                return False

        wait_for(ready, 90)

    def wait(self) -> int:
        """Its exit status."""
        return self._process.wait(60)

    def close(self) -> None:
        """Kill it if it runs."""
        self._process.kill()
        self._process.wait()
        self._log.close()


@pytest.fixture
def launch(home: Path) -> Iterator[Callable[..., GatewayProcess]]:
    """Starts `evermoe serve` on the home, always on the same port; what still runs is killed when the test ends."""
    with contextlib.ExitStack() as stack, socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        probe.close()

        def launch(database_url: str | None = None, *options: str) -> GatewayProcess:
            gateway = GatewayProcess(home, port, database_url, *options)
            stack.callback(gateway.close)
            return gateway

        yield launch
