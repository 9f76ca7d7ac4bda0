"""The `evermoe` command: one verb at a time, each in the file of its group, and the edge where errors become one line.

It knows the verbs by name and what they are for, not what they do: only the verb that was asked for is imported, so help
and mistakes answer at once.
"""

from __future__ import annotations

import errno
import importlib
import os
import shutil
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from evermoe import __version__
from evermoe.errors import EvermoeError
from evermoe.quiet import silence

HELP = "\n\n".join(
    (
        "Keep a mixture-of-experts language model fresh: serve it, watch its data drift, update it every month, "
        "prove the new version on live traffic, let it take over.",
        "New here? [bold]evermoe demo[/bold] replays months of real records through the real parts and prints what "
        "happened. Then [bold]evermoe up[/bold] serves what it made: the model behind an OpenAI-compatible API, and "
        "three pages to look around: the rollout console, MLflow, Prefect.",
        "State lives in [bold].evermoe/[/bold]; EVERMOE_HOME or --home moves it. Something wrong? [bold]evermoe doctor[/bold].",
    )
)

FULL = "the disk that holds {place} is full; nothing half-written is used, free some space and try again"
SERVICES = 4  # the exit code of errors about the programs beside us, which a full disk breaks in their own ways
START, LOOP, CARE = "Start here", "The loop, step by step", "Look after it"


@dataclass(frozen=True)
class Verb:
    """A word after `evermoe`: where its function (or its Typer app, for a verb with verbs of its own) lives, and what it is for."""

    target: str
    purpose: str
    panel: str
    hidden: bool = False


VERBS = {
    "demo": Verb(
        "commands.demo:demo", "Replay months of real records through the whole loop, and show what happened.", START
    ),
    "up": Verb(
        "commands.up:up", "Serve the platform: gateway, Prefect with its runner, MLflow. Ctrl-C stops all.", START
    ),
    "ingest": Verb("commands.ingest:ingest", "Bring a stream of dated records and say what is in it.", LOOP),
    "base": Verb("commands.base:app", "Make the first model (the stages of dvc.yaml).", LOOP, hidden=True),
    "upcycle": Verb("commands.upcycle:upcycle", "Give a pretrained dense model experts: bring your own model.", LOOP),
    "serve": Verb("commands.serve:serve", "Serve the registered model alone: the OpenAI-compatible gateway.", LOOP),
    "drift": Verb("commands.update:drift", "Compare what users ask now with what the champion learned from.", LOOP),
    "update": Verb(
        "commands.update:update", "Make this month's challenger: train, distil, pass the gates, register.", LOOP
    ),
    "rollout": Verb(
        "commands.rollout:app", "See and steer the rollout: status, start, share, promote, abort, revert …", LOOP
    ),
    "keys": Verb("commands.keys:app", "Say who may use the gateway: create, list and revoke API keys.", CARE),
    "log": Verb("commands.log:app", "Export the event log as Parquet files, and delete what was exported.", CARE),
    "reproduce": Verb(
        "commands.reproduce:reproduce", "Make a version again from its lineage, and compare it bit for bit.", CARE
    ),
    "doctor": Verb("commands.doctor:doctor", "Check this installation and this home, and say what to do.", CARE),
}


def build_app(chosen: str | None) -> typer.Typer:
    """The Typer app in which only the chosen verb is real; the others are names with their purpose, for the help."""
    app = typer.Typer(name="evermoe", no_args_is_help=True, add_completion=False, rich_markup_mode="rich")
    app.callback(help=HELP)(root)
    for name, verb in VERBS.items():
        real = load(verb) if name == chosen else placeholder
        if isinstance(real, typer.Typer):
            told = real.info.help if isinstance(real.info.help, str) else verb.purpose
            app.add_typer(real, name=name, help=told, rich_help_panel=verb.panel, hidden=verb.hidden)
        else:
            given = None if name == chosen else verb.purpose
            app.command(name, help=given, rich_help_panel=verb.panel, hidden=verb.hidden)(real)
    return app


def show_version(asked: bool) -> None:
    """Answer `--version` before a verb is looked for."""
    if asked:
        typer.echo(f"evermoe {__version__}")
        raise typer.Exit


def root(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", is_eager=True, callback=show_version)
    ] = False,
) -> None:
    """What comes before the verb."""


def placeholder() -> None:
    """A verb that was not asked for."""


def load(verb: Verb) -> Callable[..., Any] | typer.Typer:
    """Import a verb."""
    module, _, name = verb.target.partition(":")
    real: Callable[..., Any] | typer.Typer = getattr(importlib.import_module(module), name)
    return real


def run(argv: Sequence[str]) -> int:
    """Run one command line; returns the exit status. Errors go to stderr, one line each."""
    chosen = next((word for word in argv if not word.startswith("-")), None)
    try:
        result = build_app(chosen)(args=list(argv), prog_name="evermoe", standalone_mode=False)
        sys.stdout.flush()
        status = result if isinstance(result, int) else 0
        return say("interrupted", 130) if status == 130 else status  # Typer turns Ctrl-C into this status
    except EvermoeError as error:
        return say(FULL.format(place=home()), 1) if disk_full(error) else say(str(error), error.exit_code)
    except typer.TyperException as error:
        return usage(error, chosen)
    except (KeyboardInterrupt, typer.Abort):  # before the verb began, or at a question
        return say("interrupted", 130)
    except BrokenPipeError:  # the reader of our output has gone: `evermoe ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except Exception as error:
        return unexpected(error, argv)


def usage(error: typer.TyperException, chosen: str | None) -> int:
    """A command line we cannot read: its mistake in one line, and where the help is. Bare `evermoe` is answered with the help."""
    message = error.format_message()
    if not message.strip() or "Usage:" in message:  # no arguments at all: Typer's message is the help
        typer.echo(message)
        return 0
    where = f"evermoe {chosen} --help" if chosen in VERBS else "evermoe --help"
    return say(f"{' '.join(message.split()).rstrip('.')}; see `{where}`", 2)


def unexpected(error: Exception, argv: Sequence[str]) -> int:
    """A mistake of ours, or a machine in trouble: one line, and the traceback where it can be found."""
    if os.environ.get("EVERMOE_DEBUG") == "1":
        traceback.print_exception(error)
        return 1
    if disk_full(error):
        return say(FULL.format(place=home()), 1)
    summary = (str(error).strip().splitlines() or [""])[0][:200]
    told = f"{type(error).__name__}: {summary}" if summary else type(error).__name__
    now = datetime.now(UTC)
    log = home() / "logs" / f"error-{now:%Y%m%dT%H%M%S}-{os.getpid()}.log"
    try:
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_text(
            f"{now.isoformat()} evermoe {__version__}: {' '.join(argv)}\n\n{''.join(traceback.format_exception(error))}"
        )
    except OSError:
        return say(f"unexpected {told}; EVERMOE_DEBUG=1 shows the traceback", 1)
    return say(f"unexpected {told}; the traceback is in {log}", 1)


def disk_full(error: BaseException) -> bool:
    """Whether a full disk is behind an error: it says so, or something broke in a way it would not with room to write."""
    at: BaseException | None = error
    while at is not None:
        if isinstance(at, OSError) and at.errno == errno.ENOSPC:
            return True
        if "disk is full" in str(at) or "No space left on device" in str(at):
            return True
        at = at.__cause__ or at.__context__
    if isinstance(error, EvermoeError) and error.exit_code != SERVICES:
        return False
    place = home().resolve()
    while not place.exists():
        place = place.parent
    return shutil.disk_usage(place).free < 1024**2


def home() -> Path:
    """Where the home is, even if the settings cannot be read."""
    return Path(os.environ.get("EVERMOE_HOME", ".evermoe"))


def say(message: str, status: int) -> int:
    """Say what went wrong on stderr; returns the status. One line, unless the message quotes the end of a log."""
    print(f"evermoe: {message}", file=sys.stderr)
    return status


def main() -> None:
    """The entry point of the `evermoe` command."""
    silence()
    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
