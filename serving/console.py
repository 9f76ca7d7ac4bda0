"""The rollout console: one page, rendered here, that needs no script and fetches nothing.

Knows what a person wants to see. Changes nothing: its forms post to `rollout_routes.py`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import TypeVar

from fastapi import APIRouter, Request
from fastapi.responses import Response

from evermoe.errors import EvermoeError
from monitoring.events import Counts
from registry.assignment import CHALLENGER, CHAMPION
from registry.evidence import Verdict
from registry.ledger import AuditRow
from registry.rollout import Rollout
from serving import pages
from serving.access import Access, Caller, needs
from serving.bodies import ControlBody
from serving.gateway import Gateway
from serving.rollouts import CONTROLS, OpenRollout, Rollouts

T = TypeVar("T")
router = APIRouter()


@dataclass(frozen=True)
class Links:
    """Where the other two UIs are, for a browser."""

    mlflow: str | None = None
    prefect: str | None = None


@dataclass(frozen=True)
class Arm:
    """A line of the arms' table."""

    name: str
    version: str
    requests: int
    rewards: int
    mean: float | None
    latency_median: float | None
    latency_95: float | None
    failed: int


@dataclass(frozen=True)
class Decided:
    """A line of the decisions' table."""

    at: datetime
    month: str
    action: str
    share: float
    by: str
    reason: str


@dataclass(frozen=True)
class Page:
    """Everything the template shows."""

    now: datetime
    caller: Caller
    links: Links
    said: str
    problems: tuple[str, ...]
    champion: str | None
    challenger: str | None
    requests: int | None
    feedback: int | None
    waiting: int
    rollout: Rollout | None
    verdict: Verdict | None
    arms: tuple[Arm, ...]
    feedback_delay: float | None
    actions: tuple[str, ...]
    decisions: tuple[Decided, ...]


@router.get("/", dependencies=[needs("read")])
async def show(request: Request) -> Response:
    """The page."""
    return await render(request)


def confirm(request: Request, rollout: Rollout, action: str, body: ControlBody) -> Response:
    """The question before a step that cannot be taken back; its form carries what was filled in."""
    return pages.send("confirm.html", 200, rollout=rollout, action=action, body=body)


async def render(request: Request, said: str = "", status: int = 200) -> Response:
    """The page with `said` on top. What cannot be read at the moment is said on it; the rest is shown."""
    gateway: Gateway = request.app.state.gateway
    rollouts: Rollouts = request.app.state.rollouts
    now = gateway.now(request.headers.get("x-evermoe-at"))
    access: Access = request.app.state.access
    problems = [problem for problem in (gateway.router.problem, access.problem) if problem]

    async def read(what: Callable[[], T]) -> T | None:
        try:
            return await asyncio.to_thread(what)
        except EvermoeError as error:
            if str(error) not in problems:
                problems.append(str(error))
            return None

    counts = await read(gateway.events.counts)
    current = await read(lambda: rollouts.now_open(now))
    months = await read(lambda: {rollout.id: rollout.month for rollout in rollouts.all()})
    decisions = await read(rollouts.decisions)
    caller: Caller = request.state.caller
    page = _page(
        gateway, caller, request.app.state.links, now, said, problems, counts, current, decisions or (), months or {}
    )
    return pages.send("console.html", status, page=page)


def _page(
    gateway: Gateway,
    caller: Caller,
    links: Links,
    now: datetime,
    said: str,
    problems: list[str],
    counts: Counts | None,
    current: OpenRollout | None,
    decisions: tuple[AuditRow, ...],
    months: dict[str, str],
) -> Page:
    deployment = gateway.router.deployment
    plan = deployment.rollout if deployment else None
    return Page(
        now=now,
        caller=caller,
        links=links,
        said=said,
        problems=tuple(problems),
        champion=deployment.champion if deployment else None,
        challenger=plan.challenger if plan else None,
        requests=counts.requests if counts else None,
        feedback=counts.feedback if counts else None,
        waiting=gateway.engine.waiting,
        rollout=current.rollout if current else None,
        verdict=current.verdict if current else None,
        arms=_arms(current) if current else (),
        feedback_delay=current.summary.median_feedback_delay_seconds if current else None,
        actions=_actions(current.rollout) if current and caller.may("steer") else (),
        decisions=tuple(
            Decided(row.at, months.get(row.rollout, ""), row.action, row.share, row.by, row.reason) for row in decisions
        ),
    )


def _arms(current: OpenRollout) -> tuple[Arm, ...]:
    seen = {arm.arm: arm for arm in current.summary.arms}
    versions = {CHAMPION: current.rollout.champion, CHALLENGER: current.rollout.challenger}
    return tuple(
        Arm(
            name=name,
            version=version,
            requests=seen[name].requests if name in seen else 0,
            rewards=current.verdict.rewards.get(name, 0),
            mean=current.verdict.means.get(name),
            latency_median=seen[name].latency_ms_p50 if name in seen else None,
            latency_95=seen[name].latency_ms_p95 if name in seen else None,
            failed=seen[name].errors if name in seen else 0,
        )
        for name, version in versions.items()
    )


def _actions(rollout: Rollout) -> tuple[str, ...]:
    hidden = "resume" if rollout.status == "running" else "pause"
    return tuple(action for action in CONTROLS if action != hidden)
