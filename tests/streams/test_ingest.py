"""`evermoe ingest` as a user runs it: a process, its two outputs and its exit status."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from commands.ingest import progress_bar


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


def run(home: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [
        sys.executable,
        "-c",
        "from commands.main import main; main()",
        "ingest",
        "--home",
        str(home),
        *arguments,
    ]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | {"COLUMNS": "100"})


def ingest(home: Path, *arguments: str) -> dict[str, Any]:
    done = run(home, *arguments, "--json")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    summary: dict[str, Any] = json.loads(done.stdout)
    return summary


def test_json_is_one_object_that_counts_records_months_labels_and_rejected_rows(home: Path, tmp_path: Path) -> None:
    path = tmp_path / "tickets.csv"
    path.write_text(
        "opened,what,who,where\n2021-01-02,first,u1,a\n2021-03-04,second,u2,a\n2021-03-05,third,u2,b\n,none,u3,b\n2021-04-01,open,u4,\n"
    )
    names = ("--at", "opened", "--text", "what", "--unit", "who", "--label", "where")
    summary = ingest(home, "--stream", "files", "--path", str(path), *names)
    assert summary["records"] == 4
    assert summary["months"] == {"2021-01": 1, "2021-03": 2, "2021-04": 1}
    assert (summary["first"], summary["last"]) == ("2021-01-02T00:00:00+00:00", "2021-04-01T00:00:00+00:00")
    assert summary["labels"] == {"a": 2, "b": 1}
    assert (summary["unlabelled"], summary["units"], summary["rejected"]) == (1, 3, 1)
    rejects = Path(summary["rejects"])
    assert rejects.parent == home.resolve() / "rejects"
    assert [json.loads(line)["line"] for line in rejects.read_text().splitlines()] == [5]
    assert sorted(tmp_path.iterdir()) == sorted([home, path])


def test_two_files_of_one_name_keep_their_rejected_rows_apart(home: Path, tmp_path: Path) -> None:
    kept = set()
    for folder in ("one", "two"):
        path = tmp_path / folder / "rows.jsonl"
        path.parent.mkdir()
        path.write_text('{"at": "2021-01-01", "text": "good"}\nbad\n')
        kept.add(ingest(home, "--stream", "files", "--path", str(path))["rejects"])
    assert len(kept) == 2
    assert all(Path(rejects).exists() for rejects in kept)


def test_the_printed_summary_names_the_rejected_lines_and_prints_a_label_that_looks_like_markup(
    home: Path, tmp_path: Path
) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"at": "2021-01-01", "text": "good", "label": "[bold]x[/red]"}\n{"text": "no date"}\n')
    done = run(home, "--stream", "files", "--path", str(path))
    assert done.returncode == 0, done.stderr
    assert "[bold]x[/red] 1" in done.stdout
    assert "line 2: no date" in done.stdout
    (kept,) = (home / "rejects").iterdir()
    assert str(kept.resolve()) in done.stdout


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--stream", "kafka"), "no stream is called 'kafka'"),
        (("--stream", "git"), "needs --path"),
        (("--stream", "git", "--path", "/dev/null"), "not a directory"),
        (("--stream", "files", "--path", "/dev/null"), "/dev/null"),
        (("--stream", "files", "--path", "absent.csv"), "absent.csv: no such file"),
    ],
)
def test_what_cannot_be_read_is_one_line_on_stderr_and_a_failure(
    home: Path, arguments: tuple[str, ...], says: str
) -> None:
    done = run(home, *arguments, "--json")
    assert done.returncode == 2
    assert done.stdout == ""
    assert says in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_without_a_terminal_the_progress_bar_writes_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bar("bringing") as progress:
        progress(1, None)
        progress(2, 2)
    assert capsys.readouterr() == ("", "")
