"""`evermoe ingest`: brings a stream and says what is in it. Changes no model and starts nothing."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from evermoe.settings import load_params, use_home
from streams import Columns, Stream, months, open_stream
from streams import Progress as StreamProgress

LABELS_SHOWN = 15
AT = typer.Option(help="Column of the date (files); without it and its like, columns of usual names are found.")
TEXT = typer.Option(help="Column of the text (files).")
LABEL = typer.Option(help="Column of the right answer (files).")
UNIT = typer.Option(help="Column of who asked (files).")


def ingest(
    stream: Annotated[
        str | None, typer.Option(help="ansible, git or files; without it, the one in params.yaml.")
    ] = None,
    path: Annotated[
        Path | None, typer.Option(help="The repository of git, the JSONL, CSV or Parquet file of files.")
    ] = None,
    at: Annotated[str | None, AT] = None,
    text: Annotated[str | None, TEXT] = None,
    label: Annotated[str | None, LABEL] = None,
    unit: Annotated[str | None, UNIT] = None,
    home: Annotated[Path | None, typer.Option(help="Where Evermoe keeps its state; without it, EVERMOE_HOME.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Bring a stream of dated records and say what is in it: records, months, labels, and the rows that cannot be used."""
    settings = use_home(home)
    if stream is None:
        default = load_params().stream
        stream, path = default.name, path or (Path(default.path) if default.path else None)
    rejects = rejects_path(settings.open_home(), path) if stream == "files" and path else None
    with progress_bar(f"bringing {stream}") as progress:
        opened = open_stream(
            stream,
            path=path,
            cache=settings.cache,
            columns=Columns(at=at, text=text, label=label, unit=unit),
            rejects=rejects,
            progress=progress,
        )
    summary = summarise(opened, rejects)
    if as_json:
        typer.echo(json.dumps(summary))
    else:
        _print(summary, opened)


def rejects_path(home: Path, path: Path) -> Path:
    """Where the rows of `path` that cannot be used are kept: a file of its own for each file, whatever its name."""
    place = hashlib.sha256(str(path.resolve()).encode(errors="surrogateescape")).hexdigest()[:8]
    return home / "rejects" / f"{path.name}-{place}.jsonl"


@contextmanager
def progress_bar(what: str) -> Iterator[StreamProgress]:
    """A bar on stderr that shows itself once there is something to wait for, and nowhere but on a terminal."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(what, total=None, visible=False)
        yield lambda done, total: bar.update(task, completed=done, total=total, visible=True)


def summarise(stream: Stream, rejects: Path | None) -> dict[str, Any]:
    """What `evermoe ingest --json` prints."""
    records = stream.records()
    labels = Counter(record.label for record in records if record.label is not None)
    return {
        "stream": stream.name,
        "fingerprint": stream.fingerprint,
        "records": len(records),
        "first": records[0].at.isoformat(),
        "last": records[-1].at.isoformat(),
        "months": {month: len(rows) for month, rows in months(records).items()},
        "labels": dict(labels.most_common()),
        "unlabelled": sum(record.label is None for record in records),
        "units": len({record.unit for record in records if record.unit is not None}),
        "rejected": len(stream.rejected),
        "rejects": str(rejects) if stream.rejected and rejects else None,
        "left_out": dict(stream.left_out),
    }


def _print(summary: dict[str, Any], stream: Stream) -> None:
    console = Console()
    table = Table(show_header=False, box=None, pad_edge=False)
    labels = list(summary["labels"].items())
    more = f" … and {len(labels) - LABELS_SHOWN} more" if len(labels) > LABELS_SHOWN else ""
    rows = {
        "stream": f"{summary['stream']} ({summary['fingerprint'][:12]})",
        "records": f"{summary['records']:,}",
        "months": f"{len(summary['months'])}, {summary['first'][:7]} to {summary['last'][:7]}",
        "labels": f"{len(labels)}: " + ", ".join(f"{name} {count:,}" for name, count in labels[:LABELS_SHOWN]) + more,
        "unlabelled": f"{summary['unlabelled']:,}",
        "units": f"{summary['units']:,}",
        "left out": ", ".join(f"{count:,} × {why}" for why, count in summary["left_out"].items()) or "nothing",
        "rejected": f"{summary['rejected']:,} rows",
    }
    for name, value in rows.items():
        table.add_row(Text(name, style="bold"), Text(value))  # Text: a label may hold what Rich takes for markup
    console.print(table)
    for row in stream.rejected[:3]:
        console.print(Text(f"  line {row.line}: {row.reason}", style="yellow"))
    if summary["rejects"]:
        console.print(Text(f"  all of them, with their reasons: {summary['rejects']}"), soft_wrap=True)
