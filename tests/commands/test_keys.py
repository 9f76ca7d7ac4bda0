"""`evermoe keys`, and where a gateway may listen without one."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from commands import main
from commands.keys import on_loopback, refuse_strangers
from commands.services import tool_host
from evermoe.errors import NotReady
from evermoe.settings import ROOT, Settings, settings
from flows.lineage.candidate import LOADER
from monitoring.keys import Keys, holder
from monitoring.schema import open_database


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home that commands use."""
    monkeypatch.setenv("EVERMOE_HOME", str(tmp_path))
    monkeypatch.delenv("EVERMOE_DATABASE_URL", raising=False)
    return tmp_path


@pytest.fixture(autouse=True)
def fresh_settings() -> object:
    settings.cache_clear()
    yield
    settings.cache_clear()


def evermoe(capsys: pytest.CaptureFixture[str], *words: str, status: int = 0) -> str:
    """What the command prints; where it fails, its one line on stderr."""
    assert main.run(words) == status
    said = capsys.readouterr()
    if status:
        assert said.err.count("\n") == 1
        return said.err
    return said.out


def test_a_key_is_shown_once_and_opens_what_its_role_says(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = json.loads(evermoe(capsys, "keys", "create", "--name", "ann", "--role", "operator", "--json"))
    listed = evermoe(capsys, "keys", "list", "--json")
    engine = open_database(f"sqlite:///{home / 'events.db'}")
    key = holder(made["key"], {key.id: key for key in Keys(engine).all()})
    engine.dispose()
    assert key is not None
    assert (key.name, key.role, key.id) == (made["name"], made["role"], made["id"]) == ("ann", "operator", key.id)
    secret = made["key"].split("_", 2)[2]
    assert secret[:12] not in listed
    assert [one["name"] for one in json.loads(listed)["keys"]] == ["ann"]


def test_the_key_alone_goes_to_stdout_and_the_first_one_says_what_it_closes(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, first in (("ann", True), ("bob", False)):
        assert main.run(["keys", "create", "--name", name, "--role", "client"]) == 0
        said = capsys.readouterr()
        assert said.out.startswith("evermoe_")
        assert said.out.count("\n") == 1
        assert "It is shown this once" in said.err
        assert ("every request to the gateway needs one" in said.err) == first


def test_the_list_shows_who_and_since_when_and_says_when_there_is_nobody(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "no key was made yet" in evermoe(capsys, "keys", "list")
    evermoe(capsys, "keys", "create", "--name", "ann", "--role", "client")
    assert "is revoked" in evermoe(capsys, "keys", "revoke", "ann")
    evermoe(capsys, "keys", "create", "--name", "bob", "--role", "reviewer")
    lines = evermoe(capsys, "keys", "list").splitlines()
    assert lines[0].split() == ["name", "role", "id", "made", "revoked"]
    assert [line.split()[:2] for line in lines[1:]] == [["ann", "client"], ["bob", "reviewer"]]
    assert [len(line.split()) for line in lines[1:]] == [7, 5]


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["create", "--name", "ann b", "--role", "client"], "'ann b' is no name for a key"),
        (["create", "--name", "ann", "--role", "root"], "'root' is no role; use one of client, reviewer, operator"),
        (["create", "--role", "client"], "Missing option '--name'"),
        (["revoke", "nobody"], "no key is called 'nobody'; `evermoe keys list` shows them"),
    ],
)
def test_a_mistake_is_told_in_one_line(
    home: Path, capsys: pytest.CaptureFixture[str], words: list[str], why: str
) -> None:
    assert why in evermoe(capsys, "keys", *words, status=2)


def test_without_a_home_it_says_what_makes_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("EVERMOE_DATABASE_URL", raising=False)
    line = evermoe(capsys, "keys", "list", "--home", str(tmp_path / "none"), status=3)
    assert "run `evermoe demo` to make one" in line
    assert not (tmp_path / "none").exists()


def test_its_help_teaches(capsys: pytest.CaptureFixture[str]) -> None:
    told = " ".join(evermoe(capsys, "keys", "--help").split())
    assert all(word in told for word in ("client", "reviewer", "operator", "Bearer", "within a second"))


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        *(("127.0.0.1", True), ("127.9.9.9", True), ("::1", True), ("localhost", True)),
        *(("0.0.0.0", False), ("::", False), ("10.0.0.1", False), ("192.0.2.1", False), ("", False)),
        ("no-such-name.invalid", False),
    ],
)
def test_what_only_this_machine_reaches_is_loopback(host: str, loopback: bool) -> None:
    assert on_loopback(host) is loopback


def test_a_gateway_listens_to_other_machines_only_once_there_is_a_key(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url = f"sqlite:///{home / 'events.db'}"
    refuse_strangers("127.0.0.1", url)
    with pytest.raises(NotReady, match=r"make one with `evermoe keys create --role operator --name NAME`"):
        refuse_strangers("0.0.0.0", url)
    evermoe(capsys, "keys", "create", "--name", "ann", "--role", "operator")
    refuse_strangers("0.0.0.0", url)


def test_mlflow_and_prefect_which_ask_nobody_who_they_are_listen_to_this_machine_alone() -> None:
    assert tool_host(Settings(host="0.0.0.0")) == "127.0.0.1"
    assert tool_host(Settings(host="localhost")) == "localhost"


@pytest.mark.parametrize("verb", ["serve", "up"])
def test_serve_and_up_refuse_in_one_line(registered_home: Path, verb: str) -> None:
    words = [verb, "--host", "0.0.0.0", "--port", "0"] if verb == "serve" else [verb]
    refused = subprocess.run(
        [sys.executable, "-m", "commands.main", *words, "--home", str(registered_home)],
        cwd=ROOT,
        env={"PATH": "/usr/bin:/bin", "HOME": str(registered_home), "EVERMOE_HOST": "0.0.0.0"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert refused.returncode == 3
    assert refused.stderr == (
        "evermoe: anyone who reaches 0.0.0.0 could use this gateway, because no API key was made yet; make one with "
        "`evermoe keys create --role operator --name NAME`, or listen on 127.0.0.1\n"
    )


@pytest.fixture(scope="module")
def registered_home(tmp_path_factory: pytest.TempPathFactory, tiny_model_folder: Path) -> Path:
    """A home with a champion."""
    from registry.tracker.versions import Versions

    home = tmp_path_factory.mktemp("home")
    (home / "home.json").write_text('{"format": 1}')
    versions = Versions(f"sqlite:///{home / 'mlflow.db'}", artifacts=home / "artifacts")
    versions.register(
        tiny_model_folder, month="2025-06", parent=None, run_id=None, loader=LOADER, description="the base"
    )
    versions.set_alias("champion", "1")
    return home
