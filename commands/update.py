"""`evermoe drift` and `evermoe update`: the two flows by hand, for those who do not want to wait for the clock."""

from __future__ import annotations

import atexit
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from commands.home import HOME, JSON, open_existing
from commands.up import champion_version
from evermoe.errors import BadInput, NotReady
from evermoe.months import before, month_of, period_of, start_of
from evermoe.settings import Settings
from flows.runtime.progress import listening
from streams.dates import parse_moment

NOW = typer.Option("--now", help="Act as at this time (ISO 8601); without it, the clock's.", metavar="TIME")
OVERRIDE = typer.Option(
    "--override", help="Let this gate or check go, although it failed; may be given again.", metavar="GATE"
)


def drift(
    home: Annotated[Path | None, HOME] = None,
    now: Annotated[str | None, NOW] = None,
    as_json: Annotated[bool, JSON] = False,
) -> None:
    """Compare what users asked lately with what the champion learned from, and say why it counts as drift or not."""
    at = moment(now)
    heard = prefect(served_home(home))
    from flows.drift import drift as flow

    seen = flow(at)
    verdict = seen.verdict
    if as_json:
        content = {"drifted": verdict.drifted, "reasons": verdict.reasons, "scores": verdict.scores}
        typer.echo(
            json.dumps({**content, "thresholds": verdict.thresholds, "update_started": seen.announced and heard})
        )
        return
    typer.echo("drift" if verdict.drifted else "no drift")
    for reason in verdict.reasons:
        typer.echo(f"  {reason}")


def update(
    month: Annotated[str | None, typer.Argument(help="The month to learn, YYYY-MM; without it, the last one.")] = None,
    home: Annotated[Path | None, HOME] = None,
    now: Annotated[str | None, NOW] = None,
    override: Annotated[list[str] | None, OVERRIDE] = None,
    by: Annotated[str | None, typer.Option(help="Who signs the override.", metavar="NAME")] = None,
    reason: Annotated[str | None, typer.Option(help="Why it is overridden.", metavar="TEXT")] = None,
    as_json: Annotated[bool, JSON] = False,
) -> None:
    """Freeze a month, learn it, distil it, examine the challenger and put it on trial. Run again, it goes on where it stopped."""
    at = moment(now)
    if month is not None:
        start_of(month)
    from flows.gates.overrides import overridden, read_override

    signed = read_override(override or (), by, reason)
    prefect(served_home(home))
    from flows.gates.checks import stopped
    from flows.monthly import monthly
    from flows.runtime.parts import open_parts

    with watched():
        made = monthly(month, at, signed)
    with open_parts() as parts:
        version = parts.versions.get(made) if made else None
        stops = [] if made else stopped(parts, period_of(month or before(month_of(at)), at))
    gates, said = (version.tags.get("evermoe.gates"), overridden(version)) if version else (None, [])
    if as_json:
        typer.echo(json.dumps({"version": made, "gates": gates, "stopped_by": stops, "overrides": said}))
    elif version is None:
        typer.echo(
            "\n".join(["no update; the champion stays", *(f"  {one['check']}: {one['reason']}" for one in stops)])
        )
    else:
        typer.echo(f"version {version.version}, gates {gates}\n{version.description}")
        for one in said:
            typer.echo(f"overridden by {one['by']}: {', '.join(one['names'])}; {one['reason']}")
        if gates == "failed":
            typer.echo(f"it meets no user: {version.tags.get('evermoe.gates_failed')}")


def prefect(here: Settings) -> bool:
    """See that a Prefect server answers the flows of this command. Whether one was there, to start what an event asks for.

    Where none was, one is started that ends with this process, however that ends. Call it before Prefect is imported: what is
    registered first for the exit comes last, so Prefect still finds its server when it sends the last of its log. Raises
    `ServiceUnreachable` where the user named one that does not answer.
    """
    from commands import services
    from commands.processes import Processes, free_ports

    if services.uses_own_prefect(here):
        return True

    processes, (port,) = Processes(here.home.resolve() / "logs"), free_ports(1)
    atexit.register(processes.stop)
    processes.start(services.prefect_for_one_command(here, port))
    processes.wait_until_ready()
    os.environ["PREFECT_API_URL"] = f"http://127.0.0.1:{port}/api"
    return False


@contextmanager
def watched() -> Iterator[None]:
    """A bar on stderr for each training of the flows that run inside; nothing where that is no terminal."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        tasks: dict[str, TaskID] = {}

        def show(what: str, done: int, of: int) -> None:
            if what not in tasks:
                tasks[what] = bars.add_task(what)
            bars.update(tasks[what], completed=done, total=of)

        with listening(show):
            yield


def served_home(home: Path | None) -> Settings:
    """`open_existing`, for what needs a champion. Raises `NotReady` where there is none."""
    here = open_existing(home)
    if champion_version(here) is None:
        raise NotReady(f"{here.home} has no champion; run `evermoe demo`, or make a base with `dvc repro`")
    return here


def moment(text: str | None) -> datetime:
    """`--now` as records' times are read; without it, the clock's. Raises `BadInput`."""
    if text is None:
        return datetime.now(UTC)
    try:
        return parse_moment(text)
    except ValueError as error:
        raise BadInput(f"--now: {error}") from None
