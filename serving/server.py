"""Runs an application on a port until it is told to stop: binds first, stops gracefully.

Knows sockets, signals and uvicorn. Does not know what it serves.
"""

from __future__ import annotations

import errno
import gc
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

import uvicorn
from fastapi import FastAPI

from evermoe.errors import BadInput, PortInUse

GRACE_SECONDS = 30
SWITCH_SECONDS = 0.0005
"""How long another thread may keep the interpreter while the event loop waits for it. Python's own 5 ms are longer than most
answers take: each row that the log writes would stop all that is being answered."""


def listen(host: str, port: int) -> socket.socket:
    """A listening socket. Done before anything slow, so that a port in use is told at once. Raises `PortInUse`, `BadInput`."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(2048)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise PortInUse(
                f"port {port} on {host} is in use; stop what listens there, or choose another with --port"
            ) from None
        raise BadInput(
            f"cannot listen on {host}:{port}: {error.strerror or error}; choose another --host or --port"
        ) from None
    except OverflowError:
        listener.close()
        raise BadInput(f"port {port} is no port; choose one from 0 to 65535") from None
    return listener


def run(app: FastAPI, listener: socket.socket, started: Callable[[], None]) -> None:
    """Serve until SIGTERM or SIGINT; then answer what is in flight, at most `GRACE_SECONDS`, and return. `started` is
    called once requests are answered. For the time of serving, what was loaded before is not garbage, and threads take turns
    every `SWITCH_SECONDS`."""
    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        lifespan="on",
        timeout_graceful_shutdown=GRACE_SECONDS,
        server_header=False,
    )
    server = _Server(config, started)
    with _signals_end_nothing(), _short_pauses():
        server.run(sockets=[listener])


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, started: Callable[[], None]) -> None:
        super().__init__(config)
        self._tell = started

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._tell()


@contextmanager
def _short_pauses() -> Iterator[None]:
    """Python's own pauses, made short: a full collection walks all that torch and MLflow made, some 100 ms of nothing else."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(SWITCH_SECONDS)
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
        sys.setswitchinterval(before)


@contextmanager
def _signals_end_nothing() -> Iterator[None]:
    """uvicorn raises the signal that stopped it once more when it has shut down; a stop that was asked for is no error."""

    def ignore(number: int, frame: FrameType | None) -> None:
        return None

    before = {number: signal.signal(number, ignore) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
