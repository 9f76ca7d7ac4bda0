"""Model versions in MLflow's registry: logged models with a number, their lineage, and the two aliases that matter.

`mlflow.pyfunc.load_model("models:/evermoe@champion")` works wherever Evermoe is installed. How a version's files are kept is
`logged`'s to know.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import mlflow
from mlflow.entities import LoggedModelStatus, Metric
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from evermoe.errors import BadInput, NotFound, StorageUnavailable
from evermoe.locks import exclusive
from registry.tracker.client import connect, experiment_id, in_one_line, mlflow_errors
from registry.tracker.logged import LoggedModels, require_loadable
from registry.tracker.pages import MOST_WORDS

NAME = "evermoe"
Alias = Literal["champion", "challenger"]
_registering = threading.Lock()


@dataclass(frozen=True)
class Version:
    """One registered version. `model_id` is MLflow's logged model, `run_id` the run that made it, `parent` a version or None."""

    version: str
    month: str
    parent: str | None
    run_id: str | None
    model_id: str
    source: str
    description: str
    tags: dict[str, str]
    aliases: tuple[str, ...]
    created_at: datetime


class Versions:
    """The registered model `evermoe`. `cache` is where weights from a remote store are kept (None: a temporary folder),
    `artifacts` the folder that holds a local store's.

    Every method raises `ServiceUnreachable` or `StorageUnavailable` where MLflow fails: an outage is never "there is none".
    """

    def __init__(self, tracking_uri: str, cache: Path | None = None, artifacts: Path | None = None) -> None:
        self.uri = tracking_uri
        self.client = connect(tracking_uri)
        self.artifacts = artifacts
        self.models = LoggedModels(self.client, experiment_id(self.client, artifacts), cache, artifacts)

    @in_one_line
    def register(
        self,
        folder: Path,
        *,
        month: str,
        parent: str | None,
        run_id: str | None,
        loader: Path,
        description: str,
        tags: Mapping[str, Any] | None = None,
        metrics: Mapping[str, float] | None = None,
        params: Mapping[str, Any] | None = None,
        beside: Mapping[str, str] | None = None,
    ) -> Version:
        """Log a model folder and register it. The same month and parent again returns the version that stands (a retry).

        `metrics` and `params` are the logged model's, by which MLflow sets versions side by side; the metrics its run's too.
        `beside` are small files that are kept beside the weights, by name. MLflow hears last that the logged model is READY, so
        one that is has its version, however the process ends. Raises `BadInput` when the folder holds no safetensors or
        something pickled, or the loader is not there.
        """
        with self._alone():
            self._settle()
            if (known := self.find(month, parent)) is not None:
                return known
            require_loadable(folder, loader)
            labels = {str(name): str(value) for name, value in (tags or {}).items()}
            labels |= {"evermoe.month": month, "evermoe.parent": parent or ""}
            model_id = self.models.store(
                folder,
                loader,
                name=f"{NAME}-{month}",
                run_id=run_id,
                tags=labels,
                params=params or {},
                beside=beside or {},
            )
            if metrics and run_id:
                now = int(datetime.now(UTC).timestamp() * 1000)
                self.client.log_batch(
                    run_id, metrics=[Metric(name, float(v), now, 0, model_id=model_id) for name, v in metrics.items()]
                )
            self._ensure_model()
            with _global_uri(self.uri):
                made = self.client.create_model_version(
                    NAME,
                    source=f"models:/{model_id}",  # by which MLflow's UI links version and model
                    model_id=model_id,
                    run_id=run_id,
                    tags=labels,
                    description=description[:MOST_WORDS],
                    await_creation_for=0,
                )
            self.client.finalize_logged_model(model_id, "READY")
            return self._first_of(self.get(str(made.version)))

    @in_one_line
    def settle(self) -> None:
        """Make good what a process left undone that died while it registered. Cheap where nothing is missing."""
        with self._alone():
            self._settle()

    def champion(self) -> Version | None:
        """The version that serves, if any."""
        return self._aliased("champion")

    def challenger(self) -> Version | None:
        """The version that is to prove itself, if any."""
        return self._aliased("challenger")

    @in_one_line
    def set_alias(self, alias: Alias, version: str) -> None:
        """Point an alias at a version, away from any other. Raises `NotFound`."""
        self.get(version)
        self.client.set_registered_model_alias(NAME, alias, version)

    @in_one_line
    def drop_alias(self, alias: Alias) -> None:
        """Point an alias at nothing."""
        if self._aliased(alias) is not None:
            self.client.delete_registered_model_alias(NAME, alias)

    @in_one_line
    def tag(self, version: str, tags: Mapping[str, Any]) -> None:
        """Add tags to a version. Raises `NotFound`."""
        self.get(version)
        for name, value in tags.items():
            self.client.set_model_version_tag(NAME, version, name, str(value))

    @in_one_line
    def untag(self, version: str, name: str) -> None:
        """Take a tag from a version that has it. Raises `NotFound`."""
        if name in self.get(version).tags:
            self.client.delete_model_version_tag(NAME, version, name)

    @in_one_line
    def describe(self, version: str, words: str) -> None:
        """Replace a version's description (Markdown)."""
        self.client.update_model_version(NAME, version, words)

    def get(self, version: str) -> Version:
        """One version. Raises `NotFound`."""
        try:
            with mlflow_errors(self.uri):
                return _version(self.client.get_model_version(NAME, version))
        except (NotFound, BadInput) as error:
            raise NotFound(f"no version {version!r} of {NAME} ({error})") from None

    @in_one_line
    def all(self) -> tuple[Version, ...]:
        """All versions, the oldest first, aliases included."""
        try:
            with mlflow_errors(self.uri):
                aliases = self.client.get_registered_model(NAME).aliases
        except NotFound:
            return ()
        by_version: dict[str, list[str]] = {}
        for alias, number in aliases.items():
            by_version.setdefault(str(number), []).append(alias)
        found, token = [], None
        while True:  # a search leaves the aliases out
            page = self.client.search_model_versions(f"name = '{NAME}'", max_results=1000, page_token=token)
            found += [_version(one, by_version.get(str(one.version), [])) for one in page]
            if not (token := page.token):
                return tuple(sorted(found, key=lambda one: int(one.version)))

    def find(self, month: str, parent: str | None) -> Version | None:
        """The version made in this month from this parent, if it was."""
        return next((one for one in self.all() if (one.month, one.parent) == (month, parent)), None)

    @in_one_line
    def weights(self, version: str) -> Path:
        """The folder that `model.from_pretrained` loads, brought here first when the store is remote. Raises `NotFound`."""
        found = self.get(version)
        try:
            return self.models.weights(found.model_id)
        except NotFound as error:
            raise NotFound(f"version {version} has {error}") from None

    @in_one_line
    def beside(self, version: str, name: str) -> str | None:
        """A file that was kept beside a version's weights; None where there is none. Raises `NotFound` for the version."""
        return self.models.beside(self.get(version).model_id, name)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """One process registers at a time where they share a disk; elsewhere `_first_of` decides."""
        if self.artifacts is None:
            yield
            return
        with ExitStack() as held:
            try:
                self.artifacts.mkdir(parents=True, exist_ok=True)
                held.enter_context(exclusive(self.artifacts / ".registering"))
            except OSError as error:
                why = error.strerror or error
                raise StorageUnavailable(f"{self.artifacts}: {why}; see that it can be written") from None
            yield

    def _settle(self) -> None:
        """Of the models that a killed process left, those that a version points to become READY, and others FAILED.

        Without a shared disk another process may be storing one right now, so there nothing is called FAILED.
        """
        registered = {one.model_id for one in self.all()}
        for one in self.models.all():
            if one.model_id in registered and one.status != LoggedModelStatus.READY:
                self.client.finalize_logged_model(one.model_id, "READY")
            elif (
                one.model_id not in registered and one.status != LoggedModelStatus.FAILED and self.artifacts is not None
            ):
                self.client.finalize_logged_model(one.model_id, "FAILED")

    def _first_of(self, made: Version) -> Version:
        """Of two that were registered at once for one month and parent, the later one is taken away again."""
        first = self.find(made.month, made.parent)
        if first is None or first.version == made.version:
            return made
        self.client.delete_model_version(NAME, made.version)
        self.client.delete_logged_model(made.model_id)
        return first

    def _aliased(self, alias: Alias) -> Version | None:
        try:
            with mlflow_errors(self.uri):
                return _version(self.client.get_model_version_by_alias(NAME, alias))
        except (NotFound, BadInput):  # no model of this name, or no such alias on it
            return None

    def _ensure_model(self) -> None:
        try:
            self.client.create_registered_model(
                NAME, description="A mixture-of-experts language model that is updated monthly"
            )
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise


@contextmanager
def _global_uri(uri: str) -> Iterator[None]:
    """MLflow resolves `models:/` with its global tracking URI, whatever the client's; point it here, for as long as it takes."""
    with _registering:
        before = mlflow.get_tracking_uri() if mlflow.is_tracking_uri_set() else None
        mlflow.set_tracking_uri(uri)
        try:
            yield
        finally:
            mlflow.set_tracking_uri(before)  # type: ignore[arg-type]  # None unsets it


def _version(one: ModelVersion, aliases: Sequence[str] | None = None) -> Version:
    tags = {str(name): str(value) for name, value in one.tags.items()}
    return Version(
        version=str(one.version),
        month=tags.get("evermoe.month", ""),
        parent=tags.get("evermoe.parent") or None,
        run_id=one.run_id or None,
        model_id=str(one.source).removeprefix("models:/"),
        source=str(one.source),
        description=one.description or "",
        tags=tags,
        aliases=tuple(sorted(one.aliases if aliases is None else aliases)),
        created_at=datetime.fromtimestamp(one.creation_timestamp / 1000, UTC),
    )
