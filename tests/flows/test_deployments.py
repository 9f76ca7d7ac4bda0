"""prefect.yaml on a real Prefect server: the schedules, the event that starts a month, and what a killed runner leaves.

The flows here are stand-ins that write down how they were called; what the real ones do is tested elsewhere.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from commands import services
from commands.processes import Process, Processes, free_ports
from evermoe.errors import BadInput
from evermoe.settings import ROOT, Settings
from flows import deployments

STAND_IN = """
import json, os, time
from datetime import datetime
from prefect import flow

@flow(name="{name}")
def {name}({parameters}now: datetime | None = None) -> None:
    with open({calls!r}, "a") as file:
        where = {{"cwd": os.getcwd(), "home": os.environ["EVERMOE_HOME"]}}
        said = {{"flow": "{name}", "month": {month}, "now": now and now.isoformat(), **where}}
        file.write(json.dumps(said) + "\\n")
    if {month} == {long!r}:
        time.sleep(120)
"""
LONG = "2001-01"
SERVE = """
import asyncio, pathlib, sys
from flows import deployments
asyncio.run(deployments.serve(paused_schedules=True, query_seconds=0.5, root=pathlib.Path(sys.argv[1])))
"""
EMIT = """
import json, sys
from prefect.events import emit_event
emit_event("evermoe.drift.detected", resource={"prefect.resource.id": "evermoe.stream"}, payload=json.loads(sys.argv[1]))
"""


@dataclass(frozen=True)
class Platform:
    """A Prefect server and a runner, and what the stand-in flows wrote."""

    root: Path
    env: dict[str, str]
    home: Path
    api: str
    processes: Processes

    def calls(self) -> list[dict[str, Any]]:
        file = self.root / "calls.jsonl"
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

    def wait_for_call(self, number: int, seconds: float = 40.0) -> dict[str, Any]:
        deadline = time.monotonic() + seconds
        while len(self.calls()) < number and time.monotonic() < deadline:
            time.sleep(0.1)
        assert len(self.calls()) >= number, "the event started no run"
        return self.calls()[number - 1]


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    root = tmp_path_factory.mktemp("checkout")
    home = tmp_path_factory.mktemp("home")
    (root / "flows").mkdir()
    shutil.copy(ROOT / "prefect.yaml", root)
    for name in ("drift", "monthly", "rollout"):
        month = name == "monthly"
        code = STAND_IN.format(
            name=name,
            parameters="month: str | None = None, " if month else "",
            month="month" if month else None,
            calls=str(root / "calls.jsonl"),
            long=LONG,
        )
        (root / "flows" / f"{name}.py").write_text(code)
    (port,) = free_ports(1)
    with pytest.MonkeyPatch.context() as patch, Processes(home / "logs") as processes:
        patch.delenv("PREFECT_API_URL", raising=False)
        settings = Settings(home=home, prefect_port=port)
        env = services.environment(settings)
        processes.start(services.prefect_server(settings), runner_of(root, env))
        processes.wait_until_ready(120)
        yield Platform(root, {**os.environ, **env}, home, services.prefect_api(settings), processes)


def runner_of(root: Path, env: dict[str, str]) -> Process:
    return Process("runner", [sys.executable, "-P", "-c", SERVE, str(root)], env=env, ready_line="serving ", cwd=root)


def emit(platform: Platform, payload: dict[str, Any]) -> None:
    subprocess.run(
        [sys.executable, "-c", EMIT, json.dumps(payload)], env=platform.env, check=True, timeout=60, capture_output=True
    )


def in_client(platform: Platform, work: Any) -> Any:
    """Run `await work(client)` against the platform's server."""
    from prefect.client.orchestration import get_client
    from prefect.settings import PREFECT_API_URL, temporary_settings

    async def run() -> Any:
        async with get_client() as client:
            return await work(client)

    with temporary_settings({PREFECT_API_URL: platform.api}):
        return asyncio.run(run())


def test_prefect_yaml_says_when_things_happen() -> None:
    found = {one["name"]: one for one in deployments.read_deployments()}
    assert {name: [schedule["cron"] for schedule in one["schedules"]] for name, one in found.items()} == {
        "drift": ["0 5 * * *"],
        "monthly": ["0 6 1 * *"],
        "rollout": ["*/10 * * * *"],
    }
    assert all(schedule["timezone"] == "UTC" for one in found.values() for schedule in one["schedules"])
    assert all(one["concurrency_limit"]["limit"] == 1 for one in found.values())
    assert found["monthly"]["triggers"][0]["expect"] == ["evermoe.drift.detected"]


@pytest.mark.parametrize(
    "text", ["deployments: [{name: a, schedules: [{cron: x, interval: 3}]}]", "deployments: ]", "a: \t b"]
)
def test_a_prefect_yaml_that_cannot_be_read_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "prefect.yaml").write_text(text)
    with pytest.raises(BadInput, match=r"prefect\.yaml"):
        deployments.read_deployments(tmp_path / "prefect.yaml")


def test_the_server_shows_three_deployments_whose_paused_schedules_start_nothing(platform: Platform) -> None:
    async def read(client: Any) -> Any:
        return await client.read_deployments()

    shown = {one.name: one for one in in_client(platform, read)}
    assert set(shown) == {"drift", "monthly", "rollout"}
    assert all(not schedule.active for one in shown.values() for schedule in one.schedules)
    assert all(one.description and "evermoe" in one.tags for one in shown.values())
    assert shown["monthly"].path == str(platform.root)


def test_a_drift_event_of_a_short_process_starts_the_month_it_names(platform: Platform) -> None:
    already = len(platform.calls())
    emit(platform, {"month": "2025-07", "now": "2025-07-31T12:00:00+00:00", "reasons": ["labels moved"]})
    call = platform.wait_for_call(already + 1)
    assert call == {
        "flow": "monthly",
        "month": "2025-07",
        "now": "2025-07-31T12:00:00+00:00",
        "cwd": str(platform.root),
        "home": str(platform.home),
    }


def test_an_event_without_month_and_time_leaves_them_to_the_flow(platform: Platform) -> None:
    already = len(platform.calls())
    emit(platform, {})
    call = platform.wait_for_call(already + 1)
    assert (call["flow"], call["month"], call["now"]) == ("monthly", None, None)


def test_a_run_that_a_killed_runner_left_is_settled_so_the_next_can_start(platform: Platform) -> None:
    from prefect.states import Running

    async def leave_and_settle(client: Any) -> tuple[int, Any, int]:
        drift = await client.read_deployment_by_name("drift/drift")
        left = await client.create_flow_run_from_deployment(drift.id, state=Running())
        settled = await deployments.settle_orphans(client, [drift.id])
        after = (await client.read_flow_run(left.id)).state
        return settled, after, await deployments.settle_orphans(client, [drift.id])

    settled, after, again = in_client(platform, leave_and_settle)
    assert (settled, after.is_crashed(), again) == (1, True, 0)
    assert "killed" in after.message


def test_an_update_that_was_stopped_half_way_is_begun_again_once(platform: Platform) -> None:
    from prefect.states import Cancelled, Completed, Running

    already = len(platform.calls())

    async def leave_and_resume(client: Any) -> Any:
        monthly = await client.read_deployment_by_name("monthly/monthly")
        left = await client.create_flow_run_from_deployment(
            monthly.id, state=Running(), parameters={"month": "2025-05"}
        )
        await deployments.settle_orphans(client, [monthly.id])
        begun = await deployments.resume_update(client, monthly.id)
        again = await deployments.resume_update(client, monthly.id)
        return left.id, begun, again

    left, begun, again = in_client(platform, leave_and_resume)
    assert begun is not None
    assert (begun.id != left, begun.parameters["month"], again) == (True, "2025-05", None)
    assert platform.wait_for_call(already + 1)["month"] == "2025-05"

    async def end(client: Any, state: Any) -> Any:
        monthly = await client.read_deployment_by_name("monthly/monthly")
        await client.create_flow_run_from_deployment(monthly.id, state=state, parameters={"month": "2025-04"})
        return await deployments.resume_update(client, monthly.id)

    assert in_client(platform, lambda client: end(client, Completed())) is None
    assert in_client(platform, lambda client: end(client, Cancelled(message="by ann"))) is None
    stopped = in_client(platform, lambda client: end(client, Cancelled(message=deployments.STOPPED)))
    assert stopped.parameters["month"] == "2025-04"
    assert platform.wait_for_call(already + 2)["month"] == "2025-04"  # or it would come in the midst of a later test


def test_of_the_runs_a_schedule_missed_only_the_latest_is_kept(platform: Platform) -> None:
    from prefect.client.schemas.actions import DeploymentScheduleCreate
    from prefect.client.schemas.schedules import IntervalSchedule

    async def miss_some(client: Any) -> tuple[int, int, list[datetime]]:
        flow = await client.create_flow_from_name("forgotten")
        every_second = DeploymentScheduleCreate(schedule=IntervalSchedule(interval=timedelta(seconds=1)), active=True)
        forgotten = await client.create_deployment(flow, "forgotten", schedules=[every_second])

        async def missed(now: datetime) -> list[datetime]:
            runs = await client.read_flow_runs(deployment_filter=deployments.only([forgotten]))
            return sorted(
                run.expected_start_time for run in runs if run.state.is_scheduled() and run.expected_start_time < now
            )

        deadline = time.monotonic() + 20
        while len(await missed(datetime.now(UTC))) < 3 and time.monotonic() < deadline:
            await asyncio.sleep(0.2)
        now = datetime.now(UTC)
        before = await missed(now)
        deleted = await deployments.skip_missed(client, [forgotten], now=now)
        kept = await missed(now)
        await client.delete_deployment(forgotten)
        return len(before), deleted, [time for time in kept if time == before[-1]] if len(kept) == 1 else []

    missed, deleted, kept = in_client(platform, miss_some)
    assert missed >= 3
    assert deleted == missed - 1
    assert len(kept) == 1


def test_an_update_under_way_when_the_runner_is_told_to_stop_goes_on_with_the_next_runner(platform: Platform) -> None:
    already = len(platform.calls())

    async def begin(client: Any) -> Any:
        monthly = await client.read_deployment_by_name("monthly/monthly")
        return await client.create_flow_run_from_deployment(monthly.id, parameters={"month": LONG})

    begun = in_client(platform, begin)
    assert platform.wait_for_call(already + 1)["month"] == LONG
    runner = platform.processes.running.pop()
    runner.let_go()
    runner.leash.wait(60)
    stopped = in_client(platform, lambda client: client.read_flow_run(begun.id))
    assert (stopped.state.is_cancelled(), stopped.state.message) == (True, deployments.STOPPED)
    platform.processes.start(runner_of(platform.root, runner.process.env))  # type: ignore[arg-type]
    assert platform.wait_for_call(already + 2)["month"] == LONG
