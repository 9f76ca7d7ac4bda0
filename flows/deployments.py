"""Serves the deployments of prefect.yaml from one runner: registers them with the Prefect server, then starts their runs.

prefect.yaml is the one definition (schedules, triggers, limits, descriptions); nothing is said twice here. This file knows
nothing of what the flows do, and does not start the server: `PREFECT_API_URL` says where it is.

    python -m flows.deployments [--paused] [--query-seconds 2]

Runs inherit this process's environment and start in the repository root, because Prefect resolves `flows/drift.py:drift`
against the working directory of the runner (from anywhere else it would copy the repository there first).
"""

from __future__ import annotations

import argparse
import asyncio
import os
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

import yaml

from evermoe.errors import BadInput, EvermoeError, ServiceUnreachable
from evermoe.months import before, month_of
from evermoe.settings import ROOT

if TYPE_CHECKING:
    from prefect.client.orchestration import PrefectClient
    from prefect.client.schemas.filters import DeploymentFilter
    from prefect.client.schemas.objects import FlowRun
    from prefect.deployments.runner import RunnerDeployment

RUNNER = "evermoe"
QUERY_SECONDS = 2.0
STOPPED = "the runner that ran this was stopped"
UPDATE = "monthly"  # the deployment whose stopped runs are begun again; the others come again soon anyway
SERVER_SECONDS = 120.0


def read_deployments(file: Path | None = None) -> list[dict[str, Any]]:
    """The deployments of prefect.yaml as Prefect's own schema reads them. Raises `BadInput` naming what is wrong."""
    from prefect.cli.deploy._models import PrefectYamlModel
    from pydantic import ValidationError

    file = file or ROOT / "prefect.yaml"
    try:
        model = PrefectYamlModel.model_validate(yaml.safe_load(file.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise BadInput(f"{file}: no such file; run from a checkout of Evermoe") from None
    except (ValidationError, yaml.YAMLError) as error:
        raise BadInput(f"{file}: {str(error).splitlines()[0]}") from None
    return [deployment.model_dump(exclude_unset=True) for deployment in model.deployments]


def build(definition: dict[str, Any], *, paused_schedules: bool = False, root: Path = ROOT) -> RunnerDeployment:
    """One definition of prefect.yaml as something a runner can serve. Must run with `root` as the working directory.

    With `paused_schedules` the schedules are registered, and seen in the UI, but start nothing; events and
    `run_deployment` still do.
    """
    from prefect.client.schemas.objects import ConcurrencyLimitConfig
    from prefect.deployments.runner import RunnerDeployment
    from prefect.events import DeploymentTriggerTypes
    from prefect.schedules import Schedule
    from pydantic import TypeAdapter

    if Path.cwd() != root:
        raise BadInput(f"flows are served from {root}, not from {Path.cwd()}; run `evermoe up`, which sees to it")
    limit = definition.get("concurrency_limit")
    return RunnerDeployment.from_entrypoint(
        entrypoint=definition["entrypoint"],
        name=definition["name"],
        description=definition.get("description"),
        tags=definition.get("tags"),
        parameters=definition.get("parameters"),
        schedules=[
            Schedule(**{"active": True, **schedule, **({"active": False} if paused_schedules else {})})
            for schedule in definition.get("schedules") or []
        ],
        triggers=[
            TypeAdapter(DeploymentTriggerTypes).validate_python(trigger) for trigger in definition.get("triggers") or []
        ],
        concurrency_limit=ConcurrencyLimitConfig(**limit) if isinstance(limit, dict) else limit,
    )


async def serve(*, paused_schedules: bool = False, query_seconds: float = QUERY_SECONDS, root: Path = ROOT) -> None:
    """Register the deployments and start their runs as they come due, until the process is told to stop."""
    from prefect.client.orchestration import get_client
    from prefect.runner import Runner

    class RunnerThatEnds(Runner):
        """Prefect's own SIGTERM handler calls the coroutine `stop` without awaiting it, and leaves its runs unsettled."""

        def handle_sigterm(self, *args: Any, **kwargs: Any) -> None:
            if self.started:
                asyncio.get_running_loop().create_task(self.astop())
            elif not self.stopping:
                raise SystemExit(0)

        async def cancel_all(self) -> None:
            """Prefect's own marks a run as cancelled that has completed and whose process is only about to end."""
            async with get_client() as client:
                for flow_run in self._process_manager.flow_run_ids():
                    run = await client.read_flow_run(flow_run)
                    if run.state is None or not run.state.is_final():
                        await self._cancellation_manager.cancel(run, state_msg=STOPPED)

    await server_answers(SERVER_SECONDS)
    runner = RunnerThatEnds(name=RUNNER, query_seconds=query_seconds, pause_on_shutdown=False)
    ids = {
        definition["name"]: await runner.aadd_deployment(
            build(definition, paused_schedules=paused_schedules, root=root)
        )
        for definition in read_deployments(root / "prefect.yaml")
    }
    async with get_client() as client:
        await settle_orphans(client, list(ids.values()))
        await resume_update(client, ids[UPDATE])
        await skip_missed(client, list(ids.values()), now=datetime.now(UTC))
    print(f"serving {len(ids)} deployments", flush=True)
    await runner.start()


async def server_answers(seconds: float) -> None:
    """Wait for the Prefect server: it may be starting beside us. Raises `ServiceUnreachable` after `seconds`."""
    from prefect.client.orchestration import get_client

    deadline = time.monotonic() + seconds
    async with get_client() as client:
        while trouble := await client.api_healthcheck():
            if time.monotonic() > deadline:
                raise ServiceUnreachable(f"Prefect does not answer at {client.api_url}: {trouble}")
            await asyncio.sleep(0.2)


async def settle_orphans(client: PrefectClient, deployments: Sequence[UUID]) -> int:
    """Mark as crashed the runs that a killed runner left behind. Returns how many.

    Nobody else would: such a run stays Running for ever and holds its deployment's only concurrency slot. Runs of a work
    pool are its workers' to settle.
    """
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterState, FlowRunFilterStateType
    from prefect.client.schemas.objects import StateType
    from prefect.states import Crashed

    unsettled = [StateType.PENDING, StateType.RUNNING, StateType.CANCELLING]
    orphans: list[FlowRun] = await client.read_flow_runs(
        deployment_filter=only(deployments),
        flow_run_filter=FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=unsettled))),
    )
    orphans = [run for run in orphans if run.work_pool_name is None]
    for run in orphans:
        await client.set_flow_run_state(run.id, Crashed(message="the runner that ran this was killed"), force=True)
    return len(orphans)


async def resume_update(client: PrefectClient, deployment: UUID) -> FlowRun | None:
    """Begin the latest update again if it was stopped half-way: the calendar would bring another only with the next month.

    It goes on where it was: what it had finished is found. Returns the new run.
    """
    from prefect.client.schemas.sorting import FlowRunSort

    runs: list[FlowRun] = await client.read_flow_runs(
        deployment_filter=only([deployment]), sort=FlowRunSort.EXPECTED_START_TIME_DESC, limit=200
    )
    latest = next((run for run in runs if run.state and not (run.auto_scheduled and run.state.is_scheduled())), None)
    if latest is None or latest.state is None or not (latest.state.is_crashed() or latest.state.message == STOPPED):
        return None
    month = latest.parameters.get("month") or before(month_of(latest.expected_start_time or datetime.now(UTC)))
    return await client.create_flow_run_from_deployment(deployment, parameters={**latest.parameters, "month": month})


async def skip_missed(client: PrefectClient, deployments: Sequence[UUID], *, now: datetime) -> int:
    """Of the runs each schedule missed while nothing served it, keep the latest and delete the others.

    Prefect schedules up to a hundred runs ahead and would start every one of them late: a day off would mean a hundred looks
    at the same rollout. Returns how many were deleted.
    """
    from prefect.client.schemas.filters import (
        FlowRunFilter,
        FlowRunFilterExpectedStartTime,
        FlowRunFilterState,
        FlowRunFilterStateType,
    )
    from prefect.client.schemas.objects import StateType

    deleted = 0
    for deployment in deployments:
        missed: list[FlowRun] = await client.read_flow_runs(
            deployment_filter=only([deployment]),
            flow_run_filter=FlowRunFilter(
                state=FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.SCHEDULED])),
                expected_start_time=FlowRunFilterExpectedStartTime(before_=now),
            ),
        )
        by_schedule = [run for run in missed if run.auto_scheduled]
        by_schedule.sort(key=lambda run: run.expected_start_time or now)
        for run in by_schedule[:-1]:
            await client.delete_flow_run(run.id)
            deleted += 1
    return deleted


def only(deployments: Sequence[UUID]) -> DeploymentFilter:
    """The filter that selects the runs of these deployments."""
    from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterId

    return DeploymentFilter(id=DeploymentFilterId(any_=list(deployments)))


def main(argv: Sequence[str] | None = None) -> None:
    """The runner's process."""
    parser = argparse.ArgumentParser(
        prog="python -m flows.deployments", description="Serve the deployments of prefect.yaml."
    )
    parser.add_argument(
        "--paused", action="store_true", help="register the schedules paused: only events and requests start runs"
    )
    parser.add_argument(
        "--query-seconds", type=float, default=QUERY_SECONDS, help="how often to ask for runs that are due"
    )
    options = parser.parse_args(argv)
    os.chdir(ROOT)
    try:
        asyncio.run(serve(paused_schedules=options.paused, query_seconds=options.query_seconds))
    except EvermoeError as error:
        raise SystemExit(str(error)) from None


if __name__ == "__main__":
    main()
