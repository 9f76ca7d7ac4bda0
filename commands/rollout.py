"""`evermoe rollout`: see and steer the trial of a challenger. Every change asks who and why, and goes through `Controls`."""

from __future__ import annotations

import getpass
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from commands.home import HOME, JSON, parts_of
from commands.rollout_replay import replay
from evermoe.errors import BadInput, EvermoeError, NotReady

if TYPE_CHECKING:
    from flows.runtime.parts import Parts
    from registry.analysis.outlook import Outlook
    from registry.book.audit import AuditRow
    from registry.evidence import Verdict
    from registry.rollout import Decision, Rollout

REASON = typer.Option("--reason", help="Why; it is kept in the audit log. Without it a terminal is asked.")
OF = typer.Argument(help="Which version, where several are on trial.")
BY = typer.Option("--by", help="Who; without it, the user of this steering.")

HELP = "\n\n".join(
    (
        "See and steer the trial of a challenger, or of several. Every change asks why, and the audit log keeps who, when and why.",
        "Shares move by themselves as the evidence allows, and a challenger takes over or goes home by itself; nothing of "
        "this is needed for that. Where you know better: [bold]share[/bold] moves one, [bold]pause[/bold] keeps all where they "
        "are, [bold]abort[/bold] sends everyone back to the champion, [bold]promote[/bold] does not wait for proof, "
        "[bold]revert[/bold] takes the last promotion back. Where several versions are on trial, name the one you mean.",
        "The same buttons are in the console, which the gateway serves at / (docs/console.md).",
    )
)
app = typer.Typer(no_args_is_help=True, help=HELP, rich_markup_mode="rich")
app.command()(replay)


@app.command()
def status(home: Annotated[Path | None, HOME] = None, as_json: Annotated[bool, JSON] = False) -> None:
    """Who serves what share, what users' feedback proves so far, and what the next automatic step waits for."""
    from registry.rollout import content_of

    with parts_of(home) as parts:
        champion, rollout = parts.versions.champion(), parts.ledger.running()
        seen = foreseen(parts, rollout) if rollout else None
    content: dict[str, Any] = {
        "champion": champion.version if champion else None,
        "rollout": content_of(rollout) if rollout else None,
        "evidence": plain(asdict(seen.verdict)) if seen else None,
        "arms": arms_of(rollout, seen) if rollout and seen else None,
        "left_out": seen.left_out if seen else None,
        "next": asdict(seen.next) if seen else None,
    }
    if as_json:
        typer.echo(json.dumps(content))
        return
    typer.echo(f"champion: version {content['champion'] or 'none'}")
    if rollout is None or seen is None:
        typer.echo("no challenger on trial")
        return
    typer.echo(f"rollout {rollout.id}: {meets(rollout)} ({rollout.status})")
    if rollout.several:
        show_arms(rollout, seen)
    if seen.left_out:
        typer.echo(
            f"left out: {seen.left_out} rewards on requests without a unit, beyond what one API key may give; send units"
        )
    typer.echo(f"next: {seen.next.action}; {seen.next.reason}")


def meets(rollout: Rollout) -> str:
    """Which versions meet how many units, in a few words."""
    from registry.rollout import listed

    versions, share = [one.version for one in rollout.inside], f"{rollout.share:.0%} of the units"
    return f"version {versions[0]} meets {share}" if len(versions) == 1 else f"versions {listed(versions)} meet {share}"


def arms_of(rollout: Rollout, seen: Outlook) -> list[dict[str, Any]]:
    """Each challenger with its share, whether it is out and why, and what its rewards prove against the champion."""
    return [asdict(one) | {"evidence": plain(asdict(seen.standing.verdict(one.arm)))} for one in rollout.challengers]


def show_arms(rollout: Rollout, seen: Outlook) -> None:
    """The arms as a table: the champion, then every challenger."""
    table = Table("version", "share", "rewards", "mean reward", "lift against the champion", "", box=None)
    first = seen.standing.verdict(rollout.challengers[0].arm)
    table.add_row(f"{rollout.champion} (champion)", f"{1 - rollout.share:.1%}", *counted(first, "champion"), "", "")
    for one in rollout.challengers:
        verdict = seen.standing.verdict(one.arm)
        lift = f"{verdict.lift:+.3f} in [{verdict.interval[0]:+.3f}, {verdict.interval[1]:+.3f}]"
        share = "out" if one.out else f"{one.share:.1%}"
        table.add_row(one.version, share, *counted(verdict, "challenger"), Text(lift), Text(one.out))
    Console().print(table)


def counted(verdict: Verdict, arm: str) -> tuple[str, str]:
    """How many rewards an arm of a verdict has, and their mean."""
    mean = verdict.means[arm]
    return f"{verdict.rewards[arm]}", "" if mean is None else f"{mean:.3f}"


@app.command()
def history(home: Annotated[Path | None, HOME] = None, as_json: Annotated[bool, JSON] = False) -> None:
    """Every decision ever made, by whom and why; fails where the audit log was tampered with, and says at which row."""
    with parts_of(home) as parts:
        verified = parts.ledger.verify()
        rows = parts.ledger.history(before=verified.broken_at)  # a row that was changed may not even be readable
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
    from registry.tracker.pages import shared

    table = Table("at (UTC)", "rollout", "action", "share", "by", "why", box=None)
    for row in rows:
        said = Text(row.by), Text(row.reason)  # what a person wrote is no markup
        table.add_row(f"{row.at:%Y-%m-%d %H:%M}", row.rollout, row.action, shared(row), *said)
    Console().print(table)


@app.command()
def start(
    versions: Annotated[list[str], typer.Argument(help="The registered version to put on trial, or several.")],
    reason: Annotated[str | None, REASON] = None,
    by: Annotated[str | None, BY] = None,
    home: Annotated[Path | None, HOME] = None,
    as_json: Annotated[bool, JSON] = False,
) -> None:
    """Put registered versions on trial against the champion: one climbs the ramp, several share the units as feedback leads."""
    why = stated(reason)
    from flows.runtime.parts import policy_of
    from registry.actions import starting
    from registry.actions.controls import Controls

    with parts_of(home) as parts:
        controls = Controls(parts.ledger, parts.versions, parts.tracking)
        policy = policy_of(parts.params)
        opened = starting.start(controls, versions, policy, by=signed(by), reason=why, now=datetime.now(UTC))
    tell(opened, as_json, f"rollout {opened.id} is {opened.status}: {meets(opened)}")


@app.command()
def pause(
    reason: Annotated[str | None, REASON] = None,
    by: Annotated[str | None, BY] = None,
    home: Annotated[Path | None, HOME] = None,
    as_json: Annotated[bool, JSON] = False,
) -> None:
    """Stop all automatic moves; every unit keeps its arm."""
    from registry.actions import steering

    steer(home, by, reason, as_json, steering.pause)


@app.command()
def resume(
    reason: Annotated[str | None, REASON] = None,
    by: Annotated[str | None, BY] = None,
    home: Annotated[Path | None, HOME] = None,
    as_json: Annotated[bool, JSON] = False,
) -> None:
    """Let a paused rollout move again."""
    from registry.actions import steering

    steer(home, by, reason, as_json, steering.resume)


@app.command()
def share(
    share: Annotated[float, typer.Argument(help="The challenger's share of the units, above 0 and below 1.")],
    version: Annotated[str | None, OF] = None,
    reason: Annotated[str | None, REASON] = None,
    by: Annotated[str | None, BY] = None,
    home: Annotated[Path | None, HOME] = None,
    as_json: Annotated[bool, JSON] = False,
) -> None:
    """Give a challenger this share; automatic steps go on from there."""
    from registry.actions import steering

    steer(home, by, reason, as_json, lambda rollout, why: steering.set_share(rollout, share, why, version))


@app.command()
def promote(
    version: Annotated[str | None, OF] = None,
    reason: Annotated[str | None, REASON] = None,
    by: Annotated[str | None, BY] = None,
    home: Annotated[Path | None, HOME] = None,
    as_json: Annotated[bool, JSON] = False,
) -> None:
    """Let a challenger take over now, without waiting for proof."""
    from registry.actions import steering

    steer(home, by, reason, as_json, lambda rollout, why: steering.promote(rollout, why, version))


@app.command()
def abort(
    version: Annotated[
        str | None, typer.Argument(help="Of several on trial, the one to send home; without it, all of them.")
    ] = None,
    reason: Annotated[str | None, REASON] = None,
    by: Annotated[str | None, BY] = None,
    home: Annotated[Path | None, HOME] = None,
    as_json: Annotated[bool, JSON] = False,
) -> None:
    """Send all units back to the champion and end the trial, or one version of several, and the others go on."""
    from registry.actions import steering

    steer(home, by, reason, as_json, lambda rollout, why: steering.abort(rollout, why, version))


@app.command()
def revert(
    reason: Annotated[str | None, REASON] = None,
    by: Annotated[str | None, BY] = None,
    home: Annotated[Path | None, HOME] = None,
    as_json: Annotated[bool, JSON] = False,
) -> None:
    """Take the last promotion back: the champion before it answers everyone again."""
    why = stated(reason)
    from flows.runtime.parts import policy_of
    from registry.actions import steering
    from registry.actions.controls import Controls
    from registry.analysis.outlook import weighed
    from registry.rollout import in_force

    with parts_of(home) as parts:
        last = in_force(reversed(parts.ledger.list()))
        if last is None:
            raise NotReady("no rollout has moved the champion yet, so there is no promotion to take back")
        controls, decision = Controls(parts.ledger, parts.versions, parts.tracking), steering.revert(last, why)
        controls.check_in_place(last)
        assert last.closed_at is not None
        proof = weighed(last, parts.events.rewards(last.id), policy_of(parts.params), last.closed_at).standing
        after = controls.apply(last, decision, signed(by), datetime.now(UTC), proof)
    tell(after, as_json, f"rollout {after.id} is {after.status}: version {after.champion} answers everyone again")


def steer(
    home: Path | None, by: str | None, reason: str | None, as_json: bool, decided: Callable[[Rollout, str], Decision]
) -> None:
    """Carry out what a person decided on the open rollout, and tell it. Raises `NotReady` where none is open."""
    why = stated(reason)
    from registry.actions.controls import Controls

    with parts_of(home) as parts:
        rollout = parts.ledger.running()
        if rollout is None:
            raise NotReady("no challenger is on trial; `evermoe rollout history` shows what was decided before")
        controls = Controls(parts.ledger, parts.versions, parts.tracking)
        decision, proof = decided(rollout, why), foreseen(parts, rollout).standing
        after = controls.apply(rollout, decision, signed(by), datetime.now(UTC), proof)
    shares = ", ".join(f"{one.version} {'out' if one.out else f'{one.share:.0%}'}" for one in after.challengers)
    said = f"shares: {shares}" if after.several else f"the challenger's share {after.share:.0%}"
    tell(after, as_json, f"rollout {after.id} is {after.status}, {said}")


def stated(reason: str | None) -> str:
    """The reason that was given, or that a person at a terminal gives now. Raises `BadInput` where there is none."""
    if reason is None and sys.stdin.isatty():
        reason = typer.prompt("Why? The audit log keeps it", err=True)
    if reason is None or not reason.strip():
        raise BadInput("say why with --reason TEXT; the audit log keeps it")
    return reason.strip()


def signed(by: str | None) -> str:
    """How the audit names who decides. Raises `BadInput` for an empty name."""
    try:
        name = getpass.getuser() if by is None else by.strip()
    except (KeyError, OSError):  # in a container, a user may be a number that has no name
        raise BadInput("nobody knows your name here; say who decides with --by NAME") from None
    if not name:
        raise BadInput("--by is empty; say who decides, or leave it out")
    return name


def tell(rollout: Rollout, as_json: bool, words: str) -> None:
    """What a rollout became, for a program or for a person."""
    from registry.rollout import content_of

    typer.echo(json.dumps(content_of(rollout)) if as_json else words)


def foreseen(parts: Parts, rollout: Rollout) -> Outlook:
    """What the feedback so far proves, and what the next automatic step would do."""
    from flows.runtime.parts import policy_of
    from registry.analysis.outlook import outlook, weighed
    from registry.analysis.watching import watch

    policy, now = policy_of(parts.params), datetime.now(UTC)
    proof = weighed(rollout, parts.events.rewards(rollout.id), policy, now)
    return outlook(rollout, proof, policy, now, watch(parts.events, rollout, policy, now))


def plain(content: dict[str, Any]) -> dict[str, Any]:
    """Times as text, so that JSON can hold them."""
    return {name: value.isoformat() if isinstance(value, datetime) else value for name, value in content.items()}
