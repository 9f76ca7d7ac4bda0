"""OpenAI's endpoints: models, chat completions and completions, whole and streamed.

Knows OpenAI's wire format and when an answer counts as acknowledged: whole answers after their row is durable, streams at
the chunk that ends them. Does not know how a version was chosen.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Any, Literal

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

from evermoe.errors import EvermoeError, NotFound
from serving.access import Caller, needs
from serving.answers import TextAnswer, error_shape, event, model_card, model_list
from serving.bodies import ChatBody, CompletionBody, read
from serving.direct import Direct
from serving.engine import Generation, Sampling
from serving.gateway import Asked, Gateway
from serving.openapi import takes
from serving.router import MODEL, checked_unit

log = logging.getLogger("evermoe.serving")
router = APIRouter(prefix="/v1", route_class=Direct)
SOON_SECONDS = 0.1
"""An answer that takes longer is watched for a client that leaves."""
CLIENT_CLOSED_REQUEST = 499
"""Nobody reads it; nginx's name for it stands in the metrics."""


@router.get("/models", dependencies=[needs("ask", "read")])
async def list_models(request: Request) -> dict[str, Any]:
    """`evermoe`, which routes by arm, and each version that can be pinned."""
    gateway: Gateway = request.app.state.gateway
    return model_list(_names(gateway), request.app.state.started)


@router.get("/models/{name}", dependencies=[needs("ask", "read")])
async def retrieve_model(request: Request, name: str) -> dict[str, Any]:
    """One model's card. Raises `NotFound`."""
    if name not in _names(request.app.state.gateway):
        raise NotFound(f"the model '{name}' is not served here; GET /v1/models lists those that are")
    return model_card(name, request.app.state.started)


@router.post("/chat/completions", dependencies=[needs("ask")], openapi_extra=takes(ChatBody))
async def chat_completions(request: Request) -> Response:
    """Answer a conversation."""
    body = await read(request, ChatBody)
    return await _answer(request, "chat", body, body.prompt(), body.new_tokens())


@router.post("/completions", dependencies=[needs("ask")], openapi_extra=takes(CompletionBody))
async def completions(request: Request) -> Response:
    """Continue a text."""
    body = await read(request, CompletionBody)
    return await _answer(request, "completion", body, body.text(), body.new_tokens())


def _names(gateway: Gateway) -> list[str]:
    return [MODEL, *(f"{MODEL}:{version}" for version in gateway.router.versions)] if gateway.router.versions else []


async def _answer(
    request: Request, kind: Literal["chat", "completion"], body: ChatBody | CompletionBody, prompt: str, new_tokens: int
) -> Response:
    gateway: Gateway = request.app.state.gateway
    at = gateway.now(request.headers.get("x-evermoe-at"))
    caller: Caller = request.state.caller
    unit = checked_unit(body.user, request.headers.get("x-evermoe-unit"))
    asked = gateway.begin(kind, prompt, body.model, unit, at, caller.id)
    request.state.asked = asked
    answer = TextAnswer(kind, asked.id, asked.route.name, asked.at)
    # Temperature 0 unless asked otherwise: the arms are compared by their answers, not by their dice.
    how = Sampling(new_tokens, body.temperature or 0.0, body.stops(), body.seed)
    generation = gateway.generate(asked, how, bool(body.stream))
    if body.stream:
        with_usage = body.stream_options is not None and body.stream_options.include_usage
        stream = _stream(request, asked, answer, generation, with_usage)
        return StreamingResponse(stream, media_type="text/event-stream", headers={"Cache-Control": "no-cache"})
    try:
        if not await _whole(request, generation):
            await gateway.left(asked, generation)
            return Response(status_code=CLIENT_CLOSED_REQUEST)
    except EvermoeError:
        raise
    except Exception as error:
        await gateway.failed(asked, generation, error)
        raise
    usage = request.state.usage = await gateway.finish(asked, generation)
    return JSONResponse(answer.whole(generation.text, generation.finish_reason, usage))


async def _whole(request: Request, generation: Generation) -> bool:
    """Wait for all pieces. False where the client left before the end: the model is stopped for it."""
    work = asyncio.ensure_future(_drained(generation))
    try:
        done, _ = await asyncio.wait({work}, timeout=SOON_SECONDS)
        if not done:
            # The body has been read: all that can come is that the client left.
            leaving = asyncio.ensure_future(request.receive())
            try:
                await asyncio.wait({work, leaving}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                leaving.cancel()
        if not work.done():
            return False
        await work
        return True
    finally:
        if not work.done():
            generation.leave()
            work.cancel()


async def _drained(generation: Generation) -> None:
    async for _ in generation:
        pass


async def _stream(
    request: Request, asked: Asked, answer: TextAnswer, generation: Generation, with_usage: bool
) -> AsyncIterator[bytes]:
    gateway: Gateway = request.app.state.gateway
    whole = False
    try:
        for chunk in answer.first_chunk(with_usage):
            yield chunk
        async for piece in generation:
            yield answer.chunk(piece, with_usage)
        whole = True
        usage = request.state.usage = await gateway.finish(asked, generation)
    except (asyncio.CancelledError, GeneratorExit):
        generation.leave()
        if not whole:
            # The client left. The row is written by a task of its own, because this one is being cancelled.
            writing = asyncio.create_task(gateway.left(asked, generation))
            _writing.add(writing)
            writing.add_done_callback(_writing.discard)
        raise
    except EvermoeError as error:
        # The status has gone out; an error event and no [DONE] tell the client that this is no answer.
        yield event(error_shape(str(error), error.http_status))
        return
    except Exception as error:
        log.exception("response %s failed", asked.id)
        await gateway.failed(asked, generation, error)
        yield event(error_shape("the model failed; the gateway's log has the details", 500))
        return
    for chunk in answer.last_chunks(generation.finish_reason, usage if with_usage else None):
        yield chunk


_writing: set[asyncio.Task[Any]] = set()
"""Rows of streams whose clients left; referenced here so that the event loop keeps their tasks."""


async def rows_written() -> None:
    """Wait until the rows of streams whose clients left are durable, or have failed to be."""
    await asyncio.gather(*_writing, return_exceptions=True)
