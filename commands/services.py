"""The servers the platform runs, as programs for `commands/processes.py`. It starts none itself.

All keep their state under the home: Prefect in `prefect/`, MLflow in `mlflow.db` and `artifacts/`, logs in `logs/`.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from commands.keys import on_loopback
from commands.processes import Process, answers
from evermoe.errors import ServiceUnreachable
from evermoe.quiet import QUIET
from evermoe.settings import ROOT, Settings


def local_url(settings: Settings, port: int) -> str:
    """Where a browser on this machine finds a server of ours."""
    host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(settings.host, settings.host)
    return f"http://{host}:{port}"


def tool_host(settings: Settings) -> str:
    """Where Prefect and MLflow listen: on this machine alone, wherever the gateway does.

    Neither asks who one is, and either can replace the champion.
    """
    return settings.host if on_loopback(settings.host) else "127.0.0.1"


def tool_url(settings: Settings, port: int) -> str:
    """Where a browser on this machine finds Prefect or MLflow."""
    return f"http://{tool_host(settings)}:{port}"


def environment(settings: Settings) -> dict[str, str]:
    """What every child needs to be part of this platform: absolute paths, because children start in other folders."""
    home = settings.home.resolve()
    values = {
        **{name: os.environ.get(name, value) for name, value in QUIET.items()},
        "EVERMOE_HOME": str(home),
        "EVERMOE_HOST": settings.host,
        "EVERMOE_GATEWAY_PORT": str(settings.gateway_port),
        "EVERMOE_MLFLOW_PORT": str(settings.mlflow_port),
        "EVERMOE_PREFECT_PORT": str(settings.prefect_port),
        "EVERMOE_CACHE": str(settings.cache.resolve()),
        "PREFECT_HOME": str(home / "prefect"),
        "PREFECT_API_URL": prefect_api(settings),
        "PREFECT_LOGGING_LEVEL": os.environ.get("PREFECT_LOGGING_LEVEL", "WARNING"),
        "PREFECT_CLI_COLORS": "false",
        "PREFECT_LOGGING_COLORS": "false",
        "GIT_PYTHON_REFRESH": "quiet",
    }
    if settings.database_url:
        values["EVERMOE_DATABASE_URL"] = absolute(settings.database_url)
    if settings.mlflow_uri:
        values["EVERMOE_MLFLOW_URI"] = absolute(settings.mlflow_uri)
    if params := os.environ.get("EVERMOE_PARAMS"):
        values["EVERMOE_PARAMS"] = str(Path(params).resolve())
    return values


def absolute(url: str) -> str:
    """An SQLite file's address from wherever one is; any other as it is."""
    scheme, slashes, file = url.partition(":///")
    return f"{scheme}{slashes}{Path(file).resolve()}" if scheme == "sqlite" and file and file != ":memory:" else url


def uses_own_prefect(settings: Settings) -> bool:
    """Whether the user runs a Prefect server elsewhere and named it. Raises `ServiceUnreachable` where it does not answer."""
    if "PREFECT_API_URL" not in os.environ:
        return False
    api = prefect_api(settings)
    if not answers(f"{api}/health"):
        raise ServiceUnreachable(f"Prefect does not answer at {api}; start it, or unset PREFECT_API_URL to use ours")
    return True


def prefect_api(settings: Settings) -> str:
    """The Prefect API as children reach it: PREFECT_API_URL if the user runs a server elsewhere, else ours."""
    return os.environ.get("PREFECT_API_URL", f"{tool_url(settings, settings.prefect_port)}/api")


def prefect_server(settings: Settings) -> Process:
    """Prefect's API and UI, on SQLite in the home. Its first start takes 10 to 20 s (it builds its schema), later ones 3."""
    home = settings.home.resolve() / "prefect"
    url = tool_url(settings, settings.prefect_port)
    return Process(
        name="prefect",
        argv=[
            sys.executable,
            "-m",
            "prefect",
            "server",
            "start",
            "--host",
            tool_host(settings),
            "--port",
            str(settings.prefect_port),
        ],
        env={
            **environment(settings),
            "PREFECT_API_URL": f"{url}/api",
            "PREFECT_API_DATABASE_CONNECTION_URL": f"sqlite+aiosqlite:///{home / 'prefect.db'}",
            "PREFECT_SERVER_UI_API_URL": f"{url}/api",
            "PREFECT_SERVER_LOGGING_LEVEL": "WARNING",
            # a run that waits for its deployment's only slot is looked at again after this long (30 s by default)
            "PREFECT_SERVER_DEPLOYMENTS_CONCURRENCY_SLOT_WAIT_SECONDS": "5",
        },
        ready=f"{url}/api/health",
        cwd=ROOT,
        host=tool_host(settings),
        port=settings.prefect_port,
        port_variable="EVERMOE_PREFECT_PORT",
    )


def prefect_for_one_command(settings: Settings, port: int) -> Process:
    """Prefect's API alone, as Prefect itself would start it where no server answers; but on a leash, since Prefect's own is left
    running for ever when the command is killed."""
    url = f"http://127.0.0.1:{port}/api"
    app = ["--factory", "prefect.server.api.server:create_app", "--lifespan", "on"]
    return Process(
        name="prefect-for-one-command",
        argv=[
            sys.executable,
            "-m",
            "uvicorn",
            *app,
            "--host",
            "127.0.0.1",
            "--port",
            str(port),
            "--log-level",
            "error",
        ],
        env={"PREFECT_UI_ENABLED": "0", "PREFECT__SERVER_EPHEMERAL": "1", "PREFECT__SERVER_FINAL": "1"},
        ready=f"{url}/health",
        cwd=ROOT,
        port=port,
    )


def runner(settings: Settings, paused: bool = False) -> Process:
    """The process that starts flow runs. With `paused` the schedules are shown but start nothing; events still do."""
    return Process(
        name="runner",
        argv=[sys.executable, "-m", "flows.deployments", *(["--paused"] if paused else [])],
        env={**environment(settings), "PREFECT_LOGGING_LEVEL": os.environ.get("PREFECT_LOGGING_LEVEL", "INFO")},
        ready_line="serving ",
        cwd=ROOT,
    )


def mlflow_server(settings: Settings) -> Process:
    """MLflow's API and UI on the tracking database; the artifacts are read from the home."""
    url = tool_url(settings, settings.mlflow_port)
    return Process(
        name="mlflow",
        argv=[
            *[sys.executable, "-m", "mlflow", "server", "--workers", "1"],
            *["--artifacts-destination", str(settings.artifacts)],
            *["--host", tool_host(settings), "--port", str(settings.mlflow_port)],
            *["--uvicorn-opts", "--log-level warning"],
        ],
        env={
            **environment(settings),
            "MLFLOW_BACKEND_STORE_URI": settings.tracking_uri,  # not an option: everyone may read a command line
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            "MLFLOW_LOGGING_LEVEL": "WARNING",
        },
        ready=f"{url}/health",
        cwd=settings.home.resolve(),
        host=tool_host(settings),
        port=settings.mlflow_port,
        port_variable="EVERMOE_MLFLOW_PORT",
    )


def gateway(settings: Settings, replay: bool = False) -> Process:
    """The HTTP gateway with the registered model. With `replay` a request may say when it happened (the demo's time travel)."""
    url = local_url(settings, settings.gateway_port)
    return Process(
        name="gateway",
        argv=[sys.executable, "-m", "commands.main", "serve", *(["--replay"] if replay else [])],
        env=environment(settings),
        ready=f"{url}/ready",
        cwd=ROOT,
        host=settings.host,
        port=settings.gateway_port,
        port_variable="EVERMOE_GATEWAY_PORT",
    )
