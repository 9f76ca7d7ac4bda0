"""`evermoe up`: the whole platform as one process tree, until Ctrl-C. Makes no model: on an empty home it says what does."""

from __future__ import annotations

import json
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from commands import services
from commands.keys import refuse_strangers
from commands.processes import Process, Processes, Running, in_use
from evermoe.errors import NotReady, ServiceUnreachable, without_password
from evermoe.settings import Settings, use_home

LOOK_SECONDS = 0.5


def up(
    home: Annotated[Path | None, typer.Option(help="Where Evermoe keeps its state; without it, EVERMOE_HOME.")] = None,
    paused: Annotated[
        bool,
        typer.Option("--paused", help="Show the schedules but start nothing by the clock; events still start runs."),
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the addresses as one JSON object once all answer.")
    ] = False,
) -> None:
    """Serve the platform: the gateway, Prefect with its runner, MLflow. One process tree; Ctrl-C stops all of it."""
    settings = use_home(home)
    settings.open_home(create=False)
    champion = champion_version(settings)
    if champion is None:
        raise NotReady(
            f"{settings.home} has no model to serve: run `evermoe demo` to make one and see the loop, or `dvc repro` to make a base"
        )
    settings.open_home()
    refuse_strangers(settings.host, settings.events_url)
    console = Console(stderr=True)
    with suppress(KeyboardInterrupt), in_use(settings.home), Processes(settings.home.resolve() / "logs") as processes:
        stop_on_signals()
        console.print(
            Text(f"starting with champion version {champion} of {settings.home} (the first time takes half a minute)")
        )
        processes.start(*platform(settings, paused))
        processes.wait_until_ready(progress=announce(console))
        if as_json:
            print(
                json.dumps({**addresses(settings), "champion": champion, "home": str(settings.home.resolve())}),
                flush=True,
            )
        else:
            print_addresses(settings)
        console.print(Text("Ctrl-C stops everything", style="dim"))
        try:
            while True:
                processes.check()
                time.sleep(LOOK_SECONDS)
        finally:
            ignore_signals()
            console.print(Text("stopping"))
    console.print(Text("stopped; nothing is left running"))


def platform(settings: Settings, paused: bool) -> list[Process]:
    """What to start. A Prefect server or an MLflow server that the user runs elsewhere is used, not started again."""
    processes = []
    if not services.uses_own_prefect(settings):
        processes.append(services.prefect_server(settings))
    if not settings.tracking_uri.startswith("http"):
        processes.append(services.mlflow_server(settings))
    return [*processes, services.gateway(settings), services.runner(settings, paused)]


def champion_version(settings: Settings) -> str | None:
    """The registered champion, or None if there is none yet. Raises `ServiceUnreachable`, `StorageUnavailable`."""
    uri = settings.tracking_uri
    if uri.startswith("sqlite:///") and not Path(uri.removeprefix("sqlite:///")).exists():
        return None  # asking MLflow would make the database
    from mlflow.exceptions import MlflowException

    from registry.tracker.client import connect

    try:
        return str(connect(uri).get_model_version_by_alias("evermoe", "champion").version)
    except MlflowException as error:
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            return None
        told = without_password(f"MLflow at {uri} cannot be read: {str(error).splitlines()[0][:200]}")
        raise ServiceUnreachable(told) from None


def addresses(settings: Settings) -> dict[str, str]:
    """Where each part is found by a browser or a client on this machine."""
    gateway = services.local_url(settings, settings.gateway_port)
    mlflow = without_password(settings.tracking_uri)
    return {
        "console": f"{gateway}/",
        "openai": f"{gateway}/v1",
        "mlflow": mlflow if mlflow.startswith("http") else services.tool_url(settings, settings.mlflow_port),
        "prefect": services.prefect_api(settings).removesuffix("/api"),
    }


MEANING = {
    "console": "rollouts: who serves what share, and on what evidence",
    "openai": "base URL for the OpenAI client",
    "mlflow": "months, runs, versions, reports",
    "prefect": "schedules and flow runs",
}


def print_addresses(settings: Settings) -> None:
    """The table a user reads."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("what", "address", "what for"):
        table.add_column(column, no_wrap=column != "what for")
    for name, address in addresses(settings).items():
        table.add_row(name, Text(address, style="cyan"), Text(MEANING[name]))
    Console().print(table)
    sys.stdout.flush()


def announce(console: Console) -> Callable[[Running], None]:
    """A line for each program as it answers."""
    return lambda one: console.print(Text(f"  {one.process.name} ready after {one.ready_seconds:.0f} s", style="dim"))


def stop_on_signals() -> None:
    """SIGTERM and a closed terminal mean what Ctrl-C means, unless `nohup` lets the terminal close. Needs the main thread."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, stop)


def ignore_signals() -> None:
    """A second Ctrl-C must not leave half of the tree behind; the grace bounds how long stopping takes."""
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
