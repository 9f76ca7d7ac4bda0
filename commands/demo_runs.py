"""Starting `monthly` as the calendar would, and waiting for the run that the calendar or an event started."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterName, TaskRunFilter, TaskRunFilterFlowRunId
from prefect.client.schemas.objects import FlowRun
from prefect.client.schemas.sorting import FlowRunSort, TaskRunSort

from evermoe.errors import ServiceUnreachable

DEPLOYMENT = "monthly"
APPEAR_SECONDS = 60


def start_update(month: str, now: datetime) -> None:
    """Ask for a run of `monthly/monthly`; the runner starts it."""
    with get_client(sync_client=True) as client:
        deployment = client.read_deployment_by_name(f"{DEPLOYMENT}/{DEPLOYMENT}")
        client.create_flow_run_from_deployment(deployment.id, parameters={"month": month, "now": now.isoformat()})


def wait_for_update(month: str, now: datetime, tell: Callable[[str], None]) -> FlowRun:
    """The finished run for `month`. Starts one by the calendar where an event's has not appeared in a minute.

    Raises `ServiceUnreachable` where the run failed, with its last word.
    """
    deadline = time.monotonic() + APPEAR_SECONDS
    asked = False
    with get_client(sync_client=True) as client:
        while True:
            run = find_run(client, month)
            if run is not None and run.state is not None and run.state.is_final():
                if not run.state.is_completed():
                    raise ServiceUnreachable(f"the update of {month} ended {run.state.name}: {run.state.message}")
                return run
            if run is None and time.monotonic() > deadline and not asked:
                asked = True
                start_update(month, now)
            if run is not None:
                tell(doing(client, run))
            time.sleep(0.5)


def find_run(client: SyncPrefectClient, month: str) -> FlowRun | None:
    """The latest run of the deployment for that month."""
    runs = client.read_flow_runs(
        deployment_filter=DeploymentFilter(name=DeploymentFilterName(any_=[DEPLOYMENT])),
        sort=FlowRunSort.EXPECTED_START_TIME_DESC,
        limit=20,
    )
    return next((run for run in runs if run.parameters.get("month") == month), None)


def doing(client: SyncPrefectClient, run: FlowRun) -> str:
    """What a run is at, in the words of its latest task."""
    filters = TaskRunFilter(flow_run_id=TaskRunFilterFlowRunId(any_=[run.id]))
    tasks = client.read_task_runs(task_run_filter=filters, sort=TaskRunSort.EXPECTED_START_TIME_DESC, limit=1)
    return tasks[0].name.rsplit("-", 1)[0] if tasks else "update"
