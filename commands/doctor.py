"""`evermoe doctor`: looks at the installation and the home, and says for each thing that it is well, or what to do.

It changes nothing: a home or a database that is not there yet is not made by looking.
"""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from commands import services
from commands.processes import answers, port_is_free
from evermoe.errors import EvermoeError, NotFound
from evermoe.settings import ROOT, Settings, load_params, use_home

KEY_PACKAGES = (
    *("mlflow", "prefect", "evidently", "dvc", "torch", "transformers", "scikit-learn"),
    *("sqlalchemy", "fastapi", "uvicorn", "typer", "pandas", "numpy", "pydantic"),
)
FREE_BYTES_NEEDED = 2 * 1024**3


@dataclass(frozen=True)
class Finding:
    """One thing looked at: `ok`, `note` (fine, but know it) or `fix` (do what `message` says)."""

    check: str
    state: str
    message: str


def doctor(
    home: Annotated[Path | None, typer.Option(help="Where Evermoe keeps its state; without it, EVERMOE_HOME.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Check this installation and this home; exits with 1 if something needs fixing."""
    settings = use_home(home)
    findings = []
    for name, check in CHECKS.items():
        try:
            found = list(check(settings))
        except EvermoeError as error:
            found = [fix(str(error))]
        findings += [Finding(name, state, message) for state, message in found]
        if not as_json:
            for finding in findings[len(findings) - len(found) :]:
                show(finding)
    broken = [finding for finding in findings if finding.state == "fix"]
    if as_json:
        typer.echo(json.dumps({"ok": not broken, "checks": [asdict(finding) for finding in findings]}))
    raise typer.Exit(1 if broken else 0)


Result = Iterator[tuple[str, str]]


def ok(message: str) -> tuple[str, str]:
    return "ok", message


def note(message: str) -> tuple[str, str]:
    return "note", message


def fix(message: str) -> tuple[str, str]:
    return "fix", message


def show(finding: Finding) -> None:
    """One line for a person."""
    style = {"ok": "green", "note": "yellow", "fix": "bold red"}[finding.state]
    Console(soft_wrap=True).print(Text.assemble((f"{finding.state:4} ", style), f"{finding.check}: ", finding.message))


def python_version(settings: Settings) -> Result:
    """The Python that every dependency was locked on."""
    told = ".".join(map(str, sys.version_info[:3]))
    yield ok(told) if sys.version_info[:2] == (3, 11) else fix(f"{told}; make an environment with Python 3.11")


def packages(settings: Settings) -> Result:
    """Key packages against the locked versions."""
    lock = ROOT / "constraints.txt"
    if not lock.exists():
        yield note("constraints.txt is not here, so versions are not compared")
        return
    lines = (line.partition("==") for line in lock.read_text(encoding="utf-8").splitlines() if "==" in line)
    locked = {name.strip().lower().replace("_", "-"): pinned.strip() for name, _, pinned in lines}
    wrong = []
    for name in KEY_PACKAGES:
        try:
            have = version(name).partition("+")[0]
        except PackageNotFoundError:
            have = "missing"
        if name in locked and have != locked[name]:
            wrong.append(f"{name} {have}, locked {locked[name]}")
    yield fix("; ".join(wrong) + "; run `make install`") if wrong else ok(f"{len(KEY_PACKAGES)} as locked")


def parameters(settings: Settings) -> Result:
    """params.yaml reads."""
    load_params()
    yield ok("params.yaml reads")


def programs(settings: Settings) -> Result:
    """The programs that flows call."""
    beside = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    for name, remedy in {"git": "install git", "dvc": "run `make install`"}.items():
        where = shutil.which(name, path=beside)
        yield ok(where) if where else fix(f"{name} is not found; {remedy}")


def home_format(settings: Settings) -> Result:
    """The home is ours to read and write."""
    if not settings.home.exists():
        yield note(f"{settings.home} does not exist yet; `evermoe demo` makes it")
        return
    settings.open_home(create=False)
    if not (settings.home / "home.json").exists():
        yield note(f"{settings.home} has no home.json yet; `evermoe demo` makes it")
    elif not os.access(settings.home, os.R_OK | os.W_OK | os.X_OK):
        yield fix(f"{settings.home} cannot be written by this user; change its owner, or pass --home")
    else:
        yield ok(str(settings.home.resolve()))


def disk(settings: Settings) -> Result:
    """Room for a month: a snapshot, two sets of weights, the reports."""
    place = next(path for path in (settings.home.resolve(), *settings.home.resolve().parents) if path.exists())
    free = shutil.disk_usage(place).free
    told = f"{free / 1024**3:.1f} GiB free at {place}"
    yield ok(told) if free >= FREE_BYTES_NEEDED else fix(f"{told}; free at least {FREE_BYTES_NEEDED // 1024**3} GiB")


def event_database(settings: Settings) -> Result:
    """The event log can be reached and written."""
    from sqlalchemy import create_engine, text
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError, SQLAlchemyError

    try:
        url = make_url(settings.events_url)
    except (ArgumentError, ValueError):
        yield fix(
            "EVERMOE_DATABASE_URL is not a database URL; give sqlite:///FILE or postgresql+psycopg://USER:PASSWORD@HOST/NAME"
        )
        return
    told = url.render_as_string(hide_password=True)
    if url.get_backend_name() == "sqlite":
        yield sqlite_database(Path(url.database or ""), told)
        return
    try:
        engine = create_engine(
            url, connect_args={"connect_timeout": 5} if url.get_backend_name() == "postgresql" else {}
        )
        with engine.connect() as connection, connection.begin() as transaction:
            connection.execute(text("CREATE TABLE evermoe_doctor (checked integer)"))
            transaction.rollback()
        engine.dispose()
        yield ok(told)
    except (SQLAlchemyError, ImportError) as error:
        yield fix(f"{told}: {str(error).splitlines()[0]}; start it, or correct EVERMOE_DATABASE_URL")


def sqlite_database(file: Path, told: str) -> tuple[str, str]:
    """Whether an SQLite file can be written, without making or changing it."""
    if not file.exists():
        return note(f"{told} does not exist yet; the first request makes it")
    try:
        connection = sqlite3.connect(f"{file.as_uri()}?mode=rw", uri=True, timeout=5)
        try:
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("PRAGMA schema_version")
            connection.rollback()
        finally:
            connection.close()
    except sqlite3.Error as error:
        return fix(f"{told}: {error}; restore it from a backup, or move it away to begin anew")
    return ok(told)


def champion(settings: Settings) -> Result:
    """MLflow answers, and the champion's weights are where it says."""
    from commands.up import champion_version

    current = champion_version(settings)
    if current is None:
        yield note(
            f"MLflow answers, but no champion is registered in {settings.home}: run `evermoe demo`, or `dvc repro`"
        )
        return
    from flows.runtime.parts import open_versions

    versions = open_versions(settings)
    try:
        yield ok(f"version {current}, weights in {versions.weights(current)}")
    except NotFound as error:
        yield fix(f"{error}; restore them, or roll back to an older version in MLflow")


def prefect_server(settings: Settings) -> Result:
    """The Prefect server, if one should be there."""
    api = services.prefect_api(settings)
    if answers(f"{api}/health"):
        yield ok(f"answers at {api}")
    elif "PREFECT_API_URL" in os.environ:
        yield fix(f"does not answer at {api}; start it, or unset PREFECT_API_URL to use ours")
    else:
        yield note(f"not running; `evermoe up` starts it at {api}")


def ports(settings: Settings) -> Result:
    """Each port is free, or what listens there is ours."""
    for process in (services.gateway(settings), services.mlflow_server(settings), services.prefect_server(settings)):
        port = process.port or 0
        if port_is_free(process.host, port):
            yield ok(f"{port} is free for {process.name}")
        elif process.ready and answers(process.ready):
            yield ok(f"{port} is answered by {process.name}")
        else:
            yield fix(f"{port} ({process.name}) is taken by another program; stop it, or set {process.port_variable}")


CHECKS: dict[str, Callable[[Settings], Result]] = {
    "python": python_version,
    "packages": packages,
    "parameters": parameters,
    "programs": programs,
    "home": home_format,
    "disk": disk,
    "event database": event_database,
    "champion": champion,
    "prefect": prefect_server,
    "port": ports,
}
