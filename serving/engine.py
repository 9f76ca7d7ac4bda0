"""The loaded versions and the threads that run them.

Knows how to load, keep, run and drop versions of a model without blocking the event loop. Does not know which version a
request should meet (`router.py`), nor what a request is (`app.py`).
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from evermoe.errors import EvermoeError

T = TypeVar("T")
TURN_SECONDS = 0.01
"""How long a text keeps a worker while others wait, and its piece under way: a label is not made to wait for a whole text."""
TEXTS_AT_ONCE = 8
"""Texts that share the workers' turns; what each has read and made is kept in memory, so others begin when one of these ends."""


class Classified(Protocol):
    """What classifying one text gives; `model.Classification` is one."""

    @property
    def label(self) -> str: ...
    @property
    def scores(self) -> dict[str, float]: ...
    @property
    def experts(self) -> tuple[int, ...]: ...
    @property
    def tokens(self) -> int: ...


class Generated(Protocol):
    """What a generated text tells of itself at its end; `model.language.Generated` is one."""

    @property
    def prompt_tokens(self) -> int: ...
    @property
    def output_tokens(self) -> int: ...
    @property
    def finish(self) -> str: ...
    @property
    def cut(self) -> bool: ...


class Servable(Protocol):
    """What the gateway asks of a model; `model.LanguageModel` is one."""

    @property
    def labels(self) -> tuple[str, ...]: ...
    def classify(self, texts: Sequence[str], labels: Sequence[str] | None = None) -> Sequence[Classified]: ...
    def generate(
        self, prompt: str, *, max_new_tokens: int, temperature: float, stop: Sequence[str], seed: int | None
    ) -> Generator[str, None, Generated]: ...


class Overloaded(EvermoeError):
    """More requests wait for the model than the gateway will hold. Try again after `retry_after_seconds`."""

    http_status = 503
    retry_after_seconds = 1


@dataclass(frozen=True)
class Sampling:
    """How a text is generated."""

    new_tokens: int
    temperature: float = 0.0
    stop: tuple[str, ...] = ()
    seed: int | None = None


class Generation:
    """A text on its way: iterate over its pieces once, in the event loop that made it.

    `text` is what has come so far. The tokens, and OpenAI's word for why it ended, are the model's once the pieces have
    ended; while they come, and when the iterator is left early, the output is counted in pieces. Of a text that is not
    `streamed` nobody waits for a piece, so the event loop is woken once, at its end.
    """

    def __init__(self, model: Servable, prompt: str, how: Sampling, streamed: bool) -> None:
        self._model, self.prompt, self._how, self._streamed = model, prompt, how, streamed
        self._loop = asyncio.get_running_loop()
        self._making: Generator[str, None, Generated] | None = None
        self._pieces: deque[object] = deque()
        self._come = asyncio.Event()
        self._called = False
        self.over: Future[None] = Future()
        """Done when the model has no more to do with it; cancelled where nobody listens any more."""
        self.text = ""
        self.prompt_tokens = 0
        self.output_tokens = 0
        self.finish_reason = ""
        self._cut = False

    def work(self, seconds: float) -> bool:
        """The worker's side: make pieces for so long, one at least. False at the end, or when nobody listens."""
        until = time.perf_counter() + seconds
        while not self.over.cancelled():
            try:
                piece = next(self._begun())
            except StopIteration as end:
                return self._end(_End(end.value))
            except Exception as error:
                return self._end(error)
            if piece:
                self._pieces.append(piece)
                if self._streamed:
                    self._call()
            if time.perf_counter() >= until:
                return True
        return False

    def _begun(self) -> Generator[str, None, Generated]:
        if self._making is None:
            how = self._how
            self._making = self._model.generate(
                self.prompt, max_new_tokens=how.new_tokens, temperature=how.temperature, stop=how.stop, seed=how.seed
            )
        return self._making

    def _end(self, last: object) -> bool:
        if self.over.set_running_or_notify_cancel():
            self.over.set_result(None)
            self._pieces.append(last)
            self._call()
        return False

    def _call(self) -> None:
        """Wake the event loop, once for all pieces that it has not come to yet."""
        if not self._called:
            self._called = True
            self._loop.call_soon_threadsafe(self._wake)

    def _wake(self) -> None:
        self._called = False
        self._come.set()

    async def __aiter__(self) -> AsyncIterator[str]:
        """The pieces. Raises what the model raises."""
        try:
            while isinstance(piece := await self._next(), str):
                self.text += piece
                self.output_tokens += 1
                yield piece
            if isinstance(piece, Exception):
                raise piece
            if isinstance(piece, _End):
                told = piece.told
                self.prompt_tokens, self.output_tokens = told.prompt_tokens, told.output_tokens
                self.finish_reason, self._cut = told.finish, told.cut
        finally:
            self.leave()

    @property
    def cut_to_nothing(self) -> bool:
        """Whether the client's own stop string left nothing of what the model made."""
        return self._cut and not self.text.strip()

    async def _next(self) -> object:
        while not self._pieces:
            self._come.clear()
            await self._come.wait()
        return self._pieces.popleft()

    def leave(self) -> None:
        """Stop the model at its next piece; if it still waits for a worker, it need not begin.

        What there is by then of a text that is not streamed is its text.
        """
        self.over.cancel()
        while self._pieces and not self._streamed:
            if isinstance(piece := self._pieces.popleft(), str):
                self.text += piece
                self.output_tokens += 1


@dataclass(frozen=True)
class _End:
    """The mark after the last piece."""

    told: Generated


class Engine:
    """Loaded versions by name, and the worker threads that run them.

    A request asks for its model once (`get`) and keeps that reference: a version dropped meanwhile lives until the last
    request that began with it has ended. Inference runs in `workers` threads (torch releases the interpreter while it
    computes), loading in a thread of its own, so neither stops the event loop nor each other. Texts take turns of
    `TURN_SECONDS`, and between two turns whoever waits for a label is answered.
    """

    def __init__(
        self, load: Callable[[str], Servable], *, workers: int = 1, threads: int | None = None, waiting: int = 512
    ) -> None:
        """`load` brings a version by name; `threads` is what each worker gives to one operator (None: torch's choice);
        `waiting` bounds the requests that wait for a worker."""
        self._load = load
        self._models: dict[str, Servable] = {}
        self._workers = workers
        self._pool = ThreadPoolExecutor(workers, "inference", initializer=lambda: _use_threads(threads))
        self._loader = ThreadPoolExecutor(1, "loading")
        self._waiting = 0
        self._most_waiting = waiting
        self._new: deque[Generation] = deque()  # texts that have not begun
        self._going: deque[Generation] = deque()  # and those that have, and wait for their turn
        self._begun = 0
        self._turning = 0  # workers that give turns
        self._lock = threading.Lock()

    @property
    def versions(self) -> tuple[str, ...]:
        """The loaded versions, in the order they were loaded."""
        return tuple(self._models)

    @property
    def waiting(self) -> int:
        """Requests that wait for a worker or run on one."""
        return self._waiting

    def get(self, version: str) -> Servable | None:
        """The loaded model of this version, or None."""
        return self._models.get(version)

    async def ensure(self, versions: Iterable[str]) -> None:
        """Load what is not loaded yet. Raises what `load` raises; versions loaded before that stay."""
        loop = asyncio.get_running_loop()
        for version in versions:
            if version not in self._models:
                model = await loop.run_in_executor(self._loader, self._load, version)
                self._models = {**self._models, version: model}

    def keep(self, versions: Iterable[str]) -> None:
        """Drop every version not named; requests that began with one finish with it."""
        named = set(versions)
        self._models = {version: model for version, model in self._models.items() if version in named}

    async def classify(self, model: Servable, text: str, labels: Sequence[str] | None) -> Classified:
        """The model's answer for one text. Raises `Overloaded`, or what the model raises."""
        return await asyncio.wrap_future(self._submit(lambda: model.classify([text], labels)[0]))

    async def run(self, work: Callable[[], T]) -> T:
        """Run a small piece of model work on a worker."""
        return await asyncio.wrap_future(self._submit(work))

    def generate(self, model: Servable, prompt: str, how: Sampling, streamed: bool = True) -> Generation:
        """Begin to continue `prompt`; of a text that is not `streamed` all pieces come at its end. Raises `Overloaded`."""
        generation = Generation(model, prompt, how, streamed)
        self._take_place()
        generation.over.add_done_callback(lambda over: self._forget(generation, over))
        with self._lock:
            self._new.append(generation)
            more = self._turning < self._workers
            self._turning += more
        if more:
            self._pool.submit(self._turn)
        return generation

    def close(self) -> None:
        """Wait for what runs, cancel what waits, free the threads."""
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._loader.shutdown(wait=True, cancel_futures=True)

    def _turn(self) -> None:
        """A turn of one text on this worker, which then comes back, behind those that wait for it now, for the next."""
        with self._lock:
            if self._new and self._begun < TEXTS_AT_ONCE:
                self._going.append(self._new.popleft())
                self._begun += 1  # behind the others, so that short ones that keep coming stop no long one
            if not self._going:
                self._turning -= 1
                return
            text = self._going.popleft()
        goes_on = text.work(TURN_SECONDS)
        with self._lock:
            if goes_on:
                self._going.append(text)
            else:
                self._begun -= 1
            more = bool(self._new or self._going)
            self._turning -= not more
        if more:
            with suppress(RuntimeError):  # the engine is closed: nobody waits for the rest
                self._pool.submit(self._turn)

    def _submit(self, work: Callable[[], T]) -> Future[T]:
        self._take_place()
        future = self._pool.submit(work)
        future.add_done_callback(self._done)
        return future

    def _take_place(self) -> None:
        with self._lock:
            if self._waiting >= self._most_waiting:
                raise Overloaded(f"{self._waiting} requests wait for the model already; try again in a second")
            self._waiting += 1

    def _forget(self, generation: Generation, over: Future[None]) -> None:
        """A text that was left before it began is not kept with its prompt until others end."""
        self._done(over)
        if over.cancelled():
            with self._lock, suppress(ValueError):
                self._new.remove(generation)

    def _done(self, _: Future[Any]) -> None:
        with self._lock:
            self._waiting -= 1


def _use_threads(threads: int | None) -> None:
    if threads is not None:
        import torch

        torch.set_num_threads(threads)
