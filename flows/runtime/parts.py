"""The parts of one platform, opened from the settings: the event log, the ledger, MLflow, the snapshots."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from evermoe.settings import Params, Settings, load_params, settings
from monitoring.events import EventLog
from registry.book.ledger import Ledger
from registry.rollout import Policy
from registry.rules.guardrails import Limits
from registry.snapshots import Snapshots
from registry.tracker.runs import Tracking
from registry.tracker.versions import Versions

UPDATE_LOCK = "update.lock"
"""The file in the home that an update holds as long as it runs."""


@dataclass(frozen=True)
class Parts:
    """What a flow works with."""

    params: Params
    events: EventLog
    ledger: Ledger
    tracking: Tracking
    versions: Versions
    snapshots: Snapshots


def policy_of(params: Params) -> Policy:
    """The rollout's policy as params.yaml has it. Raises `BadInput`."""
    limits = Limits(**params.rollout.guardrails.model_dump())
    return Policy(**params.rollout.model_dump(exclude={"guardrails", "holdout", "overrides"}), limits=limits)


@contextmanager
def open_parts() -> Iterator[Parts]:
    """Open everything, and close it again. Raises what the parts raise: each names itself and what to do."""
    here = settings()
    home = here.open_home().resolve()
    tracking = Tracking(here.tracking_uri, here.artifacts)
    with EventLog(here.events_url) as events, Ledger(here.events_url) as ledger:
        yield Parts(load_params(), events, ledger, tracking, open_versions(here), Snapshots(home))


def open_versions(here: Settings) -> Versions:
    """The registered versions alone, for those who need no more. Raises as `Versions` does."""
    return Versions(here.tracking_uri, cache=here.home.resolve() / "weights", artifacts=here.artifacts)
