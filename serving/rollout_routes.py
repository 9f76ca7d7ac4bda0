"""The endpoints that show rollouts and steer them by hand: JSON for programs, forms for the console.

Knows HTTP. What may be done, and what follows from it, is decided in `rollouts.py` and below.
"""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, RedirectResponse, Response

from evermoe.errors import BadInput, EvermoeError
from registry.evidence import Verdict
from registry.rollout import Rollout
from serving import console
from serving.access import Caller, needs
from serving.bodies import ControlBody, check, read, read_form
from serving.gateway import Gateway
from serving.openapi import takes
from serving.rollouts import Rollouts

router = APIRouter(prefix="/v1/rollouts")


@router.get("", dependencies=[needs("read")])
async def list_rollouts(request: Request) -> dict[str, Any]:
    """All rollouts, the newest first; the open one with its verdict."""
    gateway: Gateway = request.app.state.gateway
    rollouts: Rollouts = request.app.state.rollouts
    now = gateway.now(request.headers.get("x-evermoe-at"))
    every, current = await asyncio.gather(asyncio.to_thread(rollouts.all), asyncio.to_thread(rollouts.now_open, now))
    shapes = [
        _shape(rollout, current.verdict if current is not None and rollout.id == current.rollout.id else None)
        for rollout in every
    ]
    return {"object": "list", "data": shapes}


@router.post("/{id}/{action}", dependencies=[needs("steer")], openapi_extra=takes(ControlBody))
async def control(request: Request, id: str, action: str) -> Response:
    """Pause, resume, share, promote or abort. Answers the rollout after it; a form is sent back to the console.

    The audit names the caller's key; where there is none, whoever the body says.
    """
    gateway: Gateway = request.app.state.gateway
    rollouts: Rollouts = request.app.state.rollouts
    caller: Caller = request.state.caller
    form = request.headers.get("content-type", "").startswith("application/x-www-form-urlencoded")
    try:
        body = await _read_form(request) if form else await read(request, ControlBody)
        by = caller.signature or body.by
        if by is None:
            raise BadInput("'by' is missing")
        now = gateway.now(request.headers.get("x-evermoe-at"))
        after = await asyncio.to_thread(
            rollouts.control, id, action, by=by, reason=body.reason, share=body.share, now=now
        )
    except EvermoeError as error:
        if form:
            return await console.render(request, str(error), error.http_status)
        raise
    await gateway.router.refresh()  # whoever steers sees the effect at once
    return RedirectResponse("/", 303) if form else JSONResponse(_shape(after, None))


async def _read_form(request: Request) -> ControlBody:
    fields: dict[str, Any] = await read_form(request)
    try:
        if "share" in fields:
            fields["share"] = float(fields["share"])
    except ValueError:
        raise BadInput("the share is a number above 0 and below 1") from None
    return check(fields, ControlBody)


def _shape(rollout: Rollout, verdict: Verdict | None) -> dict[str, Any]:
    shape = {"object": "rollout", **asdict(rollout)}
    del shape["salt"]  # whoever knows it can choose unit names that land in an arm
    for name in ("opened_at", "step_started_at", "closed_at"):
        shape[name] = shape[name].isoformat() if shape[name] is not None else None
    if verdict is not None:
        shape["verdict"] = asdict(verdict) | {"at": verdict.at.isoformat()}
    return shape
