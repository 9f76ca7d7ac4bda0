"""The HTTP application: the parts, the routes, the errors and the life of the gateway, put together.

Knows where everything is. Decides nothing: routes are in the `*_routes.py` files, versions in `router.py`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from datetime import UTC, datetime

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from fastapi.telemetry import TelemetryConfig
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from evermoe.errors import EvermoeError, Forbidden, Unauthenticated
from monitoring.events import EventLog
from monitoring.keys import Keys
from serving import console, health, native_routes, openai_routes, openapi, rollout_routes, sign_in
from serving.access import Access
from serving.answers import error_headers, error_shape
from serving.console import Links
from serving.direct import Straight
from serving.engine import Engine
from serving.figures import Figures
from serving.gateway import Clock, Gateway
from serving.limits import Limits
from serving.rollouts import Rollouts
from serving.router import Router

log = logging.getLogger("evermoe.serving")


def utc_now() -> datetime:
    """The wall clock."""
    return datetime.now(UTC)


def create_app(
    *,
    engine: Engine,
    router: Router,
    events: EventLog,
    rollouts: Rollouts,
    links: Links | None = None,
    limits: Limits | None = None,
    clock: Clock = utc_now,
    replay: bool = False,
) -> FastAPI:
    """The gateway as an ASGI application. It follows the plan and the API keys while it runs, and on shutdown closes the
    engine and the log.

    `rollouts` reads and changes rollouts; `links` are the addresses of the other UIs for the console; `limits` hold for each
    caller; with `replay` a request may name its time in the header X-Evermoe-At.
    """
    gateway = Gateway(engine, router, events, clock, replay)
    access = Access(Keys(events.engine), clock, limits)
    figures = Figures(rollouts)

    @contextlib.asynccontextmanager
    async def life(app: FastAPI) -> AsyncIterator[None]:
        await asyncio.gather(router.refresh(), access.refresh())
        following = asyncio.gather(router.run(), access.run(), figures.warm(clock()))
        try:
            yield
        finally:
            following.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await following
            await openai_routes.rows_written()
            router.close()
            access.close()
            figures.close()
            await asyncio.to_thread(engine.close)
            await asyncio.to_thread(events.close)

    silent: TelemetryConfig = {
        "tracing": False,
        "metrics": False,
        "logs": False,
    }  # nothing leaves unless asked; see /metrics
    app = FastAPI(title="Evermoe", lifespan=life, docs_url=None, redoc_url=None, openapi_url=None, telemetry=silent)
    app.state.gateway = gateway
    app.state.access = access
    app.state.rollouts = rollouts
    app.state.figures = figures
    app.state.links = links or Links()
    app.state.started = clock()
    for part in (openai_routes, native_routes, rollout_routes, health, console, sign_in, openapi):
        app.include_router(part.router)
    app.state.metrics = health.gateway_metrics(gateway)
    answering = (*openai_routes.router.routes, *native_routes.router.routes)
    app.add_middleware(Straight, routes=answering, refusals=REFUSALS)
    app.add_middleware(Unexpected)
    app.add_middleware(health.Metered, metrics=app.state.metrics)
    for error, refusal in REFUSALS.items():
        app.add_exception_handler(error, refusal)
    return app


async def _refuse(request: Request, error: Exception) -> Response:
    assert isinstance(error, EvermoeError)
    if isinstance(error, Unauthenticated | Forbidden) and "text/html" in request.headers.get("accept", ""):
        return sign_in.refused(request, error)
    return JSONResponse(error_shape(str(error), error.http_status), error.http_status, error_headers(error))


async def _refuse_http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    path = request.url.path
    said = {404: f"there is nothing at {path}", 405: f"{path} does not take {request.method}"}
    return JSONResponse(
        error_shape(said.get(error.status_code, str(error.detail)), error.status_code), error.status_code, error.headers
    )


async def _client_left(request: Request, error: Exception) -> Response:
    return Response(status_code=400)


REFUSALS = {EvermoeError: _refuse, HTTPException: _refuse_http, ClientDisconnect: _client_left}
"""What is answered to each kind of error; to any other, `Unexpected` answers."""


class Unexpected:
    """Answers 500 to what nobody expected and logs it with its traceback. Starlette's own handler would raise it again to
    the server, which then cuts the connection under the client's next request."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        begun = False

        async def told(message: Message) -> None:
            nonlocal begun
            begun = begun or message["type"] == "http.response.start"
            await send(message)

        try:
            await self.app(scope, receive, told)
        except Exception:
            if scope["type"] != "http" or begun:
                raise
            log.exception("%s %s failed", scope["method"], scope["path"])
            shape = error_shape("something failed inside the gateway; its log has the details", 500)
            await JSONResponse(shape, 500)(scope, receive, send)
