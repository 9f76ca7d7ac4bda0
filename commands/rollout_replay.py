"""`evermoe rollout replay`: a policy judged off-line, on the log of a rollout, before it meets a user. Changes nothing."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import track

from commands.home import HOME, JSON, parts_of
from evermoe.errors import BadInput, NotReady

if TYPE_CHECKING:
    from registry.analysis.offline import Replayed
    from registry.rollout import Policy, Rollout


def replay(
    rollout: Annotated[str | None, typer.Argument(help="Whose log; without it, the rollout opened last.")] = None,
    shares: Annotated[str, typer.Option(help="The ramp to judge, as in 0.1,0.5; one share is kept throughout.")] = "",
    min_rewards: Annotated[int | None, typer.Option(help="Rewards before each step, for each version.", min=1)] = None,
    floor: Annotated[float | None, typer.Option(help="Of several versions, the least share of each.")] = None,
    least_move: Annotated[float | None, typer.Option(help="Of several versions, the least that moves.")] = None,
    hours: Annotated[float, typer.Option(help="Between two looks.", min=0.01, max=8760)] = 1.0,
    home: Annotated[Path | None, HOME] = None,
    as_json: Annotated[bool, JSON] = False,
) -> None:
    """Judge a policy off-line: what it would have been worth on a rollout's log, before it meets a user.

    With one challenger it is a ramp, with several the shares that follow the feedback; what is not given is as params.yaml has it.
    """
    from flows.runtime.parts import policy_of
    from registry.analysis.offline import Fixed, Live
    from registry.analysis.offline import replay as live_again
    from registry.analysis.outlook import counting

    with parts_of(home) as parts:
        known = parts.ledger.list()
        if not known:
            raise NotReady("there was no rollout yet, so there is no log to judge by")
        chosen = parts.ledger.get(rollout) if rollout else known[-1]
        ramp = parsed(shares)
        asked = {"min_rewards_per_step": min_rewards, "floor": floor, "least_move": least_move, "shares": ramp or None}
        given: dict[str, Any] = {name: one for name, one in asked.items() if one is not None}
        policy = replace(policy_of(parts.params), **given)
        chooser = Fixed(ramp[0], chosen) if len(ramp) == 1 else Live(policy, chosen, timedelta(hours=hours))
        rewards = counting(parts.events.rewards(chosen.id), policy, datetime.now(UTC)).rewards
    found = live_again(rewards, chooser, walk=partial(track, console=Console(stderr=True), transient=True))
    if as_json:
        typer.echo(json.dumps(shape(found, chosen, policy)))
    else:
        show(found, chosen)


def shape(found: Replayed, rollout: Rollout, policy: Policy) -> dict[str, Any]:
    """What was found, for programs: arms by their versions."""
    told = asdict(found) | {"rollout": rollout.id, "shares": policy.shares}
    told["met"] = {rollout.version(arm): count for arm, count in found.met.items()}
    told["unmet"] = [rollout.version(arm) for arm in found.unmet]
    return told | {"until": found.until.isoformat() if found.until else None}


def show(found: Replayed, rollout: Rollout) -> None:
    """What was found, in a few lines, with what the log cannot tell."""
    from registry.analysis.offline import FEWEST_EFFECTIVE
    from registry.rollout import listed

    met = ", ".join(f"version {rollout.version(arm)} {count}" for arm, count in sorted(found.met.items()))
    typer.echo(f"rollout {rollout.id}, {found.rewards} units ({met}); the policy was shown {found.shown} of them")
    typer.echo(f"  {found.outcome}")
    typer.echo(
        f"  mean reward {found.value:.3f} (95% {found.low:.3f} to {found.high:.3f}); the log's own {found.logged:.3f}"
    )
    typer.echo(f"  the log is worth {found.effective:.0f} units of this policy")
    if found.until is not None:
        versions = listed(rollout.version(arm) for arm in found.unmet)
        typer.echo(
            f"  judged up to {found.until:%Y-%m-%d %H:%M} UTC: from then on version {versions} was out in the log and not in "
            f"this policy, and of {found.beyond} more units the log cannot tell"
        )
    if not found.enough:
        typer.echo(f"  believe nothing of it: {FEWEST_EFFECTIVE:.0f} units are the least")


def parsed(shares: str) -> tuple[float, ...]:
    """`0.1,0.5` as numbers; empty where nothing is given. Raises `BadInput`."""
    try:
        return tuple(float(one) for one in shares.split(",") if one.strip())
    except ValueError:
        raise BadInput(f"--shares {shares!r}: give numbers between 0 and 1 with commas between, 0.1,0.5 say") from None
