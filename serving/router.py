"""Which version answers whom: follows the plan, has the engine load what it names, and gives each request its route.

Knows the plan and the engine. Does not know HTTP, nor how a plan comes to be (`registry/`).
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass

from evermoe.errors import BadInput, EvermoeError, NotFound, NotReady
from evermoe.words import as_name
from registry.assignment import CHALLENGER, CHAMPION, Apart, assign
from registry.book.ledger import Plan
from serving.engine import Engine, Servable

log = logging.getLogger("evermoe.serving")
MODEL = "evermoe"
PINNED = "pinned"
APART = "apart"
"""The arm of units that take no part in rollouts (`registry.assignment.Apart`)."""


@dataclass(frozen=True)
class Deployment:
    """Who serves: the champion, and while a rollout is open the plan that shares the units between it and the challengers."""

    champion: str
    rollout: Plan | None = None

    @property
    def versions(self) -> tuple[str, ...]:
        if self.rollout is None:
            return (self.champion,)
        return (self.champion, *(one.version for one in self.rollout.inside))


@dataclass(frozen=True)
class Route:
    """What one request meets, from its beginning to its end, whatever the plan becomes meanwhile."""

    model: Servable
    version: str
    arm: str
    propensity: float
    rollout: str | None
    other: Servable | None = None  # with one challenger, the other arm's model: it may answer in the shadow of this one
    shares: dict[str, float] | None = None  # with several, those of all arms: what weighs one arm against another

    @property
    def name(self) -> str:
        """The model's name as clients read it."""
        return f"{MODEL}:{self.version}"


@dataclass(frozen=True)
class _Standing:
    """A deployment and the models it needs, replaced as one."""

    deployment: Deployment
    models: Mapping[str, Servable]


class Router:
    """Follows the plan: loads what is new, then switches, then drops what nobody needs.

    When the plan cannot be read or its champion cannot be loaded, the last standing plan goes on serving and `problem`
    says why. Where a challenger cannot be loaded, no challenger meets anybody: the champion answers all, outside the rollout,
    because shares that are not those of the plan would weigh the arms wrong.
    """

    def __init__(
        self,
        read: Callable[[], Deployment],
        engine: Engine,
        *,
        every: float = 0.5,
        patience: float = 10.0,
        reload_after: float = 10.0,
        apart: Apart = Apart(),
    ) -> None:
        """`read` may block; it is called every `every` seconds in a thread of its own, and without a word from it for
        `patience` seconds there is a problem. A version that failed to load is tried again after `reload_after` seconds."""
        self._read, self._engine = read, engine
        self._every, self._patience, self._reload_after = every, patience, reload_after
        self._apart = apart
        self._standing: _Standing | None = None
        self._fault: str | None = None
        self._load_faults: dict[str, tuple[float, str]] = {}
        self._heard = time.monotonic()
        self._turn = asyncio.Lock()
        self._reader = ThreadPoolExecutor(1, "plan")

    @property
    def holdout(self) -> float:
        """The share of the units that take no part in any rollout."""
        return self._apart.holdout

    @property
    def deployment(self) -> Deployment | None:
        """The deployment in force; None until the first one is loaded."""
        return self._standing.deployment if self._standing else None

    @property
    def versions(self) -> tuple[str, ...]:
        """The versions that answer now, champion first."""
        return self._standing.deployment.versions if self._standing else ()

    @property
    def labels(self) -> frozenset[str]:
        """Every label a serving version has learned."""
        models = self._standing.models.values() if self._standing else ()
        return frozenset(label for model in models for label in model.labels)

    @property
    def problem(self) -> str | None:
        """Why the plan in force may be out of date, in one line; None when it is not."""
        silent = time.monotonic() - self._heard
        if self._fault is None and silent > self._patience:
            return f"no word from the rollout ledger or MLflow for {silent:.0f} s"
        return self._fault

    def route(self, name: str, unit: str) -> Route:
        """The route of a request for model `name` by `unit`. Raises `NotReady` without a plan, `NotFound` for a model
        that is not loaded."""
        standing = self._standing
        if standing is None:
            raise NotReady(self.problem or "no version is loaded yet; try again in a moment")
        plan, version = standing.deployment.rollout, standing.deployment.champion
        if name == MODEL and plan is None:
            return Route(standing.models[version], version, CHAMPION, 1.0, None)
        if name == MODEL and plan is not None and (fixed := self._apart.arm(unit)) is not None:
            named = {CHALLENGER: plan.challenger, CHAMPION: plan.champion}.get(fixed, fixed)
            version = named if named in standing.models else plan.champion
            return Route(standing.models[version], version, APART, 1.0, None)
        if name == MODEL and plan is not None:
            arm, propensity = assign(plan.salt, unit, plan.shares)
            version = plan.versions[arm]
            model = standing.models[version]
            if plan.several:
                return Route(model, version, arm, propensity, plan.rollout, shares=plan.logged)
            other = standing.models[plan.champion if arm == CHALLENGER else plan.challenger]
            return Route(model, version, arm, propensity, plan.rollout, other)
        version = name.removeprefix(f"{MODEL}:")
        if version == name or version not in standing.models:
            served = ", ".join([MODEL, *(f"{MODEL}:{version}" for version in standing.models)])
            raise NotFound(f"the model '{name}' is not served here; ask for one of {served}")
        return Route(standing.models[version], version, PINNED, 1.0, None)

    async def refresh(self) -> None:
        """Read the plan once and follow it. Never raises what reading or loading raise; `problem` tells."""
        async with self._turn:
            try:
                wanted = await asyncio.get_running_loop().run_in_executor(self._reader, self._read)
            except Exception as error:
                self._heard = time.monotonic()
                self._say(_one_line(error))
                return
            self._heard = time.monotonic()
            if self._standing is None or wanted != self._standing.deployment or self._load_faults:
                await self._follow(wanted)
            else:
                self._say(None)

    async def run(self) -> None:
        """Follow the plan until cancelled."""
        while True:
            await self.refresh()
            await asyncio.sleep(self._every)

    def close(self) -> None:
        """Free the reading thread without waiting for a read that hangs."""
        self._reader.shutdown(wait=False, cancel_futures=True)

    async def _follow(self, wanted: Deployment) -> None:
        fault = await self._load(wanted.champion)
        if fault is None and wanted.rollout is not None:
            faults = [await self._load(one.version) for one in wanted.rollout.inside]
            fault = next((one for one in faults if one is not None), None)
            if fault is not None:
                wanted, fault = Deployment(wanted.champion), f"{fault}; the champion answers all"
        elif fault is not None and self._standing is not None:
            fault = f"{fault}; version {self._standing.deployment.champion} goes on serving"
        if self._engine.get(wanted.champion) is not None:
            loaded = {version: self._engine.get(version) for version in wanted.versions}
            self._standing = _Standing(wanted, {version: model for version, model in loaded.items() if model})
            self._engine.keep(wanted.versions)
        if fault is None:
            self._load_faults.clear()
        self._say(fault)

    async def _load(self, version: str) -> str | None:
        """Load a version; the reason where that failed now, or a short while ago."""
        failed_at, reason = self._load_faults.get(version, (float("-inf"), ""))
        if time.monotonic() - failed_at < self._reload_after:
            return reason
        try:
            await self._engine.ensure([version])
        except Exception as error:
            reason = f"version {version} cannot be loaded: {_one_line(error)}"
            self._load_faults[version] = time.monotonic(), reason
            return reason
        return None

    def _say(self, fault: str | None) -> None:
        if fault != self._fault:
            log.warning("plan: %s", fault) if fault else log.info("plan: in force again")
        self._fault = fault


def _one_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    said = lines[0] if lines else type(error).__name__
    return said if isinstance(error, EvermoeError) else f"{type(error).__name__}: {said}"


def checked_unit(given: str | None, header: str | None = None) -> str | None:
    """The unit a client named in its body, else in its header, or None where it named none. Raises `BadInput` for one too long to
    be a name.

    A header's bytes reach us as latin-1; most clients mean UTF-8, and a person is one unit by whichever way the name came.
    """
    unit = as_name(given or "")
    if not unit and header is not None:
        with suppress(UnicodeError):
            header = header.encode("latin-1").decode()
        unit = as_name(header)
    if len(unit) > 512:
        raise BadInput("'user' is longer than 512 characters; send a short, stable name")
    return unit or None
