"""The three flows on a small real platform: a base, a month with a new label, its challenger, the evidence, the promotion."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import mlflow
import mlflow.pyfunc
import pytest
import yaml

from evermoe.errors import BadInput
from evermoe.months import end_of, month_of, start_of
from evermoe.settings import ROOT, settings
from flows.runtime.parts import Parts, open_parts
from flows.runtime.progress import listening
from monitoring.events import Feedback
from tests.flows.lived import log, told_at
from tests.monitoring.rows_for_tests import a_request

NOUNS = {
    "net.switch": ["vlan", "port", "route", "trunk", "switch", "uplink"],
    "db.sql": ["table", "index", "query", "row", "column", "schema"],
    "web.page": ["button", "form", "menu", "banner", "footer", "header"],
}
VERBS = ["fix", "add", "remove", "rename", "document", "test", "speed up", "deprecate"]
WAYS = ["option", "default", "check", "message", "limit"]
OLD = ("net.switch", "db.sql")

SMALL = {
    "model": {
        "vocab_size": 400,
        "hidden_size": 32,
        "layers": 2,
        "heads": 2,
        "experts": 8,
        "experts_per_token": 2,
        "fewest_per_token": 1,
        "most_per_token": 4,
        "experts_at_first": 4,
        "expert_size": 16,
        "shared_expert_size": 16,
        "max_length": 32,
        "token_dropout": 0.0,
    },
    "base": {"epochs": 6, "min_steps": 0, "batch_size": 32, "learning_rate": 1.0e-2},
    "update": {"epochs": 6, "distil_epochs": 6, "learning_rate": 5.0e-3, "distil_learning_rate": 5.0e-3},
    "gates": {"calibration_error": 0.9, "latency_ratio": 20.0, "past_month_loss": 50.0, "past_average_loss": 30.0},
    "rollout": {"shares": [0.5], "min_rewards_per_step": 1},
}


def texts(*labels: str) -> Iterator[tuple[str, str]]:
    """(text, label), the labels in turn, none twice."""
    of_label = {
        label: [f"{verb} the {noun} {way}" for verb, noun, way in itertools.product(VERBS, NOUNS[label], WAYS)]
        for label in labels
    }
    for group in zip(*of_label.values(), strict=True):
        yield from zip(group, of_label, strict=True)


def write_params(folder: Path, **changes: dict[str, object]) -> Path:
    """The project's params.yaml with a small model, and these changes."""
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    for section, values in (*SMALL.items(), *changes.items()):
        params[section] |= values
    file = folder / "params.yaml"
    file.write_text(yaml.safe_dump(params))
    return file


def write_stream(folder: Path) -> Path:
    """Records of two labels from January to May 2025."""
    stream = folder / "stream.jsonl"
    first = datetime(2025, 1, 2, tzinfo=UTC)
    with stream.open("w") as file:
        for number, (text, label) in enumerate(texts(*OLD)):
            at = first + timedelta(hours=7 * number)
            file.write(json.dumps({"at": at.isoformat(), "text": text, "label": label}) + "\n")
    return stream


@dataclass
class Platform:
    """A home with a champion, and the means to ask and tell it."""

    parts: Parts
    folder: Path
    asked: int = 0

    def ask(
        self,
        at: datetime,
        text: str,
        label: str,
        answer: str,
        tell: bool = True,
        thumb: bool = False,
        unit: str | None = None,
    ) -> None:
        """One request as the gateway would log it, with its feedback an hour later: the right label, or a thumb alone."""
        self.asked += 1
        id = log(self.parts, self.asked, at, text, unit, answer, label)
        if thumb:
            self.parts.events.record(Feedback(f"told-{id}", id, told_at(at), float(label == answer), None))
        elif tell:
            self.parts.events.record(Feedback(f"told-{id}", id, told_at(at), None, label))


@pytest.fixture(scope="module")
def prefect() -> Iterator[None]:
    from prefect.testing.utilities import prefect_test_harness

    with prefect_test_harness(server_startup_timeout=120):
        yield


@pytest.fixture(scope="module")
def platform(prefect: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    """A base that learned two labels from January to May, and a June in which most users ask about a third."""
    from flows.base import base

    folder = tmp_path_factory.mktemp("platform")
    stream = write_stream(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EVERMOE_HOME", str(folder / "home"))
        patch.setenv("EVERMOE_PARAMS", str(write_params(folder)))
        patch.setattr("flows.gates.exams.TIMED_TEXTS", 3)
        settings.cache_clear()
        assert base("files", str(stream), "2025-06") == "1"
        with open_parts() as parts:
            found = Platform(parts, folder)
            begin = start_of("2025-06") + timedelta(days=1)
            for number, (text, label) in enumerate(itertools.islice(texts(*OLD, "web.page"), 240)):
                if label == "web.page" or number % 2:
                    found.ask(begin + timedelta(hours=2.5 * number), text, label, answer="db.sql")
            for number, (text, label) in enumerate(itertools.islice(texts(*OLD), 240, 280)):
                found.ask(
                    begin + timedelta(hours=10 * number), text, label, answer="db.sql", tell=False, thumb=number % 4 > 0
                )
            yield found
    settings.cache_clear()


def runs_of(parts: Parts, month: str) -> dict[str, list]:  # type: ignore[type-arg]
    """The runs below a month's run, by their kind."""
    found: dict[str, list] = {}  # type: ignore[type-arg]
    parent = parts.tracking.month_run(month)
    for run in parts.tracking.client.search_runs(
        [parts.tracking.experiment], f"tags.`mlflow.parentRunId` = '{parent}'"
    ):
        found.setdefault(run.data.tags["evermoe.kind"], []).append(run)
    return found


def test_the_base_is_version_1_and_champion_and_is_made_once(platform: Platform) -> None:
    from flows.base import base

    version = platform.parts.versions.champion()
    assert version is not None
    assert (version.version, version.tags["evermoe.learned"]) == ("1", "base")
    assert "2 labels" in version.description
    assert base("files", str(platform.folder / "stream.jsonl"), "2025-06") == "1"
    assert len(platform.parts.versions.all()) == 1


def test_drift_is_seen_reported_and_announced_once(platform: Platform) -> None:
    from flows.drift import drift

    seen = drift(end_of("2025-06"))
    assert (seen.verdict.drifted, seen.announced) == (True, True)
    (run,) = runs_of(platform.parts, "2025-06")["drift"]
    assert run.data.tags["evermoe.drifted"] == "true"
    assert "label" in run.data.tags["evermoe.reasons"]
    files = platform.parts.tracking.client.list_artifacts(run.info.run_id)
    assert [file.path for file in files] == ["drift.html"]
    assert drift(end_of("2025-06")).verdict == seen.verdict
    assert len(runs_of(platform.parts, "2025-06")["drift"]) == 1


class PowerCutError(Exception):
    """In the middle of a step."""


def test_an_update_that_was_killed_goes_on_from_its_checkpoints(
    platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    from flows.monthly import monthly

    monkeypatch.setenv("EVERMOE_CHECKPOINT_EVERY", "10")
    settings.cache_clear()
    reported: list[tuple[str, int]] = []

    def cut(what: str, done: int, of: int) -> None:
        if (what, done) == ("distil 2025-06", 25):
            raise PowerCutError

    with listening(cut), pytest.raises(PowerCutError):
        monthly("2025-06", end_of("2025-06"))
    trainings = settings().home / "trainings"
    assert {place.name for place in trainings.iterdir()} == {"2025-06-from-1-new", "2025-06-from-1-challenger"}
    (trainings / "2025-05-from-1-new").mkdir()  # of an update that was given up
    with listening(lambda what, done, of: reported.append((what, done))):
        assert monthly("2025-06", end_of("2025-06")) == "2"
    assert reported[0] == ("distil 2025-06", 21)
    assert not trainings.exists()
    settings.cache_clear()


def test_a_month_becomes_a_challenger_on_trial_with_its_lineage(platform: Platform) -> None:
    from flows.monthly import monthly

    parts, now = platform.parts, end_of("2025-06")
    assert monthly("2025-06", now) == "2"
    version, snapshot = parts.versions.get("2"), parts.snapshots.get("2025-06")
    assert (version.parent, version.aliases, version.tags["evermoe.gates"]) == ("1", ("challenger",), "passed"), (
        version.tags.get("evermoe.gates_failed")
    )
    assert version.tags["evermoe.learned"] == "base,2025-06"
    assert json.loads(version.tags["evermoe.dvc"])["2025-06"] == snapshot.md5
    assert "New labels: web.page" in version.description
    steps = runs_of(parts, "2025-06")
    assert set(steps) == {"drift", "snapshot", "train", "distil", "align", "gates", "rollout"}
    (dataset,) = steps["snapshot"][0].inputs.dataset_inputs
    assert (dataset.dataset.name, dataset.dataset.digest) == ("snapshot-2025-06", snapshot.md5)
    for kind in ("train", "distil"):
        curve = [p.value for p in parts.tracking.client.get_metric_history(steps[kind][0].info.run_id, "loss")]
        assert len(curve) > 20
        assert sum(curve[-10:]) < sum(curve[:10])
    plan = parts.ledger.plan()
    assert plan is not None
    assert (plan.champion, plan.challenger, plan.share) == ("1", "2", 0.5)


def test_the_same_month_again_makes_no_second_version_and_no_second_rollout(platform: Platform) -> None:
    from flows.drift import drift
    from flows.monthly import monthly

    assert monthly("2025-06", end_of("2025-06")) == "2"
    assert len(platform.parts.versions.all()) == 2
    assert [row.action for row in platform.parts.ledger.history()] == ["open"]
    assert drift(end_of("2025-06")).announced is False  # it would start an update that is already on trial


def test_feedback_where_the_arms_differ_promotes_the_challenger(platform: Platform) -> None:
    from flows.rollout import rollout

    parts, begin = platform.parts, end_of("2025-06")
    asked = itertools.islice(texts("web.page"), 60)
    for number, (text, label) in enumerate(asked):
        platform.ask(begin + timedelta(hours=number), text, label, answer="db.sql")
    early = rollout(begin + timedelta(hours=3))
    assert early is not None
    assert early.action == "hold"
    decision = rollout(begin + timedelta(days=4))
    assert decision is not None
    assert decision.action == "promote", decision.reason
    champion = parts.versions.champion()
    assert champion is not None
    assert (champion.version, parts.versions.challenger()) == ("2", None)
    last = parts.ledger.history()[-1]
    assert (last.action, last.by) == ("promote", "flow rollout")
    assert last.evidence["rewards_challenger"] > 5
    assert parts.ledger.verify().ok
    assert rollout(begin + timedelta(days=5)) is None


def test_a_month_that_the_champion_has_learned_is_not_learned_again_and_that_is_said(platform: Platform) -> None:
    from flows.gates.checks import stopped
    from flows.monthly import monthly

    assert monthly("2025-06", end_of("2025-06") + timedelta(days=5)) is None
    (why,) = stopped(platform.parts, "2025-06")
    assert why["reason"] == "version 2 has learned 2025-06; there is nothing new to learn"


def test_mlflow_alone_loads_and_asks_the_champion(platform: Platform) -> None:
    mlflow.set_tracking_uri(settings().tracking_uri)
    try:
        champion = mlflow.pyfunc.load_model("models:/evermoe@champion")
        answers = champion.predict(["fix the vlan option", "fix the menu option"])
    finally:
        mlflow.set_tracking_uri(None)  # type: ignore[arg-type]
    assert [answer.label for answer in answers] == ["net.switch", "web.page"]
    assert all(0.5 < answer.score <= 1 for answer in answers)


def test_a_month_in_which_nobody_told_anything_makes_no_version_and_says_why(platform: Platform) -> None:
    from prefect.client.orchestration import get_client

    from flows.monthly import monthly

    assert monthly("2025-05", end_of("2025-05")) is None
    with get_client(sync_client=True) as client:
        notes = [artifact.data for artifact in client.read_artifacts() if artifact.key == "update-2025-05"]
    assert "too few" in notes[0]


def test_a_month_of_one_label_is_learned_like_any_other_and_a_failed_gate_keeps_it_from_users(
    platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    from flows.monthly import monthly

    strict = write_params(platform.folder, gates={**SMALL["gates"], "new_month_gain": 101.0})
    monkeypatch.setenv("EVERMOE_PARAMS", str(strict))
    begin = start_of("2025-10")
    for number, (text, label) in enumerate(itertools.islice(texts("web.page"), 100, 200)):
        platform.ask(begin + timedelta(hours=number), f"please {text}", label, answer=label)
    assert month_of(begin + timedelta(hours=101)) == "2025-10"
    made = monthly("2025-10", end_of("2025-10"))
    assert made is not None
    version = platform.parts.versions.get(made)
    assert (version.tags["evermoe.gates"], version.aliases) == ("failed", ())
    assert "needs +101.0 **(failed)**" in version.description
    assert platform.parts.ledger.running() is None


def test_months_that_ended_while_nothing_ran_are_frozen_before_the_one_that_is_learned(platform: Platform) -> None:
    from flows.drift import month_to_learn
    from flows.monthly import monthly

    parts = platform.parts
    for month, skipped in (("2025-11", 200), ("2025-12", 216)):
        for number, (text, label) in enumerate(itertools.islice(texts("db.sql"), skipped, skipped + 16)):
            platform.ask(start_of(month) + timedelta(hours=number), text, label, answer=label)
    early = end_of("2025-11") + timedelta(hours=5)
    assert month_to_learn(parts, early) == "2025-11"  # what the calendar will learn at six, not five hours of December
    assert monthly("2025-12", end_of("2025-12")) is not None
    assert {"2025-11", "2025-12"} <= set(parts.snapshots.names())
    assert len(parts.snapshots.load("2025-11")) == 16
    assert month_to_learn(parts, early) == "2025-12"


def test_a_version_that_the_real_server_cannot_load_meets_no_user(platform: Platform) -> None:
    from flows.gates.rehearsal import rehearse

    parts = platform.parts
    champion = parts.versions.champion()
    assert champion is not None
    assert rehearse(parts, champion).passed
    weights = parts.versions.weights(champion.version) / "model.safetensors"
    whole = weights.read_bytes()
    try:
        weights.write_bytes(whole[: len(whole) // 2])
        gate = rehearse(parts, champion)
    finally:
        weights.write_bytes(whole)
    assert not gate.passed
    assert "does not answer" in gate.reason
    assert "\n" not in gate.reason


def test_a_version_that_the_real_server_could_not_be_asked_about_is_asked_again(
    platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    from flows.monthly import REHEARSED, answers, examined
    from model import Gate

    versions = platform.parts.versions
    said = [Gate("real server", True, 5.0, 5.0, ""), Gate("real server", False, 0.0, 5.0, "No space left on device")]
    monkeypatch.setattr("flows.monthly.rehearse", lambda parts, version: said.pop())
    versions.tag("2", {REHEARSED: ""})
    assert not answers.fn(platform.parts, versions.get("2"), "2025-06")  # type: ignore[attr-defined]
    failed = versions.get("2")
    assert (failed.tags["evermoe.gates"], examined(failed)) == ("failed", "passed")
    assert "No space left" in failed.tags["evermoe.gates_failed"]
    assert answers.fn(platform.parts, failed, "2025-06")  # type: ignore[attr-defined]
    passed = versions.get("2")
    assert (passed.tags["evermoe.gates"], passed.tags["evermoe.gates_failed"]) == ("passed", "")


def test_a_challenger_whose_parent_was_replaced_while_it_was_trained_is_not_put_on_trial(platform: Platform) -> None:
    from flows.gates.trial import put_on_trial

    parts = platform.parts
    untried = parts.versions.all()[-1]
    orphan = replace(untried, month="2026-01", parent="1")  # and the champion is version 2
    put_on_trial.fn(parts, orphan, end_of("2026-01"))  # type: ignore[attr-defined]
    assert parts.ledger.find("2026-01", "1") is None
    assert "replaced 1 meanwhile" in parts.versions.get(untried.version).tags["evermoe.rollout"]


def test_a_month_to_come_is_refused_and_nothing_is_frozen(platform: Platform) -> None:
    from flows.monthly import monthly

    before = platform.parts.snapshots.names()
    with pytest.raises(BadInput, match="2026-06 has not begun; the last month that is over is 2025-10"):
        monthly("2026-06", start_of("2025-11") + timedelta(days=3))
    assert platform.parts.snapshots.names() == before


def test_of_chats_nothing_is_learned(platform: Platform) -> None:
    from flows.drift import month_to_learn
    from flows.snapshots.freezing import freeze, unfrozen

    parts, at = platform.parts, start_of("2026-02") + timedelta(days=1)
    for number in range(3):
        parts.events.record(a_request(f"chat-{number}", at=at, kind="chat", output="Roses are red"))
        parts.events.record(Feedback(f"liked-{number}", f"chat-{number}", at + timedelta(hours=1), 1.0, None))
    assert "2026-02" not in unfrozen(parts, "2026-03")
    assert month_to_learn(parts, start_of("2026-03") + timedelta(days=9)) == "2026-03"
    assert freeze.fn(parts, "2026-02", end_of("2026-02")) is None  # type: ignore[attr-defined]


def test_the_real_server_finds_the_home_from_any_folder(platform: Platform, monkeypatch: pytest.MonkeyPatch) -> None:
    from flows.gates.rehearsal import ask, gateway

    (platform.folder / "commands").mkdir()  # of the user's, and none of ours
    monkeypatch.chdir(platform.folder)
    monkeypatch.setenv("EVERMOE_HOME", "home")
    with gateway("1") as url:
        assert ask(url, "fix the table") in OLD


def test_a_challenger_that_waited_for_a_trial_is_tried_when_that_ends_and_its_champion_stays(
    platform: Platform,
) -> None:
    from flows.gates.trial import put_on_trial
    from flows.lineage.candidate import LOADER
    from flows.rollout import rollout
    from registry.actions.controls import Controls
    from registry.rollout import Decision, Policy, new_rollout

    parts, now = platform.parts, end_of("2026-03")
    champion = parts.versions.champion()
    assert champion is not None
    folder = parts.versions.weights(champion.version)
    older, newer = (
        parts.versions.register(
            folder, month=month, parent=champion.version, run_id=None, loader=LOADER, description=""
        )
        for month in ("2026-02", "2026-03")
    )
    controls = Controls(parts.ledger, parts.versions, parts.tracking)
    opened = controls.open(
        new_rollout("older", "2026-02", champion.version, older.version, "a salt", Policy(), now), by="a person"
    )
    controls.ledger.apply(opened.id, Decision("pause", opened.share, "wait for Ann"), "a person", now)
    put_on_trial.fn(parts, newer, now)  # type: ignore[attr-defined]
    assert parts.versions.get(newer.version).tags["evermoe.rollout"] == "paused; the challenger of 2026-03 waits"
    rollout(now + timedelta(minutes=10))
    running = parts.ledger.running()
    assert running is not None
    assert running.id == opened.id

    parts.ledger.apply(opened.id, Decision("abort", 0.0, "Ann says no"), "a person", now + timedelta(minutes=15))
    between = new_rollout("between", "2026-01", champion.version, older.version, "salt between", Policy(), now)
    controls.open(between, by="a person")  # before anyone has looked
    parts.ledger.apply("between", Decision("abort", 0.0, "no"), "a person", now + timedelta(minutes=16))
    for minutes in (20, 30):
        rollout(now + timedelta(minutes=minutes))
        running = parts.ledger.running()
        assert running is not None
        assert (running.challenger, running.champion, running.month) == (newer.version, champion.version, "2026-03")
    assert [(row.action, row.by) for row in parts.ledger.history(running.id)] == [("open", "flow rollout")]
    assert parts.ledger.verify().ok

    champion_now, waiting = (
        running,
        parts.versions.register(
            folder, month="2026-04", parent=champion.version, run_id=None, loader=LOADER, description="2026-04"
        ),
    )
    parts.ledger.apply(running.id, Decision("pause", running.share, "wait"), "a person", now + timedelta(minutes=31))
    put_on_trial.fn(parts, waiting, now + timedelta(minutes=32))  # type: ignore[attr-defined]
    parts.ledger.apply(running.id, Decision("promote", 1.0, "Ann likes it"), "a person", now + timedelta(minutes=33))
    assert rollout(now + timedelta(minutes=40)) is None
    assert parts.ledger.running() is None
    told = parts.versions.get(waiting.version)
    assert told.tags["evermoe.rollout"] == (
        f"version {champion_now.challenger} replaced {champion.version} meanwhile; the next update learns 2026-04 anew"
    )
    assert "evermoe.waits_for" not in told.tags


def test_a_version_that_was_tried_with_others_is_not_tried_again(platform: Platform) -> None:
    from flows.gates.trial import put_on_trial
    from flows.lineage.candidate import LOADER
    from registry.actions.controls import Controls
    from registry.rollout import Decision, Policy, new_rollout

    parts, now = platform.parts, end_of("2026-06")
    champion = parts.versions.champion()
    assert champion is not None
    folder = parts.versions.weights(champion.version)
    older, newer, apart = (
        parts.versions.register(
            folder, month=month, parent=champion.version, run_id=None, loader=LOADER, description=month
        )
        for month in ("2026-05", "2026-06", "2026-07")
    )
    both = new_rollout("both", "2026-06", champion.version, (older.version, newer.version), "salt", Policy(), now)
    Controls(parts.ledger, parts.versions, parts.tracking).open(both, by="a person")
    parts.ledger.apply("both", Decision("abort", 0.0, "bad, both"), "a person", now)
    for one in (older, newer):
        put_on_trial.fn(parts, one, now)  # type: ignore[attr-defined]
    assert parts.ledger.running() is None
    other = replace(apart, month="2026-06")  # of the month that the two were tried for
    put_on_trial.fn(parts, other, now)  # type: ignore[attr-defined]
    assert parts.ledger.running() is None
    assert parts.versions.get(apart.version).tags["evermoe.rollout"].startswith("rollout both of 2026-06 tried other")
