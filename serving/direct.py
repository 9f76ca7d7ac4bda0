"""Routes whose endpoints take the request and what is in their path, and nothing that FastAPI would have to inject.

Answering is most of what the gateway does, and for a small answer FastAPI's routing and injection take more of the processor than
the rest of it. These routes are declared, guarded (`serving.access.needs`) and documented as all others are; `Straight` finds
those without a parameter in their path by a single look. Knows no endpoint.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping

from fastapi import Request
from fastapi.responses import JSONResponse, Response
from fastapi.routing import APIRoute
from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Receive, Scope, Send

Refusal = Callable[[Request, Exception], Awaitable[Response]]


class Direct(APIRoute):
    """A route that calls its dependencies, each with the request alone, and then its endpoint."""

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer; of another method than the route's, as every route does."""
        if self.methods is None or scope["method"] not in self.methods:
            await super().handle(scope, receive, send)
            return
        answer = await self.answer(Request(scope, receive, send))
        await answer(scope, receive, send)

    async def answer(self, request: Request) -> Response:
        """What the endpoint answers to a request of this route's method."""
        for dependency in self.dependencies:
            assert dependency.dependency is not None
            await dependency.dependency(request)
        answer = await self.endpoint(request, **request.scope["path_params"])
        return answer if isinstance(answer, Response) else JSONResponse(answer)


class Straight:
    """Leads what is asked of a `Direct` route straight to it; all else goes on to `app`, which knows the same routes.

    `refusals` answer for the errors they name, and for those derived from them.
    """

    def __init__(self, app: ASGIApp, routes: Iterable[BaseRoute], refusals: Mapping[type[Exception], Refusal]) -> None:
        self.app, self._refusals = app, refusals
        self._routes = {
            (method, route.path): route
            for route in routes
            if isinstance(route, Direct) and not route.param_convertors
            for method in route.methods or ()
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        route = self._routes.get((scope["method"], scope["path"])) if scope["type"] == "http" else None
        if route is None:
            await self.app(scope, receive, send)
            return
        scope["route"], scope["path_params"] = route, {}
        request = Request(scope, receive, send)
        try:
            answer = await route.answer(request)
        except Exception as error:
            refusal = next((how for kind, how in self._refusals.items() if isinstance(error, kind)), None)
            if refusal is None:
                raise
            answer = await refusal(request, error)
        await answer(scope, receive, send)
