"""A task as our flows use it: its inputs are models and databases, so nothing of it is hashed, cached or stored by Prefect."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import ParamSpec, TypeVar, cast

from prefect import task
from prefect.cache_policies import NO_CACHE

P = ParamSpec("P")
R = TypeVar("R")


def at_moment(words: str) -> Callable[[], str]:
    """Names a flow's runs `words 2025-07-01 06:00`: by the time that was passed in, else by the time it was due."""

    def name() -> str:
        from prefect.runtime import flow_run

        now = flow_run.parameters.get("now") or flow_run.scheduled_start_time
        moment = datetime.fromisoformat(now) if isinstance(now, str) else now
        return f"{words} {moment:%Y-%m-%d %H:%M}"

    return name


def step(name: str, retries: int = 0, retry_delay_seconds: float = 0) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Make a function a task of the flow that calls it. `name` is what people read in the Prefect UI."""

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        made = task(
            name=name,
            retries=retries,
            retry_delay_seconds=retry_delay_seconds,
            cache_policy=NO_CACHE,
            persist_result=False,
        )(function)
        return cast(Callable[P, R], made)

    return decorate
