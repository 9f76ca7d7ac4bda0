"""A request for a direct route goes straight to it, is refused as everywhere, and all others take the usual way."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest
from fastapi import APIRouter, Depends, FastAPI, Request
from fastapi.responses import JSONResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from evermoe.errors import BadInput, Forbidden
from serving.direct import Direct, Straight

router = APIRouter(prefix="/v1", route_class=Direct)


async def door(request: Request) -> None:
    """Lets in whoever has a key."""
    if "key" not in request.headers:
        raise Forbidden("no key")


@router.post("/ask", dependencies=[Depends(door)])
async def ask(request: Request) -> dict[str, Any]:
    """Answer with what was sent, or fail as it says."""
    said = (await request.body()).decode()
    if said == "crash":
        raise RuntimeError(said)
    if said == "bad":
        raise BadInput(said)
    return {"said": said}


@router.get("/ask/{name}")
async def retrieve(request: Request, name: str) -> Response:
    """One thing by its name."""
    return Response(name)


async def refuse(request: Request, error: Exception) -> Response:
    """The error in one line."""
    return JSONResponse(str(error), 400)


class Passed:
    """Counts what goes on to FastAPI."""

    def __init__(self, app: ASGIApp) -> None:
        self.app, self.count = app, 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.count += 1
        await self.app(scope, receive, send)


def sent(method: str, path: str, body: str = "", key: bool = True) -> tuple[int, str, int]:
    """Status, body, and how many requests went on to FastAPI."""
    app = FastAPI()
    app.include_router(router)
    app.add_exception_handler(BadInput, refuse)
    passed = Passed(app)
    straight = Straight(passed, router.routes, {BadInput: refuse, Forbidden: refuse})

    async def scene() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(straight), base_url="http://here") as client:
            return await client.request(method, path, content=body, headers={"key": "1"} if key else {})

    answer = asyncio.run(scene())
    return answer.status_code, answer.text, passed.count


def test_a_direct_route_is_met_without_fastapi() -> None:
    assert sent("POST", "/v1/ask", "hello") == (200, '{"said":"hello"}', 0)


@pytest.mark.parametrize(
    ("method", "path", "status"), [("GET", "/v1/ask", 405), ("POST", "/v1/ask/", 307), ("GET", "/", 404)]
)
def test_another_method_or_path_takes_the_usual_way(method: str, path: str, status: int) -> None:
    code, _, passed = sent(method, path)
    assert (code, passed) == (status, 1)


def test_a_path_with_a_parameter_takes_the_usual_way() -> None:
    assert sent("GET", "/v1/ask/ann") == (200, "ann", 1)


def test_what_a_route_or_its_door_refuses_is_refused_in_one_line() -> None:
    assert sent("POST", "/v1/ask", "bad") == (400, '"bad"', 0)
    assert sent("POST", "/v1/ask", key=False) == (400, '"no key"', 0)


def test_what_nobody_expected_is_raised() -> None:
    with pytest.raises(RuntimeError, match="crash"):
        sent("POST", "/v1/ask", "crash")
