"""No secret is written anywhere: not in a log, an error, an answer, a file of the home or a row of the database."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
import sqlalchemy as sa

from evermoe.errors import without_password
from evermoe.settings import ROOT
from serving.access import COOKIE
from tests.serving.conftest import GatewayProcess

PASSWORD = "correct-horse-battery"
NOTE = {"input": "fix the vlan option", "user": "ann"}


def evermoe(home: Path, url: str | None, *words: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"EVERMOE_HOME": str(home)} | ({"EVERMOE_DATABASE_URL": url} if url else {})
    command = [sys.executable, "-m", "commands.main", *words]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60)


def rows_of(url: str) -> str:
    """Every row of every table, as text."""
    engine = sa.create_engine(url)
    tables = sa.MetaData()
    tables.reflect(engine)
    with engine.connect() as connection:
        rows = [str(row) for table in tables.sorted_tables for row in connection.execute(sa.select(table))]
    engine.dispose()
    return "\n".join(rows)


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_a_day_of_use_and_misuse_writes_no_secret(
    home: Path, launch: Callable[..., GatewayProcess], request: pytest.FixtureRequest, kind: str
) -> None:
    url = None
    if kind == "postgresql":  # which is told the password and does not ask for it
        address = sa.make_url(request.getfixturevalue("postgres_url")).set(password=PASSWORD)
        url = address.render_as_string(hide_password=False)
    (home / "home.json").write_text('{"format": 1}')
    keys = {}
    said = []
    for role in ("client", "reviewer", "operator"):
        made = evermoe(home, url, "keys", "create", "--name", role, "--role", role, "--json")
        keys[role] = json.loads(made.stdout)["key"]
        said.append(made.stderr)
    gateway = launch(url)
    with httpx.Client(base_url=gateway.url, timeout=30, headers={"Origin": gateway.url}) as http:

        def ask(key: str, method: str, path: str, **more: object) -> httpx.Response:
            answer = http.request(method, path, headers={"Authorization": f"Bearer {key}"}, **more)  # type: ignore[arg-type]
            said.append(answer.text + str(answer.headers))
            return answer

        response = ask(keys["client"], "POST", "/v1/classify", json=NOTE).json()["id"]
        for key in (*keys.values(), keys["client"] + "x", keys["operator"].split("_", 2)[2]):
            ask(key, "POST", "/v1/feedback", json={"id": response, "key": "k", "score": 1})
            ask(key, "POST", "/v1/rollouts/none/abort", json={"reason": "r"})
            ask(key, "GET", "/", follow_redirects=False)
            ask(key, "POST", "/v1/classify", content=b"{")
        signed_in = http.post("/login", data={"key": keys["operator"]})
        token = signed_in.cookies[COOKIE]
        for wrong in (keys["client"], keys["operator"] + "x"):
            refused = http.post("/login", data={"key": wrong})
            said.append(refused.text + str(refused.headers))
        page = http.get("/", headers={"Accept": "text/html"})
        assert page.status_code == 200
        said.append(page.text + str(page.headers))
        said.append(http.get("/nothing", headers={"Accept": "text/html"}).text)
    said.append(evermoe(home, url, "keys", "list").stdout + evermoe(home, url, "keys", "list", "--json").stdout)
    said.append(evermoe(home, url, "doctor").stdout)
    said.append(evermoe(home, url, "rollout", "history").stderr)
    gateway.close()
    files = [file.read_bytes().decode("latin-1") for file in home.rglob("*") if file.is_file()]
    written = "\n".join([*said, *files, rows_of(url or f"sqlite:///{home / 'events.db'}")])
    key_ids = [key.split("_")[1] for key in keys.values()]
    assert all(id in written for id in key_ids)  # what was searched is what was written
    secrets = [*(key.split("_", 2)[2] for key in keys.values()), token, PASSWORD]
    assert [secret for secret in secrets if secret in written or secret[:16] in written] == []


@pytest.mark.parametrize(
    "address",
    [
        *("postgresql://ann:{}@host/db", "postgresql//ann:{}@host", "postgresql://ann:{}@host:port/db", "pg:{}@host"),
        *("http://ann:{}@127.0.0.1:1", "mysql://ann:{}@host/db"),
    ],
)
@pytest.mark.parametrize("name", ["EVERMOE_DATABASE_URL", "EVERMOE_MLFLOW_URI"])
def test_an_address_that_is_wrong_is_told_without_its_password(
    home: Path, monkeypatch: pytest.MonkeyPatch, name: str, address: str
) -> None:
    monkeypatch.setenv("EVERMOE_HOME", str(home))
    monkeypatch.setenv(name, address.format(PASSWORD))
    words = ["keys", "list"] if name == "EVERMOE_DATABASE_URL" else ["serve", "--port", "0"]
    told = subprocess.run(
        [sys.executable, "-m", "commands.main", *words], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert told.returncode != 0
    assert told.stderr.count("\n") == 1
    assert PASSWORD not in told.stderr + "".join(
        file.read_bytes().decode("latin-1") for file in home.rglob("*") if file.is_file()
    )


def test_what_is_no_password_is_left_as_it_is() -> None:
    for text in ("sqlite:////home/ann/events.db", "http://127.0.0.1:5000/x", "at 12:30 to ann@example.org", "a: b"):
        assert without_password(text) == text
    assert without_password("see postgresql://ann:a:b@c@host/db; no") == "see postgresql://ann@host/db; no"
