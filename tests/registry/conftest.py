"""Databases to keep a ledger in (SQLite always, PostgreSQL where a server is named) and a fresh MLflow for each test."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from registry.actions.controls import Controls
from registry.book.ledger import Ledger
from registry.tracker.runs import Tracking
from registry.tracker.versions import Versions

LOADER = Path(__file__).with_name("loader.py")


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database of each kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'events.db'}"
    address: str = request.getfixturevalue("postgres_url")
    return address


@pytest.fixture(scope="session")
def blank_mlflow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with MLflow's tables and nothing else: making them takes seconds, copying them none."""
    from registry.tracker.client import connect

    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    connect(f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def tracking_uri(blank_mlflow: Path, tmp_path: Path) -> str:
    """An empty MLflow of the test's own."""
    shutil.copy(blank_mlflow, tmp_path / "mlflow.db")
    return f"sqlite:///{tmp_path / 'mlflow.db'}"


@pytest.fixture
def controls(tracking_uri: str, tmp_path: Path) -> Controls:
    """Versions 1 (champion) and 2, an empty ledger."""
    folder = tmp_path / "weights"
    folder.mkdir()
    save_file({"weight": np.arange(6, dtype=np.float32)}, folder / "model.safetensors")
    (folder / "config.json").write_text("{}")
    versions = Versions(tracking_uri, artifacts=tmp_path / "artifacts")
    for month, parent in (("base", None), ("2025-06", "1")):
        versions.register(folder, month=month, parent=parent, run_id=None, loader=LOADER, description=month)
    versions.set_alias("champion", "1")
    ledger = Ledger(f"sqlite:///{tmp_path / 'events.db'}")
    return Controls(ledger, versions, Tracking(tracking_uri, tmp_path / "artifacts"))
