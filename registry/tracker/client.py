"""A client of MLflow that is known to answer: a server, a database or a file, by URI.

Knows how each kind of tracking URI fails, and says so in one line in seconds, where MLflow itself retries for minutes.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Concatenate, ParamSpec, Protocol, TypeVar

import requests
import sqlalchemy as sa
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from evermoe.errors import BadInput, NotFound, ServiceUnreachable, StorageUnavailable, without_password

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


@contextmanager
def mlflow_errors(uri: str) -> Iterator[None]:
    """Turn what MLflow at this URI raises into one line.

    Only what MLflow says does not exist is `NotFound`, and what it will not take is `BadInput` (so it answers for an alias
    that points at nothing). All else means that nobody knows: `ServiceUnreachable` of a server, `StorageUnavailable` of a
    database.
    """
    try:
        yield
    except MlflowException as error:
        line = without_password(next(iter(str(error).splitlines()), type(error).__name__))[:200]
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            raise NotFound(f"MLflow: {line}") from error
        if error.error_code == "INVALID_PARAMETER_VALUE":
            raise BadInput(f"MLflow: {line}") from error
        raise _unavailable(uri, line) from error
    except requests.RequestException as error:  # artifacts travel without MLflow's own error handling
        raise _unavailable(uri, (str(error) or type(error).__name__).splitlines()[0][:200]) from error


class _Client(Protocol):
    @property
    def client(self) -> MlflowClient: ...


_Self = TypeVar("_Self", bound=_Client)
_Given = ParamSpec("_Given")
_Result = TypeVar("_Result")


def in_one_line(
    method: Callable[Concatenate[_Self, _Given], _Result],
) -> Callable[Concatenate[_Self, _Given], _Result]:
    """A method that raises as `mlflow_errors` does, of a class that has a `client`."""

    @wraps(method)
    def call(self: _Self, *args: _Given.args, **kwargs: _Given.kwargs) -> _Result:
        with mlflow_errors(self.client.tracking_uri):
            return method(self, *args, **kwargs)

    return call


def experiment_id(client: MlflowClient, artifacts: Path | None = None) -> str:
    """The platform's experiment, made on first use; `artifacts` is where its files go (None: where the server says)."""
    with mlflow_errors(client.tracking_uri):
        if (known := client.get_experiment_by_name(EXPERIMENT)) is not None:
            return str(known.experiment_id)
        location = None if artifacts is None else artifacts.resolve().as_uri()
        try:
            return str(client.create_experiment(EXPERIMENT, artifact_location=location))
        except MlflowException:
            if (known := client.get_experiment_by_name(EXPERIMENT)) is None:  # else: another process was first
                raise
            return str(known.experiment_id)


def _unavailable(uri: str, line: str) -> ServiceUnreachable | StorageUnavailable:
    if uri.partition(":")[0] in ("http", "https"):
        told = without_password(f"the MLflow server at {uri} failed: {line}; look at its log, or try again")
        return ServiceUnreachable(told)
    told = without_password(f"the MLflow database failed: {line}; try again, or see EVERMOE_MLFLOW_URI")
    return StorageUnavailable(told)


def _ask_server(uri: str) -> None:
    told = without_password(uri)
    try:
        answer = requests.get(f"{uri.rstrip('/')}/health", timeout=_PATIENCE_SECONDS)
    except requests.RequestException as error:
        raise ServiceUnreachable(
            f"no MLflow server answers at {told} ({type(error).__name__}); start it, or correct EVERMOE_MLFLOW_URI"
        ) from None
    if answer.status_code >= 500:
        raise ServiceUnreachable(
            f"the MLflow server at {told} answers {answer.status_code}; look at its log, or try again"
        )


def _ask_database(uri: str) -> None:
    try:
        url = sa.make_url(uri)  # its errors do not quote what they could not read
        if url.get_backend_name() == "sqlite" and url.database:
            Path(url.database).parent.mkdir(parents=True, exist_ok=True)
        patience = {"connect_timeout": _PATIENCE_SECONDS} if url.get_backend_name() == "postgresql" else {}
        engine = sa.create_engine(url, connect_args=patience)
        try:
            sa.inspect(engine).get_table_names()
        finally:
            engine.dispose()
    except (sa.exc.SQLAlchemyError, OSError, ModuleNotFoundError) as error:
        why = without_password(str(getattr(error, "orig", error)).strip().splitlines()[0])
        raise StorageUnavailable(f"the MLflow database cannot be opened: {why}; see EVERMOE_MLFLOW_URI") from None
