"""Is it alive, is it ready, how is it doing: for process supervisors, load balancers and Prometheus.

Knows the gateway's standing. Does not know what any of these callers does with it.
"""

from __future__ import annotations

import time
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response
from prometheus_client import Gauge
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from evermoe.errors import EvermoeError
from monitoring.metrics import CONTENT_TYPE, Metrics
from registry.assignment import CHAMPION
from serving.access import Access, needs
from serving.answers import Usage
from serving.gateway import Asked, Gateway

router = APIRouter()


@router.head("/health", include_in_schema=False)  # some load balancers ask so
@router.get("/health")
async def health() -> dict[str, str]:
    """The process answers. Says nothing of models or storage, so a supervisor does not restart it for their sake."""
    return {"status": "ok"}


@router.head("/ready", include_in_schema=False)  # some load balancers ask so
@router.get("/ready")
async def ready(request: Request) -> JSONResponse:
    """200 once a version serves, 503 before. `problem` says why what serves may be out of date.

    Load balancers have no key: where keys are needed and none is shown, that is all it says.
    """
    gateway: Gateway = request.app.state.gateway
    access: Access = request.app.state.access
    deployment = gateway.router.deployment
    status = 200 if deployment is not None else 503
    try:
        await access.admit(request, "read")
    except EvermoeError:
        return JSONResponse({"ready": deployment is not None}, status)
    shape: dict[str, Any] = {
        "ready": deployment is not None,
        "champion": deployment.champion if deployment else None,
        "challenger": deployment.rollout.challenger if deployment and deployment.rollout else None,
        "share": deployment.rollout.share if deployment and deployment.rollout else 0.0,
        "arms": deployment.rollout.logged if deployment and deployment.rollout else {CHAMPION: 1.0},
        "revision": deployment.rollout.revision if deployment and deployment.rollout else None,
        "problem": gateway.router.problem or access.problem,
    }
    return JSONResponse(shape, status)


@router.get("/metrics", dependencies=[needs("read")])
async def metrics(request: Request) -> Response:
    """Prometheus' text format. It tells versions, shares and traffic, so it is read with a key like all that is read."""
    gateway: Gateway = request.app.state.gateway
    figures: Metrics = request.app.state.metrics
    deployment = gateway.router.deployment
    if deployment is not None:
        versions, shares = {CHAMPION: deployment.champion}, {CHAMPION: 1.0}
        if deployment.rollout is not None:
            shares = deployment.rollout.logged
            versions = {one.arm: one.version for one in deployment.rollout.inside} | versions
        figures.serving(versions, shares)
    return Response(figures.render(), media_type=CONTENT_TYPE)


def gateway_metrics(gateway: Gateway) -> Metrics:
    """The metrics of a gateway, with those that are asked for when they are read."""
    figures = Metrics()
    figures.watch_queue(lambda: gateway.events.queue_depth)
    waiting = Gauge(
        "evermoe_requests_waiting", "Requests that wait for the model or run on it.", registry=figures.registry
    )
    waiting.set_function(lambda: gateway.engine.waiting)
    stale = Gauge(
        "evermoe_plan_stale",
        "1 while the plan in force may be out of date; /ready says why.",
        registry=figures.registry,
    )
    stale.set_function(lambda: gateway.router.problem is not None)
    return figures


class Metered:
    """Counts each request when its answer has ended: by the route's template, and by arm and version where it met one."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self.app, self.metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began, status = time.perf_counter(), 500

        async def told(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, told)
        finally:
            route = scope.get("route")
            state: dict[str, Any] = scope.get("state", {})
            asked: Asked | None = state.get("asked")
            usage: Usage = state.get("usage") or Usage(0, 0)
            self.metrics.answered(
                getattr(route, "path", "none"),
                arm=asked.route.arm if asked else "",
                version=asked.route.version if asked else "",
                status=status,
                seconds=time.perf_counter() - began,
                prompt_tokens=usage.prompt_tokens,
                output_tokens=usage.completion_tokens,
            )
