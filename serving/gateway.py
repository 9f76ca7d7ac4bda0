"""One request, from its route to its row in the event log: what every answering endpoint shares.

Knows the router, the engine, the event log and the clock. Does not know HTTP shapes (`answers.py`) or bodies (`bodies.py`).
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, TypeVar

from evermoe.errors import BadInput, EvermoeError, StorageUnavailable
from monitoring.events import EventLog, Feedback, Receipt, Request
from monitoring.rows import CLIENT_LEFT, CUT_TO_NOTHING
from serving.answers import Kind, Usage, new_id
from serving.engine import Classified, Engine, Generation, Sampling
from serving.router import Route, Router

log = logging.getLogger("evermoe.serving")
Clock = Callable[[], datetime]
T = TypeVar("T")
CONFIRM_SECONDS = 15.0
"""How long an answer waits for its row: longer than a lock is waited for, and than a lost connection takes to be noticed."""


@dataclass(frozen=True)
class Asked:
    """A request that has its id, its time and its route, and waits for its answer."""

    id: str
    kind: Kind
    at: datetime
    began: float
    unit: str
    unit_given: bool
    input: str
    route: Route
    api_key: str


@dataclass(frozen=True)
class Gateway:
    """The parts that answer a request. `replay` lets a request say at which time it happens (a month replayed in seconds)."""

    engine: Engine
    router: Router
    events: EventLog
    clock: Clock
    replay: bool = False

    def now(self, at_header: str | None) -> datetime:
        """The time of a request: the clock's, or in replay the one its X-Evermoe-At header names. Raises `BadInput`."""
        if not self.replay or at_header is None:
            return self.clock()
        try:
            at = datetime.fromisoformat(at_header)
        except ValueError:
            raise BadInput(
                f"X-Evermoe-At: {at_header[:60]!r} is no ISO 8601 time; send one like 2025-06-01T12:00:00Z"
            ) from None
        if at.tzinfo is None or not _in_range(at):
            raise BadInput(f"X-Evermoe-At: {at_header[:60]!r} needs an offset and a plausible year; add Z for UTC")
        return at

    def begin(self, kind: Kind, text: str, model: str, unit: str | None, at: datetime, api_key: str) -> Asked:
        """Give a request its id and its route. `unit` is as `checked_unit` gives it, `api_key` the id of the key that the request
        came with, empty without one.

        Raises `NotFound` for an unknown model, `NotReady` without any.
        """
        response_id = new_id(kind)
        asker = unit or response_id
        route = self.router.route(model, asker)
        return Asked(response_id, kind, at, time.perf_counter(), asker, unit is not None, text, route, api_key)

    async def classify(self, asked: Asked, labels: Sequence[str] | None) -> Classified:
        """Answer with a label; the row is durable when this returns. Raises `StorageUnavailable`, `Overloaded`.

        During a rollout of one challenger the other arm is asked too, after the arm that answers: where both say the same,
        feedback cannot tell them apart (`registry.rules.best_arm`). Nobody sees that answer, and its failure is nobody's.
        """
        try:
            answer = await self.engine.classify(asked.route.model, asked.input, labels)
            if not all(map(math.isfinite, answer.scores.values())):
                raise ArithmeticError("the model's scores are not numbers")
        except EvermoeError:
            raise
        except Exception as error:
            await self._record_failure(asked, "", Usage(0, 0), _reason(error))
            raise
        latency_ms = _since(asked.began)
        shadow = await self._shadow(asked, labels)
        row = self._row(asked, answer.label, Usage(answer.tokens, 0), scores=answer.scores, experts=answer.experts)
        await self.record(replace(row, latency_ms=latency_ms, shadow=shadow))
        return answer

    async def _shadow(self, asked: Asked, labels: Sequence[str] | None) -> str | None:
        """The label of the arm that does not answer; None without a rollout, with several others, or where it fails."""
        if asked.route.other is None:
            return None
        try:
            return (await self.engine.classify(asked.route.other, asked.input, labels)).label
        except Exception as error:
            log.warning("response %s has no shadow: %s", asked.id, error)
            return None

    def generate(self, asked: Asked, how: Sampling, streamed: bool) -> Generation:
        """Begin a text; nothing is recorded until `finish`. Raises `Overloaded`."""
        return self.engine.generate(asked.route.model, asked.input, how, streamed)

    async def finish(self, asked: Asked, generation: Generation) -> Usage:
        """Record a whole text; the row is durable when this returns. Raises `StorageUnavailable` if it cannot be."""
        usage = Usage(generation.prompt_tokens, generation.output_tokens)
        error = CUT_TO_NOTHING if generation.cut_to_nothing else None
        await self.record(self._row(asked, generation.text, usage, error=error))
        return usage

    async def failed(self, asked: Asked, generation: Generation, error: Exception) -> None:
        """Record a text that the model broke off; where that cannot be stored, the log says so."""
        usage = Usage(generation.prompt_tokens, generation.output_tokens)
        await self._record_failure(asked, generation.text, usage, _reason(error))

    async def left(self, asked: Asked, generation: Generation) -> None:
        """Record a text whose client did not wait for its end, which says nothing against the model."""
        usage = Usage(generation.prompt_tokens, generation.output_tokens)
        await self._record_failure(asked, generation.text, usage, CLIENT_LEFT)

    async def record(self, row: Request) -> None:
        """Append a request; durable when this returns. Raises `StorageUnavailable`."""
        await _confirmed(self.events.append(row))

    async def feedback(self, feedback: Feedback) -> Receipt:
        """Append feedback; durable when this returns. Raises `NotFound`, `Conflict`, `StorageUnavailable`."""
        return await _confirmed(self.events.append(feedback))

    async def _record_failure(self, asked: Asked, text: str, usage: Usage, reason: str) -> None:
        try:
            await self.record(self._row(asked, text, usage, error=reason))
        except EvermoeError as storage:
            log.warning("response %s has no whole answer (%s) and could not be recorded: %s", asked.id, reason, storage)

    def _row(self, asked: Asked, output: str, usage: Usage, **more: Any) -> Request:
        return Request(
            id=asked.id,
            at=asked.at,
            kind=asked.kind,
            unit=asked.unit,
            unit_given=asked.unit_given,
            input=asked.input,
            output=output,
            scores=more.get("scores"),
            rollout=asked.route.rollout,
            arm=asked.route.arm,
            version=asked.route.version,
            propensity=asked.route.propensity,
            latency_ms=_since(asked.began),
            prompt_tokens=usage.prompt_tokens,
            output_tokens=usage.completion_tokens,
            experts=more.get("experts", ()),
            error=more.get("error"),
            api_key=asked.api_key,
            shares=asked.route.shares,
        )


async def _confirmed(appended: Future[T]) -> T:
    """Wait until a row is durable, as long as anyone would. Raises `StorageUnavailable`, then with its outcome unknown.

    A client that leaves, and a wait that ends, cancel nothing: a row once taken by the log is written.
    """
    try:
        async with asyncio.timeout(CONFIRM_SECONDS):
            return await asyncio.wrap_future(appended)
    except TimeoutError:
        raise StorageUnavailable(
            f"the event log's database did not confirm within {CONFIRM_SECONDS:.0f} s; ask again later"
        ) from None


def _reason(error: Exception) -> str:
    """An error as a row keeps it: its kind and its first line."""
    return f"{type(error).__name__}: {error}".splitlines()[0][:500]


def _since(began: float) -> float:
    """Milliseconds since `time.perf_counter()` was `began`."""
    return (time.perf_counter() - began) * 1000


def _in_range(at: datetime) -> bool:
    offset = at.utcoffset()
    return offset is not None and abs(offset) < timedelta(days=1) and 1971 <= at.year <= 2200
