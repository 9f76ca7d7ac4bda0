"""Four poisoned months on the small real platform: each is stopped by a check that is named, and the champion stays."""

from __future__ import annotations

import itertools
import json
import os
import random
from datetime import timedelta

import pytest

from commands import main
from evermoe.months import end_of, start_of
from evermoe.settings import settings
from flows.gates.overrides import Override, overridden
from flows.runtime.parts import Parts
from tests.flows.test_loop import NOUNS, OLD, SMALL, Platform, platform, prefect, runs_of, texts, write_params

__all__ = ["platform", "prefect"]

FLIPPED, FOREIGN, EMPTY, LOUD = "2025-07", "2025-08", "2025-04", "2025-09"
FRENCH = {noun: f"{noun[::-1]}ement" for nouns in NOUNS.values() for noun in nouns}
ADA = Override(("one unit",), "Ada", "it is our own test team")


def live(platform: Platform, month: str) -> None:
    """The users of a poisoned month."""
    generator = random.Random(7)
    for number, (text, label) in enumerate(itertools.islice(texts(*OLD), 120)):
        told, asked, unit = label, text, None
        if month == FLIPPED and generator.random() < 0.3:
            told = next(other for other in OLD if other != label)
        if month == FOREIGN:
            noun = next(noun for noun in FRENCH if noun in text)
            asked = f"il faut corriger le {FRENCH[noun]} du {text.split()[0][::-1]}eur"
        if month == LOUD and number % 2:
            unit = "loud"
        platform.ask(start_of(month) + timedelta(hours=5 * number), asked, told, answer=label, unit=unit)


def tags_of(parts: Parts, month: str) -> dict[str, str]:
    """The tags of a month's run `gates`."""
    (run,) = runs_of(parts, month)["gates"]
    return dict(run.data.tags)


@pytest.mark.parametrize(
    ("month", "check"), [(FLIPPED, "label noise"), (FOREIGN, "language"), (LOUD, "one unit"), (EMPTY, "enough rows")]
)
def test_a_poisoned_month_is_stopped_by_its_check_and_the_champion_stays(
    platform: Platform, month: str, check: str
) -> None:
    from prefect.client.orchestration import get_client

    from flows.gates.checks import stopped
    from flows.monthly import monthly

    parts = platform.parts
    if month != EMPTY:
        live(platform, month)
    assert monthly(month, end_of(month)) is None
    assert [version.version for version in parts.versions.all()] == ["1"]
    assert parts.versions.all()[0].aliases == ("champion",)
    told = {one["check"]: one["reason"] for one in stopped(parts, month)}
    assert check in told
    assert tags_of(parts, month)[f"evermoe.check.{check.replace(' ', '_')}"] == told[check]
    (run,) = runs_of(parts, month)["gates"]
    assert "checks.html" in {file.path for file in parts.tracking.client.list_artifacts(run.info.run_id)}
    assert "The champion stays" in run.data.tags["mlflow.note.content"]
    with get_client(sync_client=True) as client:
        (said,) = {artifact.data for artifact in client.read_artifacts() if artifact.key == f"update-{month}"}
    assert f"**{check}**" in said


def test_the_command_says_which_check_stopped_the_month(
    platform: Platform, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "environ", os.environ.copy())
    words = ["update", FLIPPED, "--home", str(settings().home), "--now", end_of(FLIPPED).isoformat()]
    assert main.run(words) == 0
    assert "no update; the champion stays\n  label noise: of the month's labels" in capsys.readouterr().out
    assert main.run([*words, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["version"], [one["check"] for one in said["stopped_by"]]) == (None, ["label noise"])


def test_a_signed_override_lets_the_month_be_learned_and_other_poisoned_months_stay_out(
    platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    from flows.monthly import monthly

    parts = platform.parts
    strict = write_params(platform.folder, gates={**SMALL["gates"], "new_month_gain": 101.0})
    monkeypatch.setenv("EVERMOE_PARAMS", str(strict))
    assert monthly(LOUD, end_of(LOUD), ADA) == "2"
    version = parts.versions.get("2")
    assert version.tags["evermoe.learned"] == f"base,2025-06,{LOUD}"
    assert tags_of(parts, LOUD)["evermoe.check.one_unit"].startswith("overridden by Ada (it is our own test team)")
    assert tags_of(parts, LOUD)["evermoe.left_out"].startswith(f"{FLIPPED}: label noise: ")
    assert [(one["names"], one["by"]) for one in overridden(version)] == [(["one unit"], "Ada")]
    assert (version.tags["evermoe.gates"], parts.ledger.running()) == ("failed", None)


def test_a_failed_gate_shows_its_examples_in_mlflow(platform: Platform) -> None:
    (run,) = runs_of(platform.parts, LOUD)["gates"]
    client = platform.parts.tracking.client
    assert {"gates.md", "gates.html"} <= {file.path for file in client.list_artifacts(run.info.run_id)}
    assert "needs +101.0" in run.data.tags["evermoe.gate.new_month"]
    assert "challenger.slice.short texts" in run.data.metrics


def test_an_override_of_the_failed_gate_puts_the_version_on_trial_without_training_it_again(platform: Platform) -> None:
    from flows.monthly import monthly

    parts = platform.parts
    bob = Override(("new month", "memory"), "Bob", "the new label matters more")
    assert monthly(LOUD, end_of(LOUD), Override(("memory",), "Bob", "it is small")) == "2"
    assert parts.versions.get("2").tags["evermoe.gates"] == "failed"  # memory did not fail, and is no reason to go on
    assert monthly(LOUD, end_of(LOUD), bob) == "2"
    version = parts.versions.get("2")
    assert (version.tags["evermoe.gates"], version.aliases) == ("overridden", ("challenger",))
    assert [(one["names"], one["by"]) for one in overridden(version)] == [(["one unit"], "Ada"), (["new month"], "Bob")]
    assert len(parts.versions.all()) == 2
    (opened,) = parts.ledger.history()
    assert opened.evidence["overrides"] == overridden(version)
    assert tags_of(parts, LOUD)["evermoe.gate.server"] == "passed"
    assert monthly(LOUD, end_of(LOUD), bob) == "2"  # once more changes nothing
    assert len(overridden(parts.versions.get("2"))) == 2
