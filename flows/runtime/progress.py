"""How far long work has come, for whoever called the flow in this process. Nobody listening is fine."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

Listener = Callable[[str, int, int], None]
_listener: ContextVar[Listener | None] = ContextVar("evermoe_progress", default=None)


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Send the progress of flows called inside to `listener(what, done, of)`."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)


def advance(what: str, done: int, of: int) -> None:
    """Tell that `done` of `of` units of `what` are done."""
    if (listener := _listener.get()) is not None:
        listener(what, done, of)
