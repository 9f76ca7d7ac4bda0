"""What the console shows of a rollout, gathered: each made aside and kept, so that a page is cheap.

Knows what takes long and how long a page waits for it. Does not know how a page looks.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from typing import TypeVar

from evermoe.errors import StorageUnavailable
from registry.deciding import Watch
from registry.rollout import Rollout
from serving.kept import Kept, Latest
from serving.rollouts import Proof, Registered, Rollouts, Traffic

LASTS, PATIENCE = 3.0, 0.25
"""Seconds: how old figures may be before newer ones are made, and how long a page waits for those."""
ANEW_SECONDS = 5.0
"""How long a page waits for what it reads anew: a database that is there and says nothing must not keep it for ever."""
WEIGHING_SECONDS = 30.0
"""The same for who wants the newest verdict itself, which takes seconds of weighing on a long log."""
T = TypeVar("T")


@dataclass(frozen=True)
class Shown:
    """The newest figures there are."""

    proof: Latest[Proof]
    watch: Latest[Watch]
    traffic: Latest[Traffic]
    registered: Latest[Registered]


class Figures:
    """The figures of the open rollout, for one event loop."""

    def __init__(self, rollouts: Rollouts, *, lasts: float = LASTS, patience: float = PATIENCE) -> None:
        self._rollouts, self._patience = rollouts, patience
        self._state_reader = ThreadPoolExecutor(4, "state")
        self._log_reader = ThreadPoolExecutor(1, "figures")
        self._mlflow_reader = ThreadPoolExecutor(1, "registry")
        self._proof: Kept[Proof] = Kept(self._log_reader, lasts)
        self._watch: Kept[Watch] = Kept(self._log_reader, lasts)
        self._traffic: Kept[Traffic] = Kept(self._log_reader, lasts)
        self._registered: Kept[Registered] = Kept(self._mlflow_reader, lasts)

    async def read(self, rollout: Rollout | None, now: datetime) -> Shown:
        """The figures of `rollout`, and what MLflow knows; after the page's patience, those of the last time. Never raises."""
        if rollout is None:
            return Shown(Latest(None, 0.0, ""), Latest(None, 0.0, ""), Latest(None, 0.0, ""), await self._registry())
        read = self._rollouts
        proof, watch, traffic, registered = await asyncio.gather(
            self._proof.get(rollout.id, lambda: read.proof(rollout, now), self._patience),
            self._watch.get(rollout.id, lambda: read.watch(rollout, now), self._patience),
            self._traffic.get(rollout.id, lambda: read.traffic(rollout), self._patience),
            self._registry(),
        )
        return Shown(proof, watch, traffic, registered)

    async def anew(self, read: Callable[[], T], seconds: float = ANEW_SECONDS) -> T:
        """What `read` says now. Raises what it raises, and `StorageUnavailable` where it takes more than so many seconds."""
        try:
            async with asyncio.timeout(seconds):
                return await asyncio.get_running_loop().run_in_executor(self._state_reader, read)
        except TimeoutError:
            raise StorageUnavailable(f"the database did not answer within {seconds:g} s; ask again later") from None

    async def _registry(self) -> Latest[Registered]:
        return await self._registered.get("registry", self._rollouts.registered, self._patience)

    async def warm(self, now: datetime) -> None:
        """Make the figures before anyone looks. Never raises."""
        try:
            rollout = await self.anew(self._rollouts.running)
        except Exception:
            return  # the first page tells
        await self.read(rollout, now)

    def close(self) -> None:
        """Free the reading threads without waiting for a read that hangs."""
        for pool in (self._state_reader, self._log_reader, self._mlflow_reader):
            pool.shutdown(wait=False, cancel_futures=True)
