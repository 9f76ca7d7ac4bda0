"""An open-loop load on an HTTP server: requests leave when they are due, however long the answers take.

Each request is timed from the moment at which it was due, not from when it could be sent, so a server that stalls is charged
for everybody who waits behind (no "coordinated omission"; Tene, "How NOT to Measure Latency"). Arrivals are a Poisson process
of a seeded generator. Knows HTTP/1.1 with keep-alive and `Content-Length`; does not know what is served.
"""

from __future__ import annotations

import asyncio
import gc
import random
import selectors
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

CONNECTIONS = 64
"""Opened before the clock starts; more are opened while all of them wait for an answer, up to `MOST_CONNECTIONS`."""
MOST_CONNECTIONS = 512
PATIENCE_SECONDS = 10.0
"""How long after the last request its answers are waited for; what is not there then has failed."""


@dataclass(frozen=True)
class Load:
    """What came of it: the latencies of the answered in milliseconds, and how many had no answer of status 200."""

    latencies_ms: tuple[float, ...]
    failed: int

    def percentile(self, percent: float) -> float:
        """Nearest rank over all requests, a failed one slower than any."""
        ranked = sorted(self.latencies_ms)
        rank = max(1, -(-(len(ranked) + self.failed) * percent // 100))
        return ranked[int(rank) - 1] if rank <= len(ranked) else float("inf")


def offer(port: int, request: bytes, *, rate: float, seconds: float, warm_up: float, seed: int) -> Load:
    """Send `request` to 127.0.0.1:`port`, `rate` times a second for `seconds`, after `warm_up` seconds that are not counted."""
    # select() takes microseconds; epoll would round each wait up to a whole millisecond.
    loop = asyncio.SelectorEventLoop(selectors.SelectSelector())
    gc.collect()
    gc.disable()  # a pause of ours is no latency of theirs
    try:
        return loop.run_until_complete(_offer(port, request, rate, seconds, warm_up, random.Random(seed)))
    finally:
        gc.enable()
        loop.close()


async def _offer(port: int, request: bytes, rate: float, seconds: float, warm_up: float, draw: random.Random) -> Load:
    crowd = _Crowd(port, request)
    await crowd.open(CONNECTIONS)
    began = time.perf_counter() + 0.05
    for due in _arrivals(began, rate, warm_up + seconds, draw):
        wait = due - time.perf_counter()
        if wait > 0:
            await asyncio.sleep(wait)
        crowd.ask(due, counted=due >= began + warm_up)
    given_up = time.perf_counter() + PATIENCE_SECONDS
    while crowd.unanswered and time.perf_counter() < given_up:
        await asyncio.sleep(0.01)
    crowd.close()
    return Load(tuple(crowd.latencies_ms), crowd.asked - len(crowd.latencies_ms))


def _arrivals(began: float, rate: float, seconds: float, draw: random.Random) -> Iterator[float]:
    at = began
    while (at := at + draw.expovariate(rate)) < began + seconds:
        yield at


class _Crowd:
    """Many clients, each with a connection of its own and one request at a time."""

    def __init__(self, port: int, request: bytes) -> None:
        self._port, self._request = port, request
        self._free: list[_Client] = []
        self._clients: list[_Client] = []
        self._due: deque[tuple[float, bool]] = deque()
        self._opening: set[asyncio.Task[None]] = set()
        self.latencies_ms: list[float] = []
        self.asked = 0

    @property
    def unanswered(self) -> bool:
        return bool(self._due) or len(self._free) < len(self._clients)

    async def open(self, count: int) -> None:
        for _ in range(count):
            _, client = await asyncio.get_running_loop().create_connection(
                lambda: _Client(self), "127.0.0.1", self._port
            )
            self._clients.append(client)
            self.freed(client)

    def ask(self, due: float, counted: bool) -> None:
        self.asked += counted
        if self._free:
            self._free.pop().send(self._request, due, counted)
            return
        self._due.append((due, counted))
        if len(self._clients) + len(self._opening) < MOST_CONNECTIONS:
            opening = asyncio.create_task(self.open(1))
            self._opening.add(opening)
            opening.add_done_callback(self._opening.discard)

    def lost(self, client: _Client) -> None:
        """Servers close what was idle for some seconds; a request that was on its way there has failed."""
        self._clients.remove(client)
        if client in self._free:
            self._free.remove(client)

    def freed(self, client: _Client) -> None:
        if self._due:
            client.send(self._request, *self._due.popleft())
        else:
            self._free.append(client)

    def close(self) -> None:
        for client in list(self._clients):
            client.transport.abort()


class _Client(asyncio.Protocol):
    """One keep-alive connection."""

    transport: asyncio.Transport

    def __init__(self, crowd: _Crowd) -> None:
        self._crowd, self._answer, self._due, self._counted = crowd, b"", 0.0, False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def connection_lost(self, error: Exception | None) -> None:
        self._crowd.lost(self)

    def send(self, request: bytes, due: float, counted: bool) -> None:
        self._due, self._counted = due, counted
        self.transport.write(request)

    def data_received(self, data: bytes) -> None:
        self._answer += data
        head, end, body = self._answer.partition(b"\r\n\r\n")
        if not end:
            return
        length = head.lower().partition(b"content-length:")[2].split(b"\r\n", 1)[0]
        if len(body) < int(length or 0):
            return
        if self._counted and head.startswith(b"HTTP/1.1 200"):
            self._crowd.latencies_ms.append((time.perf_counter() - self._due) * 1000)
        self._answer = b""
        self._crowd.freed(self)
