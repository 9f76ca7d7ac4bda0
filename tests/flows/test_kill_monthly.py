"""kill -9 of `monthly`, anywhere: started again it ends with the one version it would have made, and nothing is left behind.

EVERMOE_UPDATE_KILLS says at how many random points."""

from __future__ import annotations

import itertools
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from evermoe.months import end_of, start_of
from evermoe.settings import ROOT, settings
from flows.lineage.record import digests
from flows.runtime.parts import open_parts
from registry.book.ledger import Ledger
from registry.snapshots import Snapshots
from registry.tracker.runs import Tracking
from registry.tracker.versions import Versions
from tests.flows.test_loop import OLD, SMALL, Platform, texts, write_params

pytestmark = pytest.mark.slow
EVERMOE = (sys.executable, "-m", "commands.main")
MONTH, PARENT = "2025-06", "1"
NOW = end_of(MONTH)
KILLS = int(os.environ.get("EVERMOE_UPDATE_KILLS", "30"))
PATIENCE_SECONDS = 900.0  # nothing waits so long, unless the machine is busy with something else
BRIEF = {"epochs": 1, "distil_epochs": 1}
LAST_MOMENTS_SECONDS = 60.0  # a leash gives what it holds ten seconds, on a machine that may be busy


@dataclass(frozen=True)
class Home:
    """A home in which the month waits to be learned. It is put back as it was for every run, in the same place: MLflow keeps
    whole paths. Without the address of a Prefect server each command starts one for itself."""

    folder: Path
    params: Path
    prefect: str | None = None

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
        env |= {"OMP_NUM_THREADS": "1", **({"PREFECT_API_URL": self.prefect} if self.prefect else {})}
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
        assert process.wait(PATIENCE_SECONDS) == 0, self.said()

    def kill(self, seconds: float, *, whole_group: bool) -> None:
        """Run, and kill -9 the process, or all it has started too, after so many seconds; sooner, if it ends sooner."""
        while True:
            process, began = self.start(), time.monotonic()
            try:
                assert process.wait(seconds) == 0, self.said()
            except subprocess.TimeoutExpired:
                (os.killpg if whole_group else os.kill)(process.pid, signal.SIGKILL)
                process.wait()
                self.await_nothing_running()
                return
            self.await_nothing_running()
            self.put_back()
            seconds = 0.9 * (time.monotonic() - began)

    def kill_in(self, target: str, when: str) -> None:
        """Run, and kill -9 the process before or after it calls a function. Fails where it never does."""
        program = (sys.executable, "-m", "tests.flows.killed_update", target, when)
        assert self.start(program=program).wait(PATIENCE_SECONDS) == -signal.SIGKILL, f"{target}: {self.said()}"
        self.await_nothing_running()

    def said(self) -> str:
        return (self.folder / "said.log").read_text(errors="replace")[-2000:]

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


def make_home(folder: Path, prefect: str | None = None) -> Home:
    """A base that learned two labels, and a June in which most users ask about a third."""
    from flows.base import BASE, take_in
    from flows.learning.base import learn, prepare
    from streams.record import Record

    first = datetime(2025, 1, 2, tzinfo=UTC)
    params = write_params(folder, update=BRIEF, gates={**SMALL["gates"], "new_month_gain": -100.0})
    made = Home(folder, params, prefect)
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
    return made


@pytest.fixture(scope="module")
def prefect_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Prefect server that outlives the runs, as `evermoe up` has one."""
    from commands.processes import Processes, free_ports
    from commands.services import prefect_for_one_command

    folder, (port,) = tmp_path_factory.mktemp("prefect"), free_ports(1)
    server = prefect_for_one_command(settings(), port)
    own = {"PREFECT_HOME": str(folder), "EVERMOE_HOME": "of no run"}
    with Processes(folder) as processes:
        processes.start(replace(server, env={**server.env, **own}))
        processes.wait_until_ready()
        yield f"http://127.0.0.1:{port}/api"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, prefect_url: str) -> Home:
    return make_home(tmp_path_factory.mktemp("home"), prefect_url)


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


def test_a_run_that_nobody_killed_makes_one_version_on_trial_and_leaves_nothing_behind(
    undisturbed: Undisturbed,
) -> None:
    found = undisturbed.outcome
    assert found.versions == (("1", "base", None), ("2", MONTH, PARENT))
    assert found.aliases == ("1", "2")
    assert (found.ready, found.unpointed, found.pending) == (2, (), 0)
    assert found.snapshots == (MONTH, "base")
    assert (found.rollouts, found.decisions) == ((("2", "running"),), ("open",))
    assert (found.unfinished, found.trainings) == ((), False)


@pytest.mark.timeout(1200)
def test_a_run_killed_three_times_ends_as_if_nobody_had(home: Home, undisturbed: Undisturbed) -> None:
    generator = random.Random(1)
    home.put_back()
    for part in (0.5, 0.8, 0.9):
        home.kill(part * undisturbed.seconds, whole_group=generator.random() < 0.5)
    home.to_the_end()
    home.await_nothing_running()
    assert outcome(home) == undisturbed.outcome


POINTS = (
    ("registry.snapshots:write_rows", "after"),
    ("dvc.repo:Repo.push", "before"),
    ("registry.snapshots:Snapshots.freeze", "after"),
    ("model.checkpoint:_write", "after"),
    ("model.checkpoint:Checkpoints.save", "after"),
    ("mlflow:MlflowClient.create_logged_model", "after"),
    ("mlflow:MlflowClient.log_model_artifacts", "after"),
    ("mlflow:MlflowClient.create_model_version", "after"),
    ("registry.tracker.runs:StepRun.produced", "before"),
    ("flows.gates.rehearsal:ask", "before"),
    ("registry.tracker.versions:Versions.tag", "after"),
    ("registry.book.ledger:Ledger.open", "after"),
    ("registry.tracker.versions:Versions.set_alias", "after"),
    ("registry.tracker.runs:Tracking._decision", "after"),
)
"""Where something has been written and what belongs to it has not, in the order in which a run comes by."""


@pytest.mark.timeout(3600)
def test_a_run_killed_at_every_step_in_turn_ends_as_if_nobody_had(home: Home, undisturbed: Undisturbed) -> None:
    home.put_back()
    for target, when in POINTS:
        home.kill_in(target, when)
    home.to_the_end()
    home.await_nothing_running()
    assert outcome(home) == undisturbed.outcome


@pytest.mark.timeout(7200)
def test_kills_at_random_points_each_end_as_if_nobody_had(
    home: Home, undisturbed: Undisturbed, prefect_url: str, tmp_path: Path
) -> None:
    """Two at a time, each in a home of its own; every fifth with the Prefect server that the command starts for itself."""
    generator = random.Random(2)
    points = [
        ((number + generator.random()) / KILLS * undisturbed.seconds, generator.random() < 0.5, number % 5 == 4)
        for number in range(KILLS)
    ]
    generator.shuffle(points)
    (tmp_path / "second").mkdir()
    homes = (home, make_home(tmp_path / "second", prefect_url))

    def lane(which: int) -> list[tuple[float, Outcome]]:
        found = []
        for seconds, whole_group, own_prefect in points[which::2]:
            mine = replace(homes[which], prefect=None) if own_prefect else homes[which]
            mine.put_back()
            mine.kill(seconds, whole_group=whole_group)
            mine.to_the_end()
            mine.await_nothing_running()
            found.append((seconds, outcome(mine)))
        return found

    with ThreadPoolExecutor(2) as pool:
        outcomes = [one for lane_s in pool.map(lane, range(2)) for one in lane_s]
    assert [(seconds, found) for seconds, found in outcomes if found != undisturbed.outcome] == []
    assert len(outcomes) == KILLS
