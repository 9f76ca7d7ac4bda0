"""Bad input, on every verb that takes some: one clear line on stderr, a status that says it failed, and nothing changed."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from commands import main
from commands.processes import in_use
from evermoe.settings import settings


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty folder to stand in; whatever a command sets in the environment goes again."""
    before = dict(os.environ)
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith(("EVERMOE_", "PREFECT_"))]:
        monkeypatch.delenv(name)
    yield tmp_path
    os.environ.clear()
    os.environ.update(before)
    settings.cache_clear()


def rows(folder: Path, name: str, days: int = 200, label: str = "a,b") -> Path:
    """A CSV of a row a day from 2025-01-01 on, its labels in turn; no label column where `label` is empty."""
    labels = label.split(",")
    lines = ["at,text,label" if label else "at,text"]
    for day in range(days):
        at = (datetime(2025, 1, 1) + timedelta(days=day)).isoformat()
        lines.append(f"{at},text number {day}" + (f",{labels[day % len(labels)]}" if label else ""))
    file = folder / name
    file.write_text("\n".join(lines) + "\n")
    return file


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """Run a command that must fail; the one line it says."""
    assert main.run(words) != 0
    said = capsys.readouterr()
    assert said.out == ""
    (line,) = said.err.strip().splitlines()
    assert line.startswith("evermoe: ")
    assert "unexpected" not in line
    return line


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "the file is empty"),
        (b"\n\n", "no rows"),
        (b"at,text,label\n", "no"),
        (b"\xff\xfea\x00", "UTF-16"),
        (b"colour,size\nred,1\n", "column"),
        (b"at,text,label\nnever,hello,a\n", "line 2"),
    ],
)
def test_a_file_that_holds_nothing_usable_is_named(
    capsys: pytest.CaptureFixture[str], here: Path, content: bytes, why: str
) -> None:
    (here / "bad.csv").write_bytes(content)
    line = refused(capsys, "demo", "--stream", "files", "--path", "bad.csv", "--home", "home")
    assert "bad.csv" in line
    assert why in line
    assert not (here / "home").exists()


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["--stream", "files", "--path", "none.csv"], "none.csv: no such file"),
        (["--stream", "files", "--path", "."], "a directory"),
        (["--stream", "files"], "needs --path"),
        (["--stream", "git", "--path", "."], "not a git repository"),
        (["--stream", "nope"], "no stream is called 'nope'"),
        (["--months", "0"], "--months"),
        (["--nope"], "No such option: --nope"),
    ],
)
def test_a_demo_that_cannot_begin_says_why(capsys: pytest.CaptureFixture[str], words: list[str], why: str) -> None:
    assert why in refused(capsys, "demo", "--home", "home", *words)


def test_a_stream_with_one_label_none_or_one_month_is_no_demo(capsys: pytest.CaptureFixture[str], here: Path) -> None:
    demo = ("demo", "--stream", "files", "--home", "home", "--path")
    assert "only the label 'a'" in refused(capsys, *demo, str(rows(here, "one.csv", label="a")))
    assert "no labelled record" in refused(capsys, *demo, str(rows(here, "none.csv", label="")))
    assert "only 2025-01" in refused(capsys, *demo, str(rows(here, "month.csv", days=20)))
    many = str(rows(here, "many.csv"))
    assert "it spans 2025-01 to 2025-07" in refused(capsys, *demo, many, "--start", "2031-01")
    assert "'June' is not a month" in refused(capsys, *demo, many, "--start", "June")
    assert not (here / "home").exists()


def test_a_home_of_a_newer_version_is_left_alone(capsys: pytest.CaptureFixture[str], here: Path) -> None:
    (here / "home").mkdir()
    (here / "home" / "home.json").write_text(json.dumps({"format": 99}))
    for words in (["demo"], ["up"], ["serve"], ["drift"], ["update"], ["rollout", "status"]):
        assert "format 99 is newer" in refused(capsys, *words, "--home", "home")
    assert [entry.name for entry in (here / "home").iterdir()] == ["home.json"]


def test_a_demo_does_not_play_in_a_home_with_something_else_in_it(
    capsys: pytest.CaptureFixture[str], here: Path
) -> None:
    (here / "home").mkdir()
    (here / "home" / "thesis.txt").write_text("years of work")
    file = rows(here, "many.csv")
    line = refused(capsys, "demo", "--home", "home", "--stream", "files", "--path", str(file))
    assert "thesis.txt" in line
    assert [entry.name for entry in (here / "home").iterdir()] == ["thesis.txt"]


def test_a_demo_does_not_mix_with_rows_that_are_in_a_shared_database(
    capsys: pytest.CaptureFixture[str], here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from monitoring.events import EventLog
    from tests.monitoring.rows_for_tests import a_request

    url = f"sqlite:///{here / 'shared.db'}"
    with EventLog(url) as events:
        events.record(a_request())
    monkeypatch.setenv("EVERMOE_DATABASE_URL", url)
    line = refused(capsys, "demo", "--home", "home", "--stream", "files", "--path", str(rows(here, "many.csv")))
    assert "EVERMOE_DATABASE_URL holds requests, rollouts or API keys" in line
    assert not (here / "home").exists()


def test_a_home_in_use_is_neither_moved_away_nor_served_twice(capsys: pytest.CaptureFixture[str], here: Path) -> None:
    (here / "home").mkdir()
    (here / "home" / "demo.started").write_text("")
    with in_use(here / "home"):
        line = refused(capsys, "demo", "--home", "home", "--stream", "files", "--path", str(rows(here, "many.csv")))
    assert "in use by another" in line
    assert (here / "home" / "demo.started").exists()


@pytest.mark.parametrize("words", [["up"], ["serve"], ["drift"], ["update"], ["rollout", "status"]])
def test_without_a_home_every_verb_says_what_makes_one(
    capsys: pytest.CaptureFixture[str], here: Path, words: list[str]
) -> None:
    assert "`evermoe demo`" in refused(capsys, *words, "--home", "home")
    assert not (here / "home").exists()


def test_times_and_months_that_are_none_are_told_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    assert "--now: cannot read the date 'soon'" in refused(capsys, "drift", "--now", "soon")
    assert "is out of range" in refused(capsys, "drift", "--now", "9999-12-31T23:00:00-05:00")
    assert "'2025-13' is not a month" in refused(capsys, "update", "2025-13")


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (
            ["--override", "nonsense", "--by", "Ada", "--reason", "why not"],
            "no gate or check is called 'nonsense'; there are: ",
        ),
        (["--override", "new month", "--reason", "why not"], "--by NAME"),
        (["--override", "new month", "--by", " ", "--reason", "why not"], "--by NAME"),
        (["--override", "new month", "--by", "Ada"], "--reason TEXT"),
        (["--override", "real server", "--by", "Ada", "--reason", "why not"], "'real server' cannot be overridden"),
        (["--by", "Ada", "--reason", "why not"], "name what is overridden"),
    ],
)
def test_an_override_names_a_gate_and_is_signed_with_a_reason(
    capsys: pytest.CaptureFixture[str], words: list[str], why: str
) -> None:
    assert why in refused(capsys, "update", "2025-06", *words)


@pytest.mark.parametrize("words", [["up"], ["serve"]])
def test_an_mlflow_server_that_is_not_there_is_named(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, words: list[str]
) -> None:
    monkeypatch.setenv("EVERMOE_MLFLOW_URI", "http://127.0.0.1:9")
    assert "no MLflow server answers at http://127.0.0.1:9" in refused(capsys, *words)


def test_checkpoints_that_cannot_be_kept_stop_a_training_before_it_begins(
    capsys: pytest.CaptureFixture[str], here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (here / "notes.txt").write_text("mine")
    assert "'notes.txt' is a file" in refused(capsys, "base", "train", "--checkpoints", "notes.txt")
    (here / "data" / "base").mkdir(parents=True)
    row = {"text": "a", "label": "b", "unit": None, "at": "2025-01-01T00:00:00+00:00", "source": "s"}
    (here / "data" / "base" / "records.jsonl").write_text(json.dumps(row) + "\n")
    monkeypatch.setenv("EVERMOE_CHECKPOINT_EVERY", "0")
    settings.cache_clear()
    assert "EVERMOE_CHECKPOINT_EVERY" in refused(capsys, "base", "train", "--checkpoints", "kept")
    assert not (here / "kept").exists()
