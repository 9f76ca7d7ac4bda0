"""What the verbs on a home share: how it is named on the command line, and how one that exists is opened."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from evermoe.errors import NotReady
from evermoe.locks import taken
from evermoe.settings import Settings, use_home

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from flows.runtime.parts import Parts

HOME = typer.Option(help="Where Evermoe keeps its state; without it, EVERMOE_HOME.")
JSON = typer.Option("--json", help="Print one JSON object.")


def open_existing(home: Path | None) -> Settings:
    """The home as settings, and Prefect pointed at its server where one answers (else `prefect` starts one)."""
    from commands import services
    from commands.processes import IN_USE, answers

    here = use_home(home)
    here.open_home(create=False)
    if not here.home.is_dir():
        raise NotReady(f"there is no home at {here.home}; run `evermoe demo` to make one, or pass --home")
    os.environ.setdefault("PREFECT_HOME", str(here.home.resolve() / "prefect"))
    os.environ.setdefault("PREFECT_LOGGING_LEVEL", "CRITICAL")  # an error ends as our one line
    api, lock = services.prefect_api(here), here.home / IN_USE
    served = lock.exists() and taken(lock)  # else what answers at our port is another home's server
    if served and answers(f"{api}/health"):
        os.environ.setdefault("PREFECT_API_URL", api)
    return here


def parts_of(home: Path | None) -> AbstractContextManager[Parts]:
    """The parts of an existing home."""
    open_existing(home)
    from flows.runtime.parts import open_parts

    return open_parts()
