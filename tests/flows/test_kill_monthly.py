"""kill -9 of `monthly`, anywhere: started again it ends with the one version it would have made, and nothing is left behind."""

from __future__ import annotations

import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from evermoe.settings import ROOT, settings
from flows.lineage import digests
from flows.months import end_of, start_of
from flows.parts import open_parts
from registry.ledger import Ledger
from registry.snapshots import Snapshots
from registry.tracking import Tracking
from registry.versions import Versions
from tests.flows.test_loop import OLD, SMALL, Platform, texts, write_params

EVERMOE = (sys.executable, "-m", "commands.main")
MONTH, PARENT = "2025-06", "1"
NOW = end_of(MONTH)
PATIENCE_SECONDS = 300.0
BRIEF = {"epochs": 1, "distil_epochs": 1}
LAST_MOMENTS_SECONDS = 60.0  # a leash gives what it holds ten seconds, on a machine that may be busy


@dataclass(frozen=True)
class Home:
    """A home in which the month waits to be learned. It is put back as it was for every run, in the same place: MLflow keeps
    whole paths."""

    folder: Path
    params: Path

    @property
    def place(self) -> Path:
        return self.folder / "home"

    def put_back(self) -> None:
        shutil.rmtree(self.place, ignore_errors=True)
        shutil.copytree(self.folder / "as-it-was", self.place)

    def start(self, month: str = MONTH, program: Sequence[str] = EVERMOE) -> subprocess.Popen[bytes]:
        """`evermoe update`, in a process group of its own."""
        given = ["update", month, "--now", NOW.isoformat(), "--json"]
        env = {"EVERMOE_HOME": str(self.place), "EVERMOE_PARAMS": str(self.params), "EVERMOE_CHECKPOINT_EVERY": "5"}
        with (self.folder / "said.log").open("ab") as log:
            return subprocess.Popen(
                [*program, *given],
                cwd=ROOT,
                env=os.environ | env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def to_the_end(self, month: str = MONTH) -> None:
        process = self.start(month)
        assert process.wait(PATIENCE_SECONDS) == 0, (self.folder / "said.log").read_text()[-2000:]

    def running(self) -> list[int]:
        """Every process that was started for this home and is still there."""
        mine = f"EVERMOE_HOME={self.place}".encode()
        found = []
        for entry in Path("/proc").iterdir():
            try:
                if entry.name.isdecimal() and mine in (entry / "environ").read_bytes().split(b"\0"):
                    found.append(int(entry.name))
            except OSError:  # it ended as we looked, or is another user's
                continue
        return found

    def await_nothing_running(self) -> None:
        deadline = time.monotonic() + LAST_MOMENTS_SECONDS
        while left := self.running():
            assert time.monotonic() < deadline, [Path(f"/proc/{pid}/cmdline").read_bytes() for pid in left]
            time.sleep(0.05)


@dataclass(frozen=True)
class Outcome:
    """What a home holds of the month: everything that must not depend on whether a run was killed."""

    versions: tuple[tuple[str, str, str | None], ...]
    files: dict[str, str]
    aliases: tuple[str | None, str | None]
    ready: int
    unpointed: tuple[str, ...]
    pending: int
    snapshots: tuple[str, ...]
    rollouts: tuple[tuple[str, str], ...]
    decisions: tuple[str, ...]
    unfinished: tuple[str, ...]
    trainings: bool


def outcome(home: Home) -> Outcome:
    """Read from a copy of MLflow's database: MLflow keeps a database open by its path, and ours is put back time and again."""
    with tempfile.TemporaryDirectory() as folder:
        shutil.copy(home.place / "mlflow.db", folder)
        uri, artifacts = f"sqlite:///{folder}/mlflow.db", home.place / "artifacts"
        versions, tracking = Versions(uri, artifacts=artifacts), Tracking(uri, artifacts)
        every = versions.all()
        pointed = {one.model_id for one in every}
        logged = versions.client.search_logged_models([tracking.experiment])
        runs = tracking.client.search_runs([tracking.experiment])
        champion, challenger = versions.champion(), versions.challenger()
        with Ledger(f"sqlite:///{home.place / 'events.db'}") as ledger:
            rollouts = ledger.list()
        return Outcome(
            versions=tuple((one.version, one.month, one.parent) for one in every),
            files=digests(versions.weights(every[-1].version)),
            aliases=(champion and champion.version, challenger and challenger.version),
            ready=sum(one.status == "READY" for one in logged),
            unpointed=tuple(one.model_id for one in logged if one.status == "READY" and one.model_id not in pointed),
            pending=sum(one.status == "PENDING" for one in logged),
            snapshots=Snapshots(home.place).names(),
            rollouts=tuple((one.challenger, one.status) for one in rollouts),
            decisions=tuple(
                run.data.tags["evermoe.action"] for run in runs if run.data.tags.get("evermoe.kind") == "decision"
            ),
            unfinished=tuple(
                run.data.tags["evermoe.key"]
                for run in runs
                if run.info.status != "FINISHED" and run.data.tags.get("evermoe.kind") != "rollout"
            ),
            trainings=(home.place / "trainings").exists(),
        )


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A base that learned two labels, and a June in which most users ask about a third. No Prefect has seen it."""
    from flows.base import BASE, learn, prepare, take_in
    from streams.record import Record

    folder = tmp_path_factory.mktemp("killed")
    first = datetime(2025, 1, 2, tzinfo=UTC)
    made = Home(folder, write_params(folder, update=BRIEF, gates={**SMALL["gates"], "new_month_gain": -100.0}))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EVERMOE_HOME", str(made.place))
        patch.setenv("EVERMOE_PARAMS", str(made.params))
        settings.cache_clear()
        with open_parts() as parts:
            records = [
                Record(first + timedelta(hours=7 * number), text, label, None, "stream")
                for number, (text, label) in enumerate(texts(*OLD))
            ]
            parts.snapshots.freeze(BASE, prepare(records, MONTH, 10_000))
            rows = parts.snapshots.load(BASE)
            take_in(parts, learn(rows, parts.params, lambda step: None), rows, MONTH)
            platform = Platform(parts, folder)
            for number, (text, label) in enumerate(itertools.islice(texts(*OLD, "web.page"), 240)):
                if label == "web.page" or number % 2:
                    at = start_of(MONTH) + timedelta(days=1, hours=2.5 * number)
                    platform.ask(at, text, label, answer="db.sql")
    settings.cache_clear()
    made.place.rename(folder / "as-it-was")
    made.put_back()
    made.to_the_end("2025-05")  # a month with nothing to learn: after it, Prefect has a database in the home
    made.await_nothing_running()
    shutil.rmtree(folder / "as-it-was")
    made.place.rename(folder / "as-it-was")
    return made


@dataclass(frozen=True)
class Undisturbed:
    """A run that nobody killed: what came of it, and how long it took."""

    outcome: Outcome
    seconds: float


@pytest.fixture(scope="module")
def undisturbed(home: Home) -> Undisturbed:
    home.put_back()
    began = time.monotonic()
    home.to_the_end()
    seconds = time.monotonic() - began
    home.await_nothing_running()
    return Undisturbed(outcome(home), seconds)


def test_a_run_that_nobody_killed_makes_one_version_on_trial_and_leaves_nothing_behind(undisturbed: Undisturbed) -> None:
    found = undisturbed.outcome
    assert found.versions == (("1", "base", None), ("2", MONTH, PARENT))
    assert found.aliases == ("1", "2")
    assert (found.ready, found.unpointed, found.pending) == (2, (), 0)
    assert found.snapshots == (MONTH, "base")
    assert (found.rollouts, found.decisions) == ((("2", "running"),), ("open",))
    assert (found.unfinished, found.trainings) == ((), False)
