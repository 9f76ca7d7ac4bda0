"""Figures that take a while, kept for a page that must not: as they were last, with their age, while newer ones are made.

Knows nothing of what the figures are.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Hashable
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Generic, TypeVar

from evermoe.errors import EvermoeError

log = logging.getLogger("evermoe.serving")
T = TypeVar("T")
DEARER, LONGEST = 10.0, 60.0
"""How many times as long as they took to make figures last, up to so many seconds."""


@dataclass(frozen=True)
class Latest(Generic[T]):
    """The newest figures there are (None: none yet), how old they are, and why there are no newer ones, where that failed."""

    value: T | None
    age_seconds: float
    problem: str


class Kept(Generic[T]):
    """The figures of one thing at a time, named by a key. They are made in `pool`, by one thread at a time, when somebody asks
    and those that are there are older than `lasts` seconds, and than `dearer` times what they took to make: whoever reloads a page
    without end takes a tenth of a processor from those who ask. For one event loop."""

    def __init__(self, pool: Executor, lasts: float, dearer: float = DEARER) -> None:
        self._pool, self._lasts, self._dearer = pool, lasts, dearer
        self._key: Hashable = None
        self._value: T | None = None
        self._made_at = float("-inf")
        self._took = 0.0
        self._problem = ""
        self._making: asyncio.Future[None] | None = None

    async def get(self, key: Hashable, make: Callable[[], T], patience: float) -> Latest[T]:
        """The figures of `key`: new ones if they are ready within `patience` seconds, else the last ones; for those, if they are
        hardly too old, only a third of it is waited. Never raises what `make` raises; `problem` tells."""
        if key != self._key:
            self._key, self._value, self._made_at, self._problem, self._making = key, None, float("-inf"), "", None
        lasts = max(self._lasts, min(self._dearer * self._took, LONGEST))
        if time.monotonic() - self._made_at > lasts:
            if self._making is None or self._making.done():
                self._making = asyncio.ensure_future(self._make(key, make))
            hardly = time.monotonic() - self._made_at < 3 * lasts
            await asyncio.wait({self._making}, timeout=patience / 3 if hardly else patience)
        return Latest(self._value, time.monotonic() - self._made_at, self._problem)

    async def _make(self, key: Hashable, make: Callable[[], T]) -> None:
        problem, value, began = "", None, time.monotonic()
        try:
            value = await asyncio.get_running_loop().run_in_executor(self._pool, make)
        except EvermoeError as error:
            problem = str(error)
        except Exception:
            log.exception("figures of the console could not be made")
            problem = "something failed inside the gateway; its log has the details"
        if key != self._key:
            return  # somebody asked for others meanwhile
        self._problem = problem
        if value is not None:
            self._value, self._made_at = value, time.monotonic()
            self._took = self._made_at - began
