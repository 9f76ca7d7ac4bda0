"""Routes whose endpoints take the request and what is in their path, and nothing that FastAPI would have to inject.

Answering is most of what the gateway does, and FastAPI's injection takes a fifth of the processor that a small answer costs.
These routes are declared, guarded (`serving.access.needs`) and documented as all others are. Knows no endpoint.
"""

from __future__ import annotations

from fastapi import Request
from fastapi.responses import JSONResponse, Response
from fastapi.routing import APIRoute
from starlette.types import Receive, Scope, Send


class Direct(APIRoute):
    """A route that calls its dependencies, each with the request alone, and then its endpoint."""

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer; of another method than the route's, as every route does."""
        if self.methods is None or scope["method"] not in self.methods:
            await super().handle(scope, receive, send)
            return
        request = Request(scope, receive, send)
        for dependency in self.dependencies:
            assert dependency.dependency is not None
            await dependency.dependency(request)
        answer = await self.endpoint(request, **scope["path_params"])
        await (answer if isinstance(answer, Response) else JSONResponse(answer))(scope, receive, send)
