"""Which months of the event log may leave the database, and why the others must stay.

Knows what the next update, an open rollout, the drift window and late feedback read. Does not know how rows are exported or
deleted (`monitoring/archive.py`).
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta

from evermoe.months import end_of, start_of
from flows.runtime.parts import Parts
from monitoring import archive


def oldest_kept(parts: Parts, now: datetime) -> datetime:
    """Rows asked since then stay in any case: `log.keep_days`, the window of feedback, the window of drift."""
    params = parts.params
    days = max(params.log.keep_days, params.feedback.window_days, params.drift.window_days)
    return now - timedelta(days=days)


def reasons_to_keep(parts: Parts) -> Callable[[str], str | None]:
    """Why a month must stay: the next update reads it, or a rollout that is open. None where nothing speaks for it."""
    months = [name[:7] for name in parts.snapshots.names() if name[0].isdigit()]
    unfrozen_since = start_of(max(months)) if months else None  # what `flows.snapshots.freezing.unfrozen` reads
    rollout = parts.ledger.running()

    def reason(month: str) -> str | None:
        if unfrozen_since is None:
            return "no month was frozen yet, so the next update reads all that users told"
        if end_of(month) > unfrozen_since or archive.told_since(parts.events.engine, month, unfrozen_since):
            return f"the next update reads what users told since {unfrozen_since:%Y-%m-%d}"
        if rollout is not None and archive.is_of_rollout(parts.events.engine, month, rollout.id):
            return f"rollout {rollout.id} is {rollout.status}, and its evidence is read from these rows"
        return None

    return reason
