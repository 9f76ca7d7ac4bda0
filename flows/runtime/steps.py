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
        return f"{words} {due():%Y-%m-%d %H:%M}"

    return name


def due() -> datetime:
    """When the flow that runs here was to happen: the time that was passed in, else the one it was due, however late it began."""
    from prefect.runtime import flow_run

    moment = flow_run.parameters.get("now") or flow_run.scheduled_start_time
    return datetime.fromisoformat(moment) if isinstance(moment, str) else moment


def asked_for(flow: str) -> bool:
    """Whether a run of this flow was asked for and has not begun; what the calendar will bring does not count.

    One that has begun holds a lock. What Prefect calls running may have been killed long ago.
    """
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import (
        FlowFilter,
        FlowFilterName,
        FlowRunFilter,
        FlowRunFilterState,
        FlowRunFilterStateType,
    )
    from prefect.client.schemas.objects import StateType

    waiting = [StateType.SCHEDULED, StateType.PENDING]
    with get_client(sync_client=True) as client:
        runs = client.read_flow_runs(
            flow_filter=FlowFilter(name=FlowFilterName(any_=[flow])),
            flow_run_filter=FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=waiting))),
        )
    return any(not (run.auto_scheduled and run.state_type == StateType.SCHEDULED) for run in runs)


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
