"""A model folder as one of MLflow's logged models: how it is stored, and how its files come back, from a disk or a remote store.

Knows folders and MLflow's artifacts; no version, no alias, and not what the weights mean. Never unpickles anything: what is logged
is the folder `model.save` wrote plus a small script (`loader`) that MLflow runs to load it ("models from code").
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import suppress
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed
from pathlib import Path
from typing import Any
from urllib.parse import urlparse
from urllib.request import url2pathname

import mlflow.artifacts
import mlflow.pyfunc
from mlflow import MlflowClient
from mlflow.entities import LoggedModel
from mlflow.models import Model

from evermoe.errors import BadInput, NotFound, StorageUnavailable

WEIGHTS = "weights"
_PICKLES = {".pkl", ".pickle", ".pt", ".pth", ".bin", ".joblib", ".ckpt"}
_REQUIREMENTS = ("evermoe", "torch", "transformers", "tokenizers", "safetensors", "mlflow")


class LoggedModels:
    """The models of one experiment that were logged to become versions.

    `artifacts` is the folder of a local store's files, `cache` where weights from a remote one are kept (None: a temporary folder).
    What MLflow raises passes through.
    """

    def __init__(self, client: MlflowClient, experiment: str, cache: Path | None, artifacts: Path | None) -> None:
        self.client = client
        self.experiment = experiment
        self.cache = cache
        self.artifacts = artifacts

    def all(self) -> Iterator[LoggedModel]:
        """All of them, whatever their status."""
        token = None
        while True:
            page = self.client.search_logged_models([self.experiment], page_token=token)
            yield from (one for one in page if "evermoe.month" in one.tags)
            if not (token := page.token):
                return

    def store(
        self,
        folder: Path,
        loader: Path,
        *,
        name: str,
        run_id: str | None,
        tags: dict[str, str],
        params: Mapping[str, Any],
        beside: Mapping[str, str],
    ) -> str:
        """Log the folder, and `beside` it small files by name; not READY yet. Returns its id.

        Raises `StorageUnavailable`.
        """
        logged = self.client.create_logged_model(
            self.experiment,
            name=name,
            source_run_id=run_id,
            tags=tags,
            params={name: str(value) for name, value in params.items()},
            model_type="language model",
        )
        try:
            with tempfile.TemporaryDirectory() as draft:
                _save(Path(draft), folder, loader, logged, run_id)
                for file, content in beside.items():
                    (Path(draft) / "model" / file).write_text(content, encoding="utf-8")
                self.client.log_model_artifacts(logged.model_id, str(Path(draft) / "model"))
        except OSError as error:
            with suppress(Exception):  # what kept the model from being stored may keep MLflow from hearing of it
                self.client.finalize_logged_model(logged.model_id, "FAILED")
            raise StorageUnavailable(f"the model {name} could not be stored: {error.strerror or error}") from None
        return str(logged.model_id)

    def weights(self, model_id: str) -> Path:
        """The folder that was logged, brought here first when the store is remote. Raises `NotFound`."""
        location = self._location(model_id)
        local = _local(location)
        place = self._brought(model_id, location) if local is None else self._here(local) / "artifacts" / WEIGHTS
        if not (place / "config.json").exists():
            raise NotFound(f"no weights at {place}; the artifacts were moved or deleted")
        return place

    def beside(self, model_id: str, name: str) -> str | None:
        """A file that was kept beside the weights; None where there is none."""
        location = self._location(model_id)
        if (local := _local(location)) is not None:
            file = self._here(local) / name
            return file.read_text(encoding="utf-8") if file.exists() else None
        if name not in {one.path for one in self.client.list_logged_model_artifacts(model_id)}:
            return None
        with tempfile.TemporaryDirectory() as draft:
            return Path(self._download(f"{location}/{name}", draft)).read_text(encoding="utf-8")

    def _location(self, model_id: str) -> str:
        return str(self.client.get_logged_model(model_id).artifact_location).rstrip("/")

    def _here(self, local: Path) -> Path:
        """A model's folder. MLflow keeps its whole path, so where the home was moved since, the same one in our artifacts."""
        if local.exists() or self.artifacts is None:
            return local
        moved = self.artifacts.resolve().joinpath(*local.parts[-3:])  # models/<model id>/artifacts
        return moved if moved.exists() else local

    def _brought(self, model_id: str, location: str) -> Path:
        """The weights in the cache, brought there once, whole or not at all."""
        folder = (self.cache or Path(tempfile.gettempdir()) / "evermoe-weights") / model_id
        if not folder.exists():
            folder.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=folder.parent) as draft:
                self._download(f"{location}/artifacts", draft)
                weights = next(Path(draft).rglob(WEIGHTS), None)
                if weights is None:
                    raise NotFound(f"no weights at {location}; the artifacts were moved or deleted")
                try:
                    weights.parent.rename(folder)
                except OSError:
                    if not folder.exists():  # else: another process brought it first
                        raise
        return folder / WEIGHTS

    def _download(self, uri: str, folder: str) -> str:
        brought = mlflow.artifacts.download_artifacts(
            artifact_uri=uri, dst_path=folder, tracking_uri=self.client.tracking_uri
        )
        return str(brought)


def require_loadable(folder: Path, loader: Path) -> None:
    """Refuse what could not be loaded, or what would run code on being loaded. Raises `BadInput`."""
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


def _requirements() -> list[str]:
    found = []
    for name in _REQUIREMENTS:
        with suppress(PackageNotFoundError):
            found.append(f"{name}=={installed(name)}")
    return found


def _local(uri: str) -> Path | None:
    """The path of a file URI, or None when the store is elsewhere."""
    parts = urlparse(uri)
    return Path(url2pathname(parts.path)) if parts.scheme in ("", "file") else None
