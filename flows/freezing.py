"""A month's answers become a snapshot: what users told is frozen once, and nothing learns from anything else."""

from __future__ import annotations

from datetime import UTC, datetime

from flows.months import end_of, month_of, start_of
from flows.parts import Parts
from flows.steps import step
from registry.snapshots import Snapshot, SnapshotRow

BEGINNING = datetime(1971, 1, 1, tzinfo=UTC)  # before any feedback


def unfrozen(parts: Parts, month: str) -> list[str]:
    """The months before `month` whose answers no snapshot holds whole: nobody froze them, because nothing ran as they ended."""
    names = parts.snapshots.names()
    last = max((name[:7] for name in names if name[0].isdigit()), default=None)
    told = parts.events.told(start_of(last) if last else BEGINNING, start_of(month))
    return sorted({month_of(row.feedback_at) for row in told if row.feedback_at is not None} - set(names))


@step(name="freeze the month", retries=2, retry_delay_seconds=5)
def freeze(parts: Parts, period: str, now: datetime) -> Snapshot | None:
    """Everything users told us in the month, as a DVC snapshot: feedback counts for the month in which it arrived.

    None when they told nothing.
    """
    month = period[:7]
    told = parts.events.told(start_of(month), min(now, end_of(month)))
    rows = [
        SnapshotRow(row.request.input, row.label, row.request.unit, row.request.at, f"response:{row.request.id}")
        for row in told
        if row.label is not None
    ]
    if not rows:
        return None
    snapshot = parts.snapshots.freeze(period, rows)
    with parts.tracking.step(month, "snapshot", period) as run:
        run.dataset(snapshot, "training")
        labels = {row.label for row in rows}
        run.metrics({"rows": snapshot.rows, "labels": len(labels)})
        run.describe(
            f"{snapshot.rows:,} answers that users told in {period}, {len(labels)} labels; DVC's hash is {snapshot.md5}."
        )
        run.tags({"evermoe.dvc_md5": snapshot.md5, "evermoe.path": str(snapshot.path)})
    return snapshot
