"""Evermoe's own endpoints for users: classify a text, give feedback on an answer.

Knows the two bodies and when an answer counts as acknowledged. Does not know how feedback becomes evidence.
"""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request

from evermoe.errors import BadInput, EvermoeError
from monitoring.events import Feedback
from monitoring.metrics import Metrics
from serving.access import Caller, needs
from serving.answers import Usage
from serving.bodies import ClassifyBody, FeedbackBody, read
from serving.direct import Direct
from serving.gateway import Gateway
from serving.openapi import takes
from serving.router import checked_unit

router = APIRouter(prefix="/v1", route_class=Direct)


@router.post("/classify", dependencies=[needs("ask")], openapi_extra=takes(ClassifyBody))
async def classify(request: Request) -> dict[str, Any]:
    """Answer a text with the likeliest label."""
    gateway: Gateway = request.app.state.gateway
    body = await read(request, ClassifyBody)
    if not body.input.strip():
        raise BadInput("'input' is empty")
    at = gateway.now(request.headers.get("x-evermoe-at"))
    caller: Caller = request.state.caller
    unit = checked_unit(body.user, request.headers.get("x-evermoe-unit"))
    asked = gateway.begin("classify", body.input, body.model, unit, at, caller.id)
    request.state.asked = asked
    answer = await gateway.classify(asked, body.labels)
    request.state.usage = Usage(answer.tokens, 0)
    return {"id": asked.id, "model": asked.route.name, "label": answer.label, "scores": answer.scores}


@router.post("/feedback", dependencies=[needs("ask")], openapi_extra=takes(FeedbackBody))
async def feedback(request: Request) -> dict[str, Any]:
    """Take a score or the right label for a response that this caller received, once per key.

    Raises `NotFound` for any other response, `Expired` after its window.
    """
    gateway: Gateway = request.app.state.gateway
    body = await read(request, FeedbackBody)
    if body.score is None and body.label is None:
        raise BadInput("'score' (0 to 1) or 'label' is missing")
    at = gateway.now(request.headers.get("x-evermoe-at"))
    metrics: Metrics = request.app.state.metrics
    caller: Caller = request.state.caller
    try:
        receipt = await gateway.feedback(Feedback(body.key, body.id, at, body.score, body.label, caller.id))
    except EvermoeError as error:
        metrics.feedback(type(error).__name__)
        raise
    metrics.feedback(receipt.reason)
    answer: dict[str, Any] = {"counted": receipt.counted, "reward": receipt.reward, "reason": receipt.reason}
    if body.label is not None and body.label not in gateway.router.labels:
        answer["note"] = f"no serving version knows the label '{body.label}'; kept, so the next update can learn it"
    return answer
