"""`evermoe log`: export the event log month by month, and delete what was exported. Decides nothing; the rooms do."""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from commands.home import HOME, JSON, parts_of
from evermoe.errors import BadInput
from evermoe.settings import settings

BEFORE = typer.Option("--before", help="Months that ended by this day (YYYY-MM-DD); without it, all that may.")

HELP = "\n\n".join(
    (
        "Keep the event log in bounds: months of requests and feedback as Parquet files, and out of the database what is in "
        "them.",
        "What the next update, an open rollout, the drift window or late feedback needs stays in the database, and so does "
        "what is younger than `log.keep_days` of params.yaml. More in docs/event-log.md.",
    )
)
app = typer.Typer(no_args_is_help=True, help=HELP, rich_markup_mode="rich")


@app.command()
def export(
    to: Annotated[Path | None, typer.Option("--to", help="The folder; without it, `archive` in the home.")] = None,
    before: Annotated[str | None, BEFORE] = None,
    home: Annotated[Path | None, HOME] = None,
    as_json: Annotated[bool, JSON] = False,
) -> None:
    """Write each month that is over as Parquet files with a manifest. Again, it brings the files up to date."""
    from monitoring import archive

    with parts_of(home) as parts:
        folder, now = to or settings().home / "archive", datetime.now(UTC)
        months = archive.export(parts.events.engine, min(day(before) or now, now), folder)
    if as_json:
        typer.echo(json.dumps({"folder": str(folder), "months": [asdict(month) for month in months]}))
        return
    for month in months:
        typer.echo(f"{month.month}: {month.requests.rows} requests, {month.feedback.rows} feedback")
    typer.echo(f"{len(months)} months are in {folder}")


@app.command()
def prune(
    exported: Annotated[
        Path | None, typer.Option("--exported", help="The folder of the export; without it, `archive` in the home.")
    ] = None,
    before: Annotated[str | None, BEFORE] = None,
    home: Annotated[Path | None, HOME] = None,
    as_json: Annotated[bool, JSON] = False,
) -> None:
    """Delete the months that were exported and nobody needs, after comparing every row with the files."""
    from flows.snapshots.retention import oldest_kept, reasons_to_keep
    from monitoring import archive

    with parts_of(home) as parts:
        folder = exported or settings().home / "archive"
        limit = oldest_kept(parts, datetime.now(UTC))
        asked = day(before)
        gone, kept = archive.prune(
            parts.events.engine, min(asked, limit) if asked else limit, folder, reasons_to_keep(parts)
        )
    if as_json:
        content = {"pruned": [asdict(month) for month in gone], "kept": [asdict(month) for month in kept]}
        typer.echo(json.dumps(content | {"before": limit.isoformat()}))
        return
    for month in gone:
        typer.echo(
            f"{month.month}: {month.requests.rows} requests, {month.feedback.rows} feedback are in {folder} alone"
        )
    for stayed in kept:
        typer.echo(f"{stayed.month} stays: {stayed.reason}")
    if not gone and not kept:
        typer.echo(f"no exported month ended before {limit:%Y-%m-%d}; nothing was deleted")


def day(text: str | None) -> datetime | None:
    """The first instant of a day in UTC. Raises `BadInput`."""
    try:
        return datetime.strptime(text, "%Y-%m-%d").replace(tzinfo=UTC) if text else None
    except ValueError:
        raise BadInput(f"{text!r} is no day; write YYYY-MM-DD, 2025-06-01 say") from None
