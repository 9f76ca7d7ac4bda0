"""The parts of one platform, opened from the settings: the event log, the ledger, MLflow, the snapshots."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from evermoe.settings import Params, load_params, settings
from monitoring.events import EventLog
from registry.ledger import Ledger
from registry.snapshots import Snapshots
from registry.tracking import Tracking
from registry.versions import Versions


@dataclass(frozen=True)
class Parts:
    """What a flow works with."""

    params: Params
    events: EventLog
    ledger: Ledger
    tracking: Tracking
    versions: Versions
    snapshots: Snapshots


@contextmanager
def open_parts() -> Iterator[Parts]:
    """Open everything, and close it again. Raises what the parts raise: each names itself and what to do."""
    here = settings()
    home = here.open_home().resolve()
    artifacts = here.artifacts if here.mlflow_uri is None else None
    tracking = Tracking(here.tracking_uri, artifacts)
    versions = Versions(here.tracking_uri, cache=home / "weights", artifacts=artifacts)
    with EventLog(here.events_url) as events, Ledger(here.events_url) as ledger:
        yield Parts(load_params(), events, ledger, tracking, versions, Snapshots(home))
