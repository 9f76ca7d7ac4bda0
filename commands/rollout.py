"""`evermoe rollout`: see and steer the trial of a challenger. Every change asks who and why, and goes through `Controls`."""

from __future__ import annotations

import getpass
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from evermoe.errors import EvermoeError, NotReady

if TYPE_CHECKING:
    from flows.parts import Parts
    from registry.audit import AuditRow
    from registry.rollout import Decision, Rollout

HOME = typer.Option(help="Where Evermoe keeps its state; without it, EVERMOE_HOME.")
JSON = typer.Option("--json", help="Print one JSON object.")
REASON = typer.Option("--reason", help="Why; it is kept in the audit log.")
BY = typer.Option("--by", help="Who; without it, the user of this machine.")

app = typer.Typer(no_args_is_help=True)


@app.command()
def status(home: Annotated[Path | None, HOME] = None, as_json: Annotated[bool, JSON] = False) -> None:
    """Who serves what share, and what users' feedback proves so far."""
    with parts_of(home) as parts:
        champion, rollout = parts.versions.champion(), parts.ledger.running()
        verdict = weighed(parts, rollout) if rollout else None
    content: dict[str, Any] = {
        "champion": champion.version if champion else None,
        "rollout": plain(asdict(rollout)) if rollout else None,
        "evidence": plain(asdict(verdict)) if verdict else None,
    }
    if as_json:
        typer.echo(json.dumps(content))
        return
    typer.echo(f"champion: version {content['champion'] or 'none'}")
    if rollout is None or verdict is None:
        typer.echo("no challenger on trial")
        return
    typer.echo(
        f"rollout {rollout.id}: version {rollout.challenger} meets {rollout.share:.0%} of the units ({rollout.status})"
    )
    typer.echo(f"  {verdict.reason}")


@app.command()
def history(home: Annotated[Path | None, HOME] = None, as_json: Annotated[bool, JSON] = False) -> None:
    """Every decision ever made, by whom and why; fails where the audit log was tampered with, and says at which row."""
    with parts_of(home) as parts:
        rows, verified = parts.ledger.history(), parts.ledger.verify()
    if as_json:
        content = {"verified": verified.ok, "broken_at": verified.broken_at, "reason": verified.reason}
        typer.echo(json.dumps(content | {"decisions": [plain(asdict(row)) for row in rows]}))
    else:
        show_history(rows)
    if not verified.ok:
        raise EvermoeError(f"the audit chain is broken: {verified.reason}")
    if not as_json:
        typer.echo("the audit chain is whole")


def show_history(rows: Sequence[AuditRow]) -> None:
    """The decisions as a table."""
    table = Table("at", "rollout", "action", "share", "by", "why", box=None)
    for row in rows:
        table.add_row(f"{row.at:%Y-%m-%d %H:%M}", row.rollout, row.action, f"{row.share:.0%}", row.by, row.reason)
    Console().print(table)


@app.command()
def start(
    version: Annotated[str, typer.Argument(help="The registered version to put on trial.")],
    reason: Annotated[str, REASON],
    by: Annotated[str | None, BY] = None,
    home: Annotated[Path | None, HOME] = None,
    as_json: Annotated[bool, JSON] = False,
) -> None:
    """Put a registered version on trial against the champion, at the foot of the ramp."""
    from flows.trial import salt_of
    from registry.controls import Controls
    from registry.rollout import Policy, new_rollout

    with parts_of(home) as parts:
        champion = parts.versions.champion()
        if champion is None:
            raise NotReady("there is no champion to compare with; run `evermoe demo`, or make a base with `dvc repro`")
        challenger = parts.versions.get(version)
        name = f"{challenger.month}-v{version}-against-v{champion.version}"
        policy = Policy(**parts.params.rollout.model_dump())
        now = datetime.now(UTC)
        rollout = new_rollout(name, challenger.month, champion.version, version, salt_of(name, challenger), policy, now)
        controls = Controls(parts.ledger, parts.versions, parts.tracking)
        opened = controls.open(rollout, by=f"{by or getpass.getuser()}: {reason}")
    tell(
        opened,
        as_json,
        f"rollout {opened.id} is {opened.status}: version {version} meets {opened.share:.0%} of the units",
    )


@app.command()
def pause(
    reason: Annotated[str, REASON],
    by: Annotated[str | None, BY] = None,
    home: Annotated[Path | None, HOME] = None,
    as_json: Annotated[bool, JSON] = False,
) -> None:
    """Stop all automatic moves; every unit keeps its arm."""
    from registry import rollout as machine

    steer(home, by, as_json, lambda rollout: machine.pause(rollout, reason))


@app.command()
def resume(
    reason: Annotated[str, REASON],
    by: Annotated[str | None, BY] = None,
    home: Annotated[Path | None, HOME] = None,
    as_json: Annotated[bool, JSON] = False,
) -> None:
    """Let a paused rollout move again."""
    from registry import rollout as machine

    steer(home, by, as_json, lambda rollout: machine.resume(rollout, reason))


@app.command()
def share(
    share: Annotated[float, typer.Argument(help="The challenger's share of the units, above 0 and below 1.")],
    reason: Annotated[str, REASON],
    by: Annotated[str | None, BY] = None,
    home: Annotated[Path | None, HOME] = None,
    as_json: Annotated[bool, JSON] = False,
) -> None:
    """Give the challenger this share; the ramp goes on from there."""
    from registry import rollout as machine

    steer(home, by, as_json, lambda rollout: machine.set_share(rollout, share, reason))


@app.command()
def promote(
    reason: Annotated[str, REASON],
    by: Annotated[str | None, BY] = None,
    home: Annotated[Path | None, HOME] = None,
    as_json: Annotated[bool, JSON] = False,
) -> None:
    """Let the challenger take over now, without waiting for proof."""
    from registry import rollout as machine

    steer(home, by, as_json, lambda rollout: machine.promote(rollout, reason))


@app.command()
def abort(
    reason: Annotated[str, REASON],
    by: Annotated[str | None, BY] = None,
    home: Annotated[Path | None, HOME] = None,
    as_json: Annotated[bool, JSON] = False,
) -> None:
    """Send all units back to the champion and end the trial."""
    from registry import rollout as machine

    steer(home, by, as_json, lambda rollout: machine.abort(rollout, reason))


def steer(home: Path | None, by: str | None, as_json: bool, decided: Callable[[Rollout], Decision]) -> None:
    """Carry out what a person decided on the open rollout, and tell it. Raises `NotReady` where none is open."""
    from registry.controls import Controls

    with parts_of(home) as parts:
        rollout = parts.ledger.running()
        if rollout is None:
            raise NotReady("no challenger is on trial; `evermoe rollout history` shows what was decided before")
        controls = Controls(parts.ledger, parts.versions, parts.tracking)
        verdict = weighed(parts, rollout)
        after = controls.apply(rollout, decided(rollout), by or getpass.getuser(), datetime.now(UTC), verdict)
    tell(after, as_json, f"rollout {after.id} is {after.status}, the challenger's share {after.share:.0%}")


def tell(rollout: Rollout, as_json: bool, words: str) -> None:
    """What a rollout became, for a program or for a person."""
    typer.echo(json.dumps(plain(asdict(rollout))) if as_json else words)


def weighed(parts: Parts, rollout: Rollout) -> Any:
    """What the feedback so far proves."""
    from registry.evidence import weigh

    return weigh(parts.events.rewards(rollout.id), parts.params.rollout.alpha, datetime.now(UTC))


def parts_of(home: Path | None) -> Any:
    """The parts of an existing home."""
    from commands.update import open_existing

    open_existing(home)
    from flows.parts import open_parts

    return open_parts()


def plain(content: dict[str, Any]) -> dict[str, Any]:
    """Times as text, so that JSON can hold them."""
    return {name: value.isoformat() if isinstance(value, datetime) else value for name, value in content.items()}
