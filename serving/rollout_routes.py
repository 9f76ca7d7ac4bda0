"""The endpoints that show rollouts and steer them by hand: JSON for programs, forms for the console.

Knows HTTP. What may be done, and what follows from it, is decided in `rollouts.py` and below.
"""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from datetime import datetime
from functools import partial
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, RedirectResponse, Response

from evermoe.errors import BadInput, EvermoeError
from registry.analysis.outlook import Weighed
from registry.evidence import Verdict
from registry.rollout import Rollout, content_of
from serving import console
from serving.access import Caller, needs
from serving.bodies import ControlBody, StartBody, check, read, read_form
from serving.figures import WEIGHING_SECONDS, Figures
from serving.gateway import Gateway
from serving.openapi import takes
from serving.rollouts import Rollouts

router = APIRouter(prefix="/v1/rollouts")
FINAL = ("promote", "abort", "revert")
"""What moves everyone at once: a person is asked once more."""


@router.get("", dependencies=[needs("read")])
async def list_rollouts(request: Request) -> dict[str, Any]:
    """All rollouts, the newest first; the open one with its verdict, that on each challenger, and how many rewards are left out.

    A database that does not answer is waited for no longer than anyone would: 503, with `Retry-After`.
    """
    rollouts: Rollouts = request.app.state.rollouts
    figures: Figures = request.app.state.figures
    now = _now(request)
    proofs: dict[str, Weighed] = {}
    for rollout in (every := await figures.anew(rollouts.all)):
        if rollout.open:
            proofs[rollout.id] = await figures.anew(partial(rollouts.weighed, rollout, now), WEIGHING_SECONDS)
    return {"object": "list", "data": [_shape(rollout, proofs.get(rollout.id)) for rollout in every]}


@router.post("", dependencies=[needs("steer")], openapi_extra=takes(StartBody))
async def start(request: Request) -> Response:
    """Put a version, or several, on trial against the champion. Answers the rollout; a form is sent back to the console.

    The audit names the caller's key; where there is none, whoever the body says.
    """
    rollouts: Rollouts = request.app.state.rollouts
    try:
        fields = await read_form(request, "versions") if _is_form(request) else None
        body = check(fields, StartBody) if fields is not None else await read(request, StartBody)
        by, now = _signature(request, body.by), _now(request)
        opened = await asyncio.to_thread(rollouts.start, body.named(), by=by, reason=body.reason, now=now)
    except EvermoeError as error:
        return await _refused(request, error)
    return await _done(request, opened, "start")


@router.post("/{id}/{action}", dependencies=[needs("steer")], openapi_extra=takes(ControlBody))
async def control(request: Request, id: str, action: str) -> Response:
    """Pause, resume, share, promote, abort or revert. Answers the rollout after it; a form is sent back to the console.

    The audit names the caller's key; where there is none, whoever the body says. With `revision`, nothing is done to a
    rollout that has changed since. A form that promotes, aborts or reverts is asked once more first.
    """
    rollouts: Rollouts = request.app.state.rollouts
    try:
        fields = await _read_form(request) if _is_form(request) else None
        body = check(fields, ControlBody) if fields is not None else await read(request, ControlBody)
        by, now = _signature(request, body.by), _now(request)
        if fields is not None and action in FINAL and "confirmed" not in fields:
            seen = await asyncio.to_thread(rollouts.foresee, id, action, body.reason, body.revision, body.version)
            return console.confirm(request, seen, action, body)
        after = await asyncio.to_thread(
            rollouts.control,
            id,
            action,
            by=by,
            reason=body.reason,
            share=body.share,
            now=now,
            revision=body.revision,
            version=body.version,
        )
    except EvermoeError as error:
        return await _refused(request, error)
    return await _done(request, after, action)


def _is_form(request: Request) -> bool:
    return request.headers.get("content-type", "").startswith("application/x-www-form-urlencoded")


def _now(request: Request) -> datetime:
    gateway: Gateway = request.app.state.gateway
    return gateway.now(request.headers.get("x-evermoe-at"))


def _signature(request: Request, given: str | None) -> str:
    caller: Caller = request.state.caller
    by = caller.signature or given
    if by is None:
        raise BadInput("'by' is missing")
    return by


async def _refused(request: Request, error: EvermoeError) -> Response:
    """To a person, the console that says why."""
    if not _is_form(request):
        raise error
    return await console.render(request, str(error), error.http_status)


async def _done(request: Request, after: Rollout, action: str) -> Response:
    """Whoever steers sees the effect at once."""
    gateway: Gateway = request.app.state.gateway
    await gateway.router.refresh()
    return RedirectResponse(f"/?done={action}", 303) if _is_form(request) else JSONResponse(_shape(after, None))


async def _read_form(request: Request) -> dict[str, Any]:
    fields = await read_form(request)
    try:
        if "share" in fields:
            fields["share"] = _share(fields["share"])
        if "revision" in fields:
            fields["revision"] = int(fields["revision"])
    except ValueError:
        raise BadInput("the share is a number above 0 and below 1, or a percentage: 0.25, 25%") from None
    return fields


def _share(text: str) -> float:
    """What a person types: 0.25 or 25%."""
    return float(text.rstrip("% ")) / 100 if text.endswith("%") else float(text)


def _shape(rollout: Rollout, proof: Weighed | None) -> dict[str, Any]:
    shape = {"object": "rollout", **content_of(rollout)}
    del shape["salt"]  # whoever knows it can choose unit names that land in an arm
    if proof is not None:
        shape["verdict"] = _told(proof.verdict)
        shape["verdicts"] = {rollout.version(arm): _told(one) for arm, one in proof.standing.verdicts.items()}
        shape["left_out"] = proof.left_out
    return shape


def _told(verdict: Verdict) -> dict[str, Any]:
    return asdict(verdict) | {"at": verdict.at.isoformat()}
