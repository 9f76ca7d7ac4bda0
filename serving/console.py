"""The rollout console: one page, rendered here, that needs no script and fetches nothing.

Knows what a person wants to see. Changes nothing: its forms post to `rollout_routes.py`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TypeVar

from fastapi import APIRouter, Request
from fastapi.responses import Response

from evermoe.errors import EvermoeError
from monitoring.events import Counts
from monitoring.expert_rewards import ExpertRewards
from monitoring.glance import ArmGlance
from registry.analysis.outlook import Outlook, outlook
from registry.assignment import CHALLENGER, CHAMPION
from registry.book.audit import AuditRow
from registry.deciding import Watch, is_watched, rewards_needed
from registry.evidence import Verdict
from registry.rollout import Policy, Rollout, in_force
from registry.tracker.versions import Version
from serving import pages
from serving.access import Access, Caller, needs
from serving.bodies import ControlBody
from serving.chart import Chart, Spans, charts, spans
from serving.figures import Figures, Shown
from serving.gateway import Gateway
from serving.rollouts import CONTROLS, Registered, Rollouts, Traffic

T = TypeVar("T")
router = APIRouter()
DECISIONS, VERSIONS = 20, 8  # lines that the page shows
TOLD = ("start", *CONTROLS)


@dataclass(frozen=True)
class Links:
    """Where the other two UIs are, for a browser."""

    mlflow: str | None = None
    prefect: str | None = None


@dataclass(frozen=True)
class Arm:
    """A line of the arms' table."""

    name: str
    """`champion` or `challenger`."""
    version: str
    share: float
    out: str
    """Why it is out; empty while it is in."""
    seen: ArmGlance | None
    mean: float | None
    verdict: Verdict | None
    """Of a challenger against the champion."""


@dataclass(frozen=True)
class Trial:
    """The open rollout and all that is shown of it. `why` names the string that says what it waits for."""

    rollout: Rollout
    policy: Policy
    outlook: Outlook | None
    why: str
    named: Mapping[str, str]
    """What the strings about it may name: versions, and what the next step would do."""
    needed: int
    """Rewards before shares move by themselves."""
    charts: Mapping[str, Chart]
    """The lifts over time, by arm."""
    spans: Spans | None
    """Of several challengers, the intervals side by side."""
    weighed_at: datetime | None
    stale_seconds: float
    arms: tuple[Arm, ...]
    delay_seconds: float | None
    experts: tuple[ExpertRewards, ...]
    watch: Watch | None


@dataclass(frozen=True)
class Page:
    """Everything the template shows."""

    now: datetime
    caller: Caller
    steers: bool
    links: Links
    said: str
    done: str
    problems: tuple[str, ...]
    champion: str | None
    holdout: float
    """The share of the units that take no part in any rollout."""
    counts: Counts | None
    queue: int
    trial: Trial | None
    actions: tuple[str, ...]
    policy: Policy
    startable: tuple[tuple[Version, str], ...]
    revertible: Rollout | None
    """The last promotion, where it can be taken back by hand."""
    watched: Rollout | None
    """The last promotion, while its guardrails may still bring the champion before it back."""
    history: tuple[AuditRow, ...]
    registered: Registered | None
    versions: tuple[Version, ...]


@router.get("/", dependencies=[needs("read")])
async def show(request: Request) -> Response:
    """The page."""
    return await render(request)


def confirm(request: Request, rollout: Rollout, action: str, body: ControlBody) -> Response:
    """The question before a step that cannot be taken back; its form carries what was filled in."""
    one = rollout.several and body.version is not None and action == "abort" and len(rollout.inside) > 1
    asked = "abort_one" if one else action
    versions = named_in(rollout, version=body.version)
    return pages.send(
        request, "confirm.html", 200, rollout=rollout, action=action, asked=asked, versions=versions, body=body
    )


async def render(request: Request, said: str = "", status: int = 200) -> Response:
    """The page with `said` on top. What cannot be read at the moment is said on it; the rest is shown."""
    gateway: Gateway = request.app.state.gateway
    rollouts: Rollouts = request.app.state.rollouts
    figures: Figures = request.app.state.figures
    access: Access = request.app.state.access
    caller: Caller = request.state.caller
    now = gateway.now(request.headers.get("x-evermoe-at"))
    problems = [problem for problem in (gateway.router.problem, access.problem) if problem]

    async def read(what: Callable[[], T]) -> T | None:
        try:
            return await figures.anew(what)
        except EvermoeError as error:
            problems.append(str(error))
            return None

    counts, current, history, every = await asyncio.gather(
        read(rollouts.counts), read(rollouts.running), read(rollouts.decisions), read(rollouts.all)
    )
    shown = await figures.read(current, now)
    problems += [one.problem for one in (shown.proof, shown.watch, shown.traffic, shown.registered) if one.problem]
    registered, deployment = shown.registered.value, gateway.router.deployment
    champion = deployment.champion if deployment else None
    steers, done = caller.may("steer"), request.query_params.get("done", "")
    page = Page(
        now=now,
        caller=caller,
        steers=steers,
        links=request.app.state.links,
        said=said,
        done=done if done in TOLD else "",
        problems=tuple(dict.fromkeys(problems)),
        champion=current.champion if current else champion,
        holdout=gateway.router.holdout,
        counts=counts,
        queue=gateway.engine.waiting,
        trial=_trial(current, shown, rollouts.policy, history or (), now) if current else None,
        actions=_actions(current) if current and steers else (),
        policy=rollouts.policy,
        startable=_startable(registered, champion, every or ()) if steers and current is None else (),
        revertible=_revertible(every or (), champion) if steers else None,
        watched=_watched(every or (), rollouts.policy, now),
        history=(history or ())[:DECISIONS],
        registered=registered,
        versions=registered.versions[:VERSIONS] if registered else (),
    )
    return pages.send(request, "console.html", status, page=page)


def _trial(rollout: Rollout, shown: Shown, policy: Policy, history: tuple[AuditRow, ...], now: datetime) -> Trial:
    proof, traffic = shown.proof.value, shown.traffic.value
    own = [row for row in reversed(history) if row.rollout == rollout.id]
    watch = shown.watch.value
    ahead = outlook(rollout, proof.weighed, policy, now, watch or Watch()) if proof else None
    verdicts = proof.weighed.standing.verdicts if proof else {}
    versions = {one.arm: one.version for one in rollout.challengers}
    return Trial(
        rollout=rollout,
        policy=policy,
        outlook=ahead,
        why=waits_for(ahead) if ahead else "",
        named=named_in(rollout, ahead),
        needed=rewards_needed(rollout, policy),
        charts=charts(proof.looks, own, versions) if proof else {},
        spans=spans(verdicts) if rollout.several and verdicts else None,
        weighed_at=proof.weighed.verdict.at if proof else None,
        stale_seconds=shown.proof.age_seconds if proof else 0.0,
        arms=_arms(rollout, verdicts, traffic),
        delay_seconds=traffic.glance.median_delay_seconds if traffic else None,
        experts=traffic.experts if traffic else (),
        watch=watch,
    )


def _arms(rollout: Rollout, verdicts: Mapping[str, Verdict], traffic: Traffic | None) -> tuple[Arm, ...]:
    """The champion, then every challenger."""
    seen = {arm.arm: arm for arm in traffic.glance.arms} if traffic else {}
    any_verdict = next(iter(verdicts.values()), None)
    mean = any_verdict.means[CHAMPION] if any_verdict else None
    lines = [Arm(CHAMPION, rollout.champion, 1.0 - rollout.share, "", seen.get(CHAMPION), mean, None)]
    for one in rollout.challengers:
        verdict = verdicts.get(one.arm)
        mean = verdict.means[CHALLENGER] if verdict else None
        lines.append(Arm(CHALLENGER, one.version, one.share, one.out, seen.get(one.arm), mean, verdict))
    return tuple(lines)


def waits_for(ahead: Outlook) -> str:
    """The string that says what the rollout waits for: the cause of the next decision, or what it does."""
    if ahead.next.action == "drop":
        return "why_drop_guardrail" if ahead.next.cause == "guardrail" else "why_drop"
    return f"why_{ahead.next.cause or ahead.next.action}"


def named_in(rollout: Rollout, ahead: Outlook | None = None, version: str | None = None) -> dict[str, str]:
    """The versions that strings on a rollout name. A `version` that a person chose is the challenger."""
    inside = ", ".join(one.version for one in rollout.inside)
    named = {"challenger": version or inside, "champion": rollout.champion, "out": "", "shares": ""}
    if ahead is not None:
        if ahead.standing.arm and version is None:
            named["challenger"] = rollout.version(ahead.standing.arm)
        named["out"] = ", ".join(rollout.version(arm) for arm in ahead.next.out)
        named["shares"] = ", ".join(
            f"{rollout.version(arm)}: {100 * share:.3g}%" for arm, share in ahead.next.shares.items()
        )
    return named


def _actions(rollout: Rollout) -> tuple[str, ...]:
    hidden = "resume" if rollout.status == "running" else "pause"
    shown = [action for action in CONTROLS if action not in (hidden, "revert")]
    return tuple(sorted(shown, key=("share", "pause", "resume", "promote", "abort").index))


def _revertible(rollouts: tuple[Rollout, ...], champion: str | None) -> Rollout | None:
    """The rollout that moved the champion last, if the version that it promoted is in place and no other is open."""
    last = in_force(rollouts)
    return last if last is not None and last.status == "promoted" and last.serves == champion else None


def _watched(rollouts: tuple[Rollout, ...], policy: Policy, now: datetime) -> Rollout | None:
    last = in_force(rollouts)
    return last if last is not None and is_watched(last, policy, now) else None


def _startable(
    registered: Registered | None, champion: str | None, rollouts: tuple[Rollout, ...]
) -> tuple[tuple[Version, str], ...]:
    """The versions that can be put on trial, the newest first, each with the string that says what is odd about it."""
    if registered is None or champion is None:
        return ()
    tried = {arm.version for one in rollouts if one.champion == champion for arm in one.challengers}
    found = []
    for version in registered.versions:
        if version.version == champion or version.version in tried:
            continue
        failed = version.tags.get("evermoe.gates", "passed") not in ("passed", "overridden")
        found.append((version, "gates_failed" if failed else ""))
    return tuple(found)
