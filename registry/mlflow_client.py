"""A client of MLflow that is known to answer: a server, a database or a file, by URI.

Knows how each kind of tracking URI fails, and says so in one line in seconds, where MLflow itself retries for minutes.
"""

from __future__ import annotations

import os
from pathlib import Path

import requests
import sqlalchemy as sa
from mlflow import MlflowClient

from evermoe.errors import BadInput, ServiceUnreachable, StorageUnavailable

EXPERIMENT = "evermoe"
_PATIENCE_SECONDS = 5


def connect(tracking_uri: str) -> MlflowClient:
    """A client for tracking and registry at this URI.

    Raises `ServiceUnreachable` when no server answers there, `StorageUnavailable` when the database cannot be opened.
    """
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")  # MLflow's own default is minutes of retries
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    scheme = tracking_uri.partition(":")[0]
    if scheme in ("http", "https"):
        _ask_server(tracking_uri)
    elif scheme.partition("+")[0] in ("sqlite", "postgresql", "mysql", "mssql"):
        _ask_database(tracking_uri)
    else:
        raise BadInput("the MLflow URI must be http(s)://, sqlite:/// or another database URL; see EVERMOE_MLFLOW_URI")
    return MlflowClient(tracking_uri=tracking_uri, registry_uri=tracking_uri)


def experiment_id(client: MlflowClient, artifacts: Path | None = None) -> str:
    """The platform's experiment, made on first use; `artifacts` is where its files go (None: where the server says)."""
    if (known := client.get_experiment_by_name(EXPERIMENT)) is not None:
        return str(known.experiment_id)
    location = None if artifacts is None else artifacts.resolve().as_uri()
    try:
        return str(client.create_experiment(EXPERIMENT, artifact_location=location))
    except Exception:
        if (known := client.get_experiment_by_name(EXPERIMENT)) is None:  # else: another process was first
            raise
        return str(known.experiment_id)


def _ask_server(uri: str) -> None:
    try:
        answer = requests.get(f"{uri.rstrip('/')}/health", timeout=_PATIENCE_SECONDS)
    except requests.RequestException as error:
        raise ServiceUnreachable(
            f"no MLflow server answers at {uri} ({type(error).__name__}); start it, or correct EVERMOE_MLFLOW_URI"
        ) from None
    if answer.status_code >= 500:
        raise ServiceUnreachable(
            f"the MLflow server at {uri} answers {answer.status_code}; look at its log, or try again"
        )


def _ask_database(uri: str) -> None:
    try:
        url = sa.make_url(uri)
        if url.get_backend_name() == "sqlite" and url.database:
            Path(url.database).parent.mkdir(parents=True, exist_ok=True)
        patience = {"connect_timeout": _PATIENCE_SECONDS} if url.get_backend_name() == "postgresql" else {}
        engine = sa.create_engine(url, connect_args=patience)
        try:
            sa.inspect(engine).get_table_names()
        finally:
            engine.dispose()
    except (sa.exc.SQLAlchemyError, OSError, ModuleNotFoundError) as error:
        why = str(getattr(error, "orig", error)).strip().splitlines()[0]
        raise StorageUnavailable(f"the MLflow database cannot be opened: {why}; see EVERMOE_MLFLOW_URI") from None
