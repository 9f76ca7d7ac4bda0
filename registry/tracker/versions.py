"""Model versions in MLflow: safetensors folders behind a code-based pyfunc, with lineage, and the two aliases that matter.

Knows folders and MLflow's registry; not what the weights mean, and never unpickles anything: a version is the folder
`model.save` wrote plus a small script (`loader`) that MLflow runs to load it ("models from code"). So
`mlflow.pyfunc.load_model("models:/evermoe@champion")` works wherever Evermoe is installed.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlparse
from urllib.request import url2pathname

import mlflow
import mlflow.artifacts
import mlflow.pyfunc
from mlflow.entities import LoggedModel, LoggedModelStatus, Metric
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.models import Model

from evermoe.errors import BadInput, NotFound, StorageUnavailable
from evermoe.locks import exclusive
from registry.tracker.client import connect, experiment_id, in_one_line, mlflow_errors

NAME = "evermoe"
WEIGHTS = "weights"
Alias = Literal["champion", "challenger"]
_registering = threading.Lock()
_PICKLES = {".pkl", ".pickle", ".pt", ".pth", ".bin", ".joblib", ".ckpt"}
_REQUIREMENTS = ("evermoe", "torch", "transformers", "tokenizers", "safetensors", "mlflow")


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
        self.cache = cache
        self.artifacts = artifacts
        self._experiment = experiment_id(self.client, artifacts)

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
            _check(folder, loader)
            labels = {str(name): str(value) for name, value in (tags or {}).items()}
            labels |= {"evermoe.month": month, "evermoe.parent": parent or ""}
            model_id = self._store(folder, loader, month, run_id, labels, params or {}, beside or {})
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
                    description=description,
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
        location = self.client.get_logged_model(found.model_id).artifact_location.rstrip("/")
        local = _local(location)
        place = self._brought(found, location) if local is None else self._here(local) / "artifacts" / WEIGHTS
        if not (place / "config.json").exists():
            raise NotFound(f"version {version} has no weights at {place}; its artifacts were moved or deleted")
        return place

    @in_one_line
    def beside(self, version: str, name: str) -> str | None:
        """A file that was kept beside a version's weights; None where there is none. Raises `NotFound` for the version."""
        model_id = self.get(version).model_id
        location = self.client.get_logged_model(model_id).artifact_location.rstrip("/")
        if (local := _local(location)) is not None:
            file = self._here(local) / name
            return file.read_text(encoding="utf-8") if file.exists() else None
        if name not in {one.path for one in self.client.list_logged_model_artifacts(model_id)}:
            return None
        with tempfile.TemporaryDirectory() as draft:
            brought = mlflow.artifacts.download_artifacts(f"{location}/{name}", dst_path=draft, tracking_uri=self.uri)
            return Path(brought).read_text(encoding="utf-8")

    def _here(self, local: Path) -> Path:
        """A model's folder. MLflow keeps its whole path, so where the home was moved since, the same one in our artifacts."""
        if local.exists() or self.artifacts is None:
            return local
        moved = self.artifacts.resolve().joinpath(*local.parts[-3:])  # models/<model id>/artifacts
        return moved if moved.exists() else local

    def _brought(self, found: Version, location: str) -> Path:
        """The weights in the cache, brought there once, whole or not at all."""
        folder = (self.cache or Path(tempfile.gettempdir()) / "evermoe-weights") / found.model_id
        if not folder.exists():
            folder.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=folder.parent) as draft:
                mlflow.artifacts.download_artifacts(
                    artifact_uri=f"{location}/artifacts", dst_path=draft, tracking_uri=self.uri
                )
                weights = next(Path(draft).rglob(WEIGHTS), None)
                if weights is None:
                    raise NotFound(
                        f"version {found.version} has no weights at {location}; its artifacts were moved or deleted"
                    )
                try:
                    weights.parent.rename(folder)
                except OSError:
                    if not folder.exists():  # else: another process brought it first
                        raise
        return folder / WEIGHTS

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
        for one in self._logged():
            if one.model_id in registered and one.status != LoggedModelStatus.READY:
                self.client.finalize_logged_model(one.model_id, "READY")
            elif (
                one.model_id not in registered and one.status != LoggedModelStatus.FAILED and self.artifacts is not None
            ):
                self.client.finalize_logged_model(one.model_id, "FAILED")

    def _logged(self) -> Iterator[LoggedModel]:
        """All models that were logged here to become versions."""
        token = None
        while True:
            page = self.client.search_logged_models([self._experiment], page_token=token)
            yield from (one for one in page if "evermoe.month" in one.tags)
            if not (token := page.token):
                return

    def _store(
        self,
        folder: Path,
        loader: Path,
        month: str,
        run_id: str | None,
        labels: dict[str, str],
        params: Mapping[str, Any],
        beside: Mapping[str, str],
    ) -> str:
        """Log the folder as one of MLflow's models, not READY yet; its id. Raises `StorageUnavailable`."""
        logged = self.client.create_logged_model(
            self._experiment,
            name=f"{NAME}-{month}",
            source_run_id=run_id,
            tags=labels,
            params={name: str(value) for name, value in params.items()},
            model_type="language model",
        )
        try:
            with tempfile.TemporaryDirectory() as draft:
                _save(Path(draft), folder, loader, logged, run_id)
                for name, content in beside.items():
                    (Path(draft) / "model" / name).write_text(content, encoding="utf-8")
                self.client.log_model_artifacts(logged.model_id, str(Path(draft) / "model"))
        except OSError as error:
            with suppress(Exception):  # what kept the model from being stored may keep MLflow from hearing of it
                self.client.finalize_logged_model(logged.model_id, "FAILED")
            raise StorageUnavailable(f"the model of {month} could not be stored: {error.strerror or error}") from None
        return str(logged.model_id)

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


def _check(folder: Path, loader: Path) -> None:
    """Refuse to register what could not be loaded, or what would run code on being loaded."""
    if not loader.is_file():
        raise BadInput(f"{loader}: the script that loads a version is not there")
    if not (folder / "config.json").is_file() or not any(folder.glob("*.safetensors")):
        raise BadInput(f"{folder}: not a model folder; it needs config.json and *.safetensors")
    if pickled := [path for path in sorted(folder.rglob("*")) if path.suffix in _PICKLES]:
        raise BadInput(f"{pickled[0]}: pickled weights are not registered; save the model as safetensors")


def _save(draft: Path, folder: Path, loader: Path, logged: LoggedModel, run_id: str | None) -> None:
    """Write the MLflow model: MLmodel, the loader script, requirements, and the folder under artifacts/weights."""
    named = draft / WEIGHTS  # MLflow names an artifact after its folder
    shutil.copytree(folder, named, copy_function=_link)
    mlflow.pyfunc.save_model(
        str(draft / "model"),
        python_model=str(loader),
        artifacts={WEIGHTS: str(named)},
        pip_requirements=_requirements(),  # named here, because MLflow would start a process to guess them
        mlflow_model=Model(run_id=run_id, model_uuid=logged.model_id, model_id=logged.model_id),
    )


def _link(source: str, target: str) -> None:
    """A second name for a file where the disk allows it, else a copy: weights are large, and MLflow copies them itself."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


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


def _requirements() -> list[str]:
    found = []
    for name in _REQUIREMENTS:
        with suppress(PackageNotFoundError):
            found.append(f"{name}=={installed(name)}")
    return found


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


def _local(uri: str) -> Path | None:
    """The path of a file URI, or None when the store is elsewhere."""
    parts = urlparse(uri)
    return Path(url2pathname(parts.path)) if parts.scheme in ("", "file") else None
