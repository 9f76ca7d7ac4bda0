"""`evermoe base`: the stages of dvc.yaml, file by file, and `register`, which takes their model into a home.

Each stage reads the files of the one before and writes its own; `dvc repro` decides which of them have to run.
"""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from evermoe.errors import BadInput, Conflict, NotReady
from evermoe.settings import load_params, use_home

if TYPE_CHECKING:
    from registry.snapshots import SnapshotRow

FOLDER = Path("data/base")
RECORDS, MODEL, CURVE, METRICS, MONTHS = "records.jsonl", "model", "training.csv", "metrics.json", "months.csv"
FIGURES = ("examples", "accuracy", "macro_f1", "calibration_error")
COSTS = ("latency_ms", "memory_bytes")

app = typer.Typer(no_args_is_help=True)


@app.command()
def prepare(folder: Annotated[Path, typer.Option(help="Where the stages keep their files.")] = FOLDER) -> None:
    """Bring the stream of params.yaml and keep what the base may see."""
    from commands.ingest import progress_bar, rejects_path
    from flows.learning.base import prepare as rows_of
    from registry.snapshots import write_rows
    from streams import open_stream

    params, here = load_params(), use_home(None)
    source = Path(params.stream.path) if params.stream.path else None
    aside = rejects_path(here.home, source) if source and source.is_file() else None
    with progress_bar(f"bringing {params.stream.name}") as progress:
        stream = open_stream(params.stream.name, path=source, cache=here.cache, rejects=aside, progress=progress)
    rows = rows_of(stream.records(), params.stream.until, params.base.max_records)
    folder.mkdir(parents=True, exist_ok=True)
    write_rows(folder / RECORDS, rows)
    typer.echo(f"{len(rows)} records before {params.stream.until} in {folder / RECORDS}", err=True)


@app.command()
def train(
    folder: Annotated[Path, typer.Option(help="Where the stages keep their files.")] = FOLDER,
    checkpoints: Annotated[
        Path | None,
        typer.Option(file_okay=False, help="Keep checkpoints in this folder; after a kill, go on from the newest."),
    ] = None,
) -> None:
    """Train the tokenizer and the decoder on the records; write the model and its training curve.

    Uses the GPU where there is one. Several processes share the work, each with its part of every batch and of the experts:

    torchrun --standalone --nproc-per-node 2 -m commands.main base train

    EVERMOE_CHECKPOINT_EVERY says how many steps lie between two checkpoints. The curve holds the steps of the last go.
    """
    from flows.learning.base import learn
    from flows.learning.examples import split
    from model import Checkpoints, Step
    from model.parallel import Ranks

    ranks, rows = Ranks.here(), read_records(folder)
    kept = Checkpoints(checkpoints, use_home(None).checkpoint_every) if checkpoints else None
    steps: list[Step] = []
    columns = (
        TextColumn("training"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[loss]}"),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True, disable=not ranks.is_first) as bars:
        task = bars.add_task("training", total=None, loss="")

        def report(step: Step) -> None:
            steps.append(step)
            bars.update(task, completed=step.number + 1, total=step.of, loss=f"loss {step.loss:.3f}")

        model = learn(split(rows).train, load_params(), report, kept)
    if not ranks.is_first:
        return
    model.save(folder / MODEL)
    with (folder / CURVE).open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["step", "loss", "learning_rate", "peak_load"])
        writer.writerows([step.number, step.loss, step.learning_rate, step.peak_load] for step in steps)
    if kept is not None:
        kept.clear()


@app.command()
def evaluate(folder: Annotated[Path, typer.Option(help="Where the stages keep their files.")] = FOLDER) -> None:
    """Examine the model on the records it was not trained on: over all into metrics.json, month by month into months.csv."""
    from flows.learning.base import examine
    from model import from_pretrained

    by_month = examine(from_pretrained(folder / MODEL), read_records(folder))
    every = by_month.pop("all")
    content = {name: getattr(every, name) for name in (*FIGURES, *COSTS)}
    (folder / METRICS).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    with (folder / MONTHS).open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["month", *FIGURES])
        writer.writerows([month, *(getattr(one, name) for name in FIGURES)] for month, one in by_month.items())


@app.command()
def register(
    folder: Annotated[Path, typer.Option(help="Where the stages keep their files.")] = FOLDER,
    home: Annotated[Path | None, typer.Option(help="Where Evermoe keeps its state; without it, EVERMOE_HOME.")] = None,
) -> None:
    """Make the model of the stages version 1 and champion of a home that has none."""
    from flows.base import frozen, take_in
    from flows.runtime.parts import open_parts
    from model import from_pretrained

    here = use_home(home)
    model, rows = from_pretrained(folder / MODEL), read_records(folder)
    with open_parts() as parts:
        if (champion := parts.versions.champion()) is not None:
            raise Conflict(f"{here.home} already has a champion, version {champion.version}; choose another home")
        frozen(parts.snapshots, rows)
        version = take_in(parts, model, rows, load_params().stream.until)
    typer.echo(f"version {version.version} is champion of {here.home}; `evermoe up` serves it")


def read_records(folder: Path) -> list[SnapshotRow]:
    """The records that `prepare` wrote. Raises `NotReady` before it has run, `BadInput` for a file that is not its."""
    from registry.snapshots import read_rows

    file = folder / RECORDS
    if not file.exists():
        raise NotReady(f"{file} is not there; run `dvc repro`, which makes it")
    rows = read_rows(file)
    if not rows:
        raise BadInput(f"{file} has no records; run `dvc repro --force`")
    return list(rows)
