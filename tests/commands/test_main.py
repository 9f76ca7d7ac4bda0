"""The command line as a user meets it: help that is quick and teaches, mistakes answered in one line."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from commands import main
from evermoe import __version__
from evermoe.errors import EvermoeError, NotReady


def evermoe(*words: str, **env: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "commands.main", *words]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=60, env={**os.environ, "COLUMNS": "120", **env}
    )


def one_line(text: str) -> str:
    (line,) = text.strip().splitlines()
    return line


def test_help_teaches_the_way_in_and_loads_nothing_heavy() -> None:
    told = evermoe("--help")
    assert told.returncode == 0
    assert all(word in told.stdout for word in ("evermoe demo", "evermoe up", "evermoe doctor", "EVERMOE_HOME"))
    assert all(name in told.stdout for name, verb in main.VERBS.items() if not verb.hidden)
    heavy = {"torch", "mlflow", "prefect", "pandas"}
    code = f"import sys, commands.main as main; main.run(['--help']); print(sorted(sys.modules.keys() & {heavy!r}))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert loaded.stdout.splitlines()[-1] == "[]"


def test_no_words_at_all_is_answered_with_the_help() -> None:
    told = evermoe()
    assert told.returncode == 0
    assert "evermoe demo" in told.stdout


def test_version() -> None:
    assert evermoe("--version").stdout == f"evermoe {__version__}\n"


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["up", "--nope"], "evermoe: No such option: --nope"),
        (["--nope"], "evermoe: No such option: --nope"),
        (["nope"], "evermoe: No such command 'nope'"),
        (["up", "extra"], "evermoe: Got unexpected extra argument"),
    ],
)
def test_a_mistake_in_the_words_is_one_line_that_points_to_the_help(words: list[str], expected: str) -> None:
    told = evermoe(*words)
    assert told.returncode == 2
    assert told.stdout == ""
    line = one_line(told.stderr)
    assert line.startswith(expected)
    assert line.endswith("--help`")


def test_a_known_error_is_one_line_with_its_own_exit_code(tmp_path: Path) -> None:
    told = evermoe("up", EVERMOE_HOME=str(tmp_path / "home"))
    assert told.returncode == NotReady.exit_code
    line = one_line(told.stderr)
    assert "evermoe demo" in line
    assert "dvc repro" in line
    assert not (tmp_path / "home").exists()


def test_a_home_from_a_newer_version_is_refused(tmp_path: Path) -> None:
    (tmp_path / "home.json").write_text('{"format": 99}')
    told = evermoe("up", "--home", str(tmp_path))
    assert told.returncode == 5
    assert "newer" in one_line(told.stderr)


def test_a_wrong_setting_is_named(tmp_path: Path) -> None:
    told = evermoe("doctor", EVERMOE_HOME=str(tmp_path), EVERMOE_GATEWAY_PORT="many")
    assert told.returncode == 2
    assert "EVERMOE_GATEWAY_PORT" in one_line(told.stderr)


def fail(error: BaseException) -> object:
    def verb() -> None:
        raise error

    return verb


def test_an_unexpected_error_is_one_line_and_its_traceback_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("EVERMOE_HOME", str(tmp_path))
    monkeypatch.setattr(main, "load", lambda verb: fail(ZeroDivisionError("by zero")))
    assert main.run(["up"]) == 1
    line = one_line(capsys.readouterr().err)
    (log,) = (tmp_path / "logs").iterdir()
    assert line == f"evermoe: unexpected ZeroDivisionError: by zero; the traceback is in {log}"
    assert "Traceback" in log.read_text()
    assert log.read_text().count("ZeroDivisionError") == 1
    monkeypatch.setenv("EVERMOE_DEBUG", "1")
    assert main.run(["up"]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_ctrl_c_is_130(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(main, "load", lambda verb: fail(KeyboardInterrupt()))
    assert main.run(["up"]) == 130
    assert one_line(capsys.readouterr().err) == "evermoe: interrupted"


class LogShown(EvermoeError):
    """A program beside us ended, and its log came with the error."""

    exit_code = 4


@pytest.mark.parametrize(
    ("error", "free"),
    [
        (OSError(28, "No space left on device", "events.db"), 10**9),
        (RuntimeError("(sqlite3.OperationalError) database or disk is full\n[SQL: ...]"), 10**9),
        (RuntimeError("500 Internal Server Error"), 1000),
        (LogShown("prefect ended:\nTraceback ..."), 1000),
    ],
)
def test_a_full_disk_is_said_plainly_however_it_shows(
    error: Exception,
    free: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("EVERMOE_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(main.shutil, "disk_usage", lambda place: SimpleNamespace(free=free))
    monkeypatch.setattr(main, "load", lambda verb: fail(error))
    assert main.run(["up"]) == 1
    line = one_line(capsys.readouterr().err)
    assert line.startswith(f"evermoe: the disk that holds {tmp_path / 'home'} is full; nothing half-written is used")


def test_an_error_with_room_left_keeps_its_own_words(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(main, "load", lambda verb: fail(LogShown("prefect ended: it said nothing")))
    assert main.run(["up"]) == 4
    assert one_line(capsys.readouterr().err) == "evermoe: prefect ended: it said nothing"


@pytest.mark.parametrize("name", main.VERBS)
def test_every_verb_in_the_help_is_there(name: str) -> None:
    module, _, attribute = main.VERBS[name].target.partition(":")
    assert callable(getattr(importlib.import_module(module), attribute))
