"""`evermoe rollout`: see and steer the trial of a challenger. Every change asks who and why, and goes through `Controls`."""

from __future__ import annotations

import getpass
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from evermoe.errors import BadInput, EvermoeError, NotReady

if TYPE_CHECKING:
    from flows.parts import Parts
    from registry.audit import AuditRow
    from registry.outlook import Outlook
    from registry.rollout import Decision, Rollout

HOME = typer.Option(help="Where Evermoe keeps its state; without it, EVERMOE_HOME.")
JSON = typer.Option("--json", help="Print one JSON object.")
REASON = typer.Option("--reason", help="Why; it is kept in the audit log. Without it a terminal is asked.")
BY = typer.Option("--by", help="Who; without it, the user of this machine.")

HELP = "\n\n".join(
    (
        "See and steer the trial of a challenger. Every change asks why, and the audit log keeps who, when and why.",
        "The share rises by itself as the evidence allows, and the challenger takes over or goes home by itself; nothing of "
        "this is needed for that. Where you know better: [bold]share[/bold] moves it, [bold]pause[/bold] keeps it where it "
        "is, [bold]abort[/bold] sends everyone back to the champion, [bold]promote[/bold] does not wait for proof.",
        "The same buttons are in the console, which the gateway serves at / (docs/console.md).",
    )
)
app = typer.Typer(no_args_is_help=True, help=HELP, rich_markup_mode="rich")


@app.command()
def status(home: Annotated[Path | None, HOME] = None, as_json: Annotated[bool, JSON] = False) -> None:
    """Who serves what share, what users' feedback proves so far, and what the next automatic step waits for."""
    with parts_of(home) as parts:
        champion, rollout = parts.versions.champion(), parts.ledger.running()
        seen = foreseen(parts, rollout) if rollout else None
    content: dict[str, Any] = {
        "champion": champion.version if champion else None,
        "rollout": plain(asdict(rollout)) if rollout else None,
        "evidence": plain(asdict(seen.verdict)) if seen else None,
        "next": asdict(seen.next) if seen else None,
    }
    if as_json:
        typer.echo(json.dumps(content))
        return
    typer.echo(f"champion: version {content['champion'] or 'none'}")
    if rollout is None or seen is None:
        typer.echo("no challenger on trial")
        return
    typer.echo(
        f"rollout {rollout.id}: version {rollout.challenger} meets {rollout.share:.0%} of the units ({rollout.status})"
    )
    typer.echo(f"next: {seen.next.action}; {seen.next.reason}")


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
    table = Table("at (UTC)", "rollout", "action", "share", "by", "why", box=None)
    for row in rows:
        table.add_row(f"{row.at:%Y-%m-%d %H:%M}", row.rollout, row.action, f"{row.share:.0%}", row.by, row.reason)
    Console().print(table)


@app.command()
def start(
    version: Annotated[str, typer.Argument(help="The registered version to put on trial.")],
    reason: Annotated[str | None, REASON] = None,
    by: Annotated[str | None, BY] = None,
    home: Annotated[Path | None, HOME] = None,
    as_json: Annotated[bool, JSON] = False,
) -> None:
    """Put a registered version on trial against the champion, at the foot of the ramp."""
    why = stated(reason)
    from flows.parts import policy_of
    from registry import starting
    from registry.controls import Controls

    with parts_of(home) as parts:
        controls = Controls(parts.ledger, parts.versions, parts.tracking)
        policy = policy_of(parts.params)
        opened = starting.start(controls, version, policy, by=signed(by), reason=why, now=datetime.now(UTC))
    tell(
        opened,
        as_json,
        f"rollout {opened.id} is {opened.status}: version {version} meets {opened.share:.0%} of the units",
    )


@app.command()
def pause(
    reason: Annotated[str | None, REASON] = None,
    by: Annotated[str | None, BY] = None,
    home: Annotated[Path | None, HOME] = None,
    as_json: Annotated[bool, JSON] = False,
) -> None:
    """Stop all automatic moves; every unit keeps its arm."""
    from registry import rollout as machine

    steer(home, by, reason, as_json, machine.pause)


@app.command()
def resume(
    reason: Annotated[str | None, REASON] = None,
    by: Annotated[str | None, BY] = None,
    home: Annotated[Path | None, HOME] = None,
    as_json: Annotated[bool, JSON] = False,
) -> None:
    """Let a paused rollout move again."""
    from registry import rollout as machine

    steer(home, by, reason, as_json, machine.resume)


@app.command()
def share(
    share: Annotated[float, typer.Argument(help="The challenger's share of the units, above 0 and below 1.")],
    reason: Annotated[str | None, REASON] = None,
    by: Annotated[str | None, BY] = None,
    home: Annotated[Path | None, HOME] = None,
    as_json: Annotated[bool, JSON] = False,
) -> None:
    """Give the challenger this share; the ramp goes on from there."""
    from registry import rollout as machine

    steer(home, by, reason, as_json, lambda rollout, why: machine.set_share(rollout, share, why))


@app.command()
def promote(
    reason: Annotated[str | None, REASON] = None,
    by: Annotated[str | None, BY] = None,
    home: Annotated[Path | None, HOME] = None,
    as_json: Annotated[bool, JSON] = False,
) -> None:
    """Let the challenger take over now, without waiting for proof."""
    from registry import rollout as machine

    steer(home, by, reason, as_json, machine.promote)


@app.command()
def abort(
    reason: Annotated[str | None, REASON] = None,
    by: Annotated[str | None, BY] = None,
    home: Annotated[Path | None, HOME] = None,
    as_json: Annotated[bool, JSON] = False,
) -> None:
    """Send all units back to the champion and end the trial."""
    from registry import rollout as machine

    steer(home, by, reason, as_json, machine.abort)


@app.command()
def replay(
    rollout: Annotated[str | None, typer.Argument(help="Whose log; without it, the rollout opened last.")] = None,
    shares: Annotated[str, typer.Option(help="The ramp to judge, as in 0.1,0.5; one share is kept throughout.")] = "",
    min_rewards: Annotated[
        int | None, typer.Option(help="Rewards before each step; without it, as params.yaml has it.", min=1)
    ] = None,
    hours: Annotated[float, typer.Option(help="Between two looks.", min=0.01)] = 1.0,
    home: Annotated[Path | None, HOME] = None,
    as_json: Annotated[bool, JSON] = False,
) -> None:
    """Judge a ramp off-line: what it would have been worth on a rollout's log, before it meets a user."""
    from flows.parts import policy_of
    from registry.offline import FEWEST_EFFECTIVE, Fixed, Ramp
    from registry.offline import replay as live_again
    from registry.outlook import in_time

    with parts_of(home) as parts:
        known = parts.ledger.list()
        if not known:
            raise NotReady("there was no rollout yet, so there is no log to judge by")
        chosen = parts.ledger.get(rollout) if rollout else known[-1]
        given = policy_of(parts.params)
        ramp = parsed(shares) or given.shares
        policy = replace(given, shares=ramp, min_rewards_per_step=min_rewards or given.min_rewards_per_step)
        chooser = (
            Fixed(ramp[0]) if shares and len(ramp) == 1 else Ramp(policy, chosen.opened_at, timedelta(hours=hours))
        )
        found = live_again(in_time(parts.events.rewards(chosen.id), policy, datetime.now(UTC)), chooser)
    if as_json:
        typer.echo(json.dumps({"rollout": chosen.id, "shares": ramp, **asdict(found)}))
        return
    typer.echo(f"rollout {chosen.id}, {found.rewards} units; the policy was shown {found.shown} of them")
    typer.echo(f"  {found.outcome}")
    typer.echo(
        f"  mean reward {found.value:.3f} (95% {found.low:.3f} to {found.high:.3f}); the log's own {found.logged:.3f}"
    )
    if not found.enough:
        typer.echo(
            f"  believe nothing of it: the log is worth {found.effective:.0f} units of this policy, "
            f"{FEWEST_EFFECTIVE:.0f} are the least"
        )


def parsed(shares: str) -> tuple[float, ...]:
    """`0.1,0.5` as numbers; empty where nothing is given. Raises `BadInput`."""
    try:
        return tuple(float(one) for one in shares.split(",") if one.strip())
    except ValueError:
        raise BadInput(f"--shares {shares!r}: give numbers between 0 and 1 with commas between, 0.1,0.5 say") from None


def steer(
    home: Path | None, by: str | None, reason: str | None, as_json: bool, decided: Callable[[Rollout, str], Decision]
) -> None:
    """Carry out what a person decided on the open rollout, and tell it. Raises `NotReady` where none is open."""
    why = stated(reason)
    from registry.controls import Controls

    with parts_of(home) as parts:
        rollout = parts.ledger.running()
        if rollout is None:
            raise NotReady("no challenger is on trial; `evermoe rollout history` shows what was decided before")
        controls = Controls(parts.ledger, parts.versions, parts.tracking)
        decision, verdict = decided(rollout, why), foreseen(parts, rollout).verdict
        after = controls.apply(rollout, decision, signed(by), datetime.now(UTC), verdict)
    tell(after, as_json, f"rollout {after.id} is {after.status}, the challenger's share {after.share:.0%}")


def stated(reason: str | None) -> str:
    """The reason that was given, or that a person at a terminal gives now. Raises `BadInput` where there is none."""
    if reason is None and sys.stdin.isatty():
        reason = typer.prompt("Why? The audit log keeps it", err=True)
    if reason is None or not reason.strip():
        raise BadInput("say why with --reason TEXT; the audit log keeps it")
    return reason.strip()


def signed(by: str | None) -> str:
    """How the audit names who decides. Raises `BadInput` for an empty name."""
    name = getpass.getuser() if by is None else by.strip()
    if not name:
        raise BadInput("--by is empty; say who decides, or leave it out")
    return name


def tell(rollout: Rollout, as_json: bool, words: str) -> None:
    """What a rollout became, for a program or for a person."""
    typer.echo(json.dumps(plain(asdict(rollout))) if as_json else words)


def foreseen(parts: Parts, rollout: Rollout) -> Outlook:
    """What the feedback so far proves, and what the next automatic step would do."""
    from flows.parts import policy_of
    from registry.outlook import outlook, weighed
    from registry.watching import watch

    policy, now = policy_of(parts.params), datetime.now(UTC)
    proof = weighed(parts.events.rewards(rollout.id), policy, now)
    return outlook(rollout, proof, policy, now, watch(parts.events, rollout, policy, now))


def parts_of(home: Path | None) -> Any:
    """The parts of an existing home."""
    from commands.update import open_existing

    open_existing(home)
    from flows.parts import open_parts

    return open_parts()


def plain(content: dict[str, Any]) -> dict[str, Any]:
    """Times as text, so that JSON can hold them."""
    return {name: value.isoformat() if isinstance(value, datetime) else value for name, value in content.items()}
