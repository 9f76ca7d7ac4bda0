"""`evermoe reproduce VERSION`: make a version again from its lineage, and say whether it is the same, bit for bit."""

from __future__ import annotations

import json
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from commands.home import HOME, JSON, open_existing
from commands.update import watched
from evermoe.errors import EvermoeError

if TYPE_CHECKING:
    from flows.lineage.reproduce import Rebuilt


class Differs(EvermoeError):
    """What was made again is not what was recorded."""


def reproduce(
    version: Annotated[str, typer.Argument(help="The version, as `evermoe rollout history` and MLflow number it.")],
    home: Annotated[Path | None, HOME] = None,
    into: Annotated[
        Path | None,
        typer.Option(file_okay=False, help="Keep what is made in this clean folder; without it, it is removed."),
    ] = None,
    from_base: Annotated[
        bool, typer.Option("--from-base", help="Make all versions that it came from again too, from the base on.")
    ] = False,
    as_json: Annotated[bool, JSON] = False,
) -> None:
    """Make a version again from its recorded data, parameters and seeds, and compare it file by file with the registered one.

    On the same kind of machine, with the same commit and libraries, every file is the same, bit for bit; otherwise it is said
    which file differs, and what is not here as it was then.
    """
    here = open_existing(home)
    from flows.lineage.record import changed_since
    from flows.lineage.reproduce import chain
    from flows.lineage.reproduce import reproduce as rebuild
    from flows.runtime.parts import open_versions
    from registry.snapshots import Snapshots

    began, versions = time.monotonic(), open_versions(here)
    links = chain(versions, version, from_base)
    changed = tuple(dict.fromkeys(cause for link in links for cause in changed_since(link.lineage)))
    for cause in changed:
        typer.echo(f"evermoe: warning: made with {cause}", err=True)
    done: list[Rebuilt] = []
    with ExitStack() as held:
        folder = into or Path(held.enter_context(tempfile.TemporaryDirectory()))
        with watched():
            for one in rebuild(versions, Snapshots(here.home.resolve()), links, folder):
                done.append(one)
                if not as_json:
                    typer.echo(said(one))
    if as_json:
        typer.echo(json.dumps(content(version, done, changed, into, time.monotonic() - began)))
    if not done[-1].identical:
        why = f"made with {', '.join(changed)}" if changed else "and nothing that was recorded explains it"
        raise Differs(f"version {done[-1].version} differs: {done[-1].differences[0]}; {why}")


def said(one: Rebuilt) -> str:
    """What came of one version, in words."""
    if one.identical:
        return f"version {one.version}: bit-identical, {len(one.files)} files"
    return "\n".join([f"version {one.version}: differs", *(f"  {line}" for line in one.differences)])


def content(
    version: str, done: list[Rebuilt], changed: tuple[str, ...], into: Path | None, seconds: float
) -> dict[str, object]:
    """What `--json` prints."""
    return {
        "version": version,
        "identical": done[-1].identical,
        "versions": [
            {
                "version": one.version,
                "identical": one.identical,
                "files": list(one.files),
                "differences": list(one.differences),
                **({"folder": str(one.folder)} if into else {}),
            }
            for one in done
        ],
        "changed": list(changed),
        "seconds": round(seconds, 1),
    }
