"""`evermoe rollout`: a person starts a trial, sees why it holds, moves its share, ends it, and is found in the history."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from commands import main
from evermoe.settings import ROOT, settings
from registry.tracker.versions import Versions

LOADER = ROOT / "tests" / "registry" / "loader.py"


@pytest.fixture(scope="module")
def lived(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with a champion and three versions made from it."""
    home = tmp_path_factory.mktemp("by_hand")
    (home / "home.json").write_text('{"format": 1}')
    weights = home / "model"
    weights.mkdir()
    save_file({"weight": np.arange(6, dtype=np.float32)}, weights / "model.safetensors")
    (weights / "config.json").write_text("{}")
    versions = Versions(f"sqlite:///{home / 'mlflow.db'}", artifacts=home / "artifacts")
    for month, parent in (("2025-05", None), ("2025-06", "1"), ("2025-07", "1"), ("2025-08", "1")):
        versions.register(weights, month=month, parent=parent, run_id=None, loader=LOADER, description=month)
    versions.set_alias("champion", "1")
    return home


@pytest.fixture(autouse=True)
def here(lived: Path) -> Iterator[None]:
    """The home, for this process."""
    before = dict(os.environ)
    os.environ["EVERMOE_HOME"] = str(lived)
    os.environ.pop("EVERMOE_DATABASE_URL", None)
    settings.cache_clear()
    yield
    os.environ.clear()
    os.environ.update(before)
    settings.cache_clear()


def told(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main.run(["rollout", *words]) == 0
    return capsys.readouterr().out


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """The one line of a command that fails."""
    assert main.run(["rollout", *words]) != 0
    said = capsys.readouterr()
    assert said.out == ""
    (line,) = said.err.strip().splitlines()
    return line


def test_a_trial_from_start_to_abort_with_a_reason_for_every_move(capsys: pytest.CaptureFixture[str]) -> None:
    assert "no challenger on trial" in told(capsys, "status")
    assert "no challenger is on trial" in refused(capsys, "share", "0.2", "--reason", "r")
    assert "say why with --reason TEXT" in refused(capsys, "start", "2")
    assert "say why with --reason TEXT" in refused(capsys, "start", "2", "--reason", "  ")
    assert "--by is empty" in refused(capsys, "start", "2", "--reason", "r", "--by", " ")
    assert "version 1 is the champion" in refused(capsys, "start", "1", "--reason", "r")

    said = told(capsys, "start", "2", "--reason", "looks good", "--by", "ann")
    assert "is running: version 2 meets 5% of the units" in said
    assert "next: hold; 0 of 8 rewards at share 0.05" in told(capsys, "status")
    content = json.loads(told(capsys, "status", "--json"))
    assert (content["rollout"]["share"], content["next"]["action"], content["evidence"]["decision"]) == (
        0.05,
        "hold",
        "continue",
    )

    assert "a share of 2 compares nothing" in refused(capsys, "share", "2", "--reason", "r")
    assert "cannot resume" in refused(capsys, "resume", "--reason", "r")
    assert json.loads(told(capsys, "share", "0.2", "--reason", "more", "--json"))["share"] == 0.2
    told(capsys, "pause", "--reason", "[/ops] a holiday", "--by", "bob [sre]")
    assert "next: hold; paused; undecided" in told(capsys, "status")
    told(capsys, "resume", "--reason", "back again", "--by", "bob")
    assert "is aborted, the challenger's share 0%" in told(capsys, "abort", "--reason", "odd answers", "--by", "bob")

    rows = json.loads(told(capsys, "history", "--json"))["decisions"]
    assert [(row["action"], row["reason"]) for row in rows] == [
        ("open", "looks good"),
        ("share", "more"),
        ("pause", "[/ops] a holiday"),
        ("resume", "back again"),
        ("abort", "odd answers"),
    ]
    assert (rows[0]["by"], rows[-1]["by"]) == ("ann", "bob")
    table = told(capsys, "history")
    assert "odd answers" in table
    assert "bob [sre]" in table
    assert "the audit chain is whole" in table
    assert "was tried against version 1 before" in refused(capsys, "start", "2", "--reason", "once more")


def test_several_versions_are_started_together_and_each_is_steered_by_its_name(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert "was tried against version 1 before" in refused(capsys, "start", "2", "3", "--reason", "r")
    assert "version 1 is the champion" in refused(capsys, "start", "3", "1", "--reason", "r")
    said = told(capsys, "start", "3", "4", "--reason", "two candidates", "--by", "ann")
    assert "rollout 2025-08-v3-v4-against-v1 is running: versions 3 and 4 meet 10% of the units" in said
    assert "next: hold; 0 of 16 rewards at these shares" in told(capsys, "status")
    assert "2 versions are on trial; say whose share it is: 3 or 4" in refused(capsys, "share", "0.2", "--reason", "r")
    assert "shares: 3 20%, 4 5%" in told(capsys, "share", "0.2", "3", "--reason", "more of it")
    content = json.loads(told(capsys, "status", "--json"))
    assert [(one["version"], one["share"], one["out"]) for one in content["rollout"]["challengers"]] == [
        ("3", 0.2, ""),
        ("4", 0.05, ""),
    ]
    assert (content["rollout"]["challenger"], content["rollout"]["share"]) == ("3", 0.25)
    assert [one["evidence"]["decision"] for one in content["arms"]] == ["continue", "continue"]
    assert "2 versions are on trial; say which to promote: 3 or 4" in refused(capsys, "promote", "--reason", "r")
    assert "shares: 3 out, 4 5%" in told(capsys, "abort", "3", "--reason", "odd answers", "--by", "bob")
    shown = told(capsys, "status")
    assert "version 4 meets 5% of the units" in shown
    assert "odd answers" in shown
    assert "is not on trial" in refused(capsys, "promote", "3", "--reason", "r")
    assert "is promoted" in told(capsys, "promote", "--reason", "the other one", "--by", "bob")
    assert "version 1 answers everyone again" in told(
        capsys, "revert", "--reason", "it was the wrong one", "--by", "bob"
    )
    assert "cannot revert" in refused(capsys, "revert", "--reason", "r")
    assert json.loads(told(capsys, "status", "--json"))["champion"] == "1"
    rows = json.loads(told(capsys, "history", "--json"))["decisions"][-5:]
    assert [(row["action"], row["shares"]["3"]) for row in rows] == [
        ("open", 0.05),
        ("share", 0.2),
        ("drop", 0.0),
        ("promote", 0.0),
        ("revert", 0.0),
    ]
    assert "0 units gave feedback in this rollout" in refused(capsys, "replay")
    assert "the audit chain is whole" in told(capsys, "history")


@pytest.mark.parametrize(
    "verb", ["start", "status", "share", "pause", "resume", "promote", "abort", "revert", "history"]
)
def test_every_verb_explains_itself(capsys: pytest.CaptureFixture[str], verb: str) -> None:
    said = told(capsys, verb, "--help")
    assert "--json" in said
    if verb not in ("status", "history"):
        assert "audit log" in said
