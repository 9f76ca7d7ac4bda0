"""A month becomes a snapshot: what users asked and told is frozen once, and nothing learns from anything else.

A label that a user told makes an example, a thumb a preference, and a text that nobody judged is a text; of chats and
completions nothing is learned, whose answers are no labels. Each row names the response it comes from.
"""

from __future__ import annotations

from datetime import UTC, datetime

from evermoe.months import end_of, month_of, start_of
from flows.runtime.parts import Parts
from flows.runtime.steps import step
from monitoring.rows import Answered, Request
from registry.snapshots import Snapshot, SnapshotRow

BEGINNING = datetime(1971, 1, 1, tzinfo=UTC)  # before any feedback


def unfrozen(parts: Parts, month: str) -> list[str]:
    """The months before `month` whose answers no snapshot holds whole: nobody froze them, because nothing ran as they ended."""
    names = parts.snapshots.names()
    last = max((name[:7] for name in names if name[0].isdigit()), default=None)
    told = parts.events.told(start_of(last) if last else BEGINNING, start_of(month))
    return sorted({month_of(row.feedback_at) for row in told if row.feedback_at and is_label(row.request)} - set(names))


@step(name="freeze the month", retries=2, retry_delay_seconds=5)
def freeze(parts: Parts, period: str, now: datetime) -> Snapshot | None:
    """What users told us in the month, and what they asked and did not judge, as a DVC snapshot.

    Feedback counts for the month in which it arrived, a text without any for the month in which it was asked. None when users
    told nothing.
    """
    month = period[:7]
    since, until = start_of(month), min(now, end_of(month))
    told = [row_of(answered) for answered in parts.events.told(since, until) if is_label(answered.request)]
    if not told:
        return None
    asked = parts.events.answered(since, until, until)
    rows = [*told, *(row_of(one) for one in asked if one.feedback_at is None and is_sound(one.request))]
    snapshot = parts.snapshots.freeze(period, rows)
    with parts.tracking.step(month, "snapshot", period) as run:
        run.dataset(snapshot, "training")
        labels = {row.label for row in rows if row.label is not None}
        kinds = {
            "labelled": sum(row.label is not None for row in rows),
            "thumbs": sum(row.score is not None for row in rows),
            "unjudged": sum(row.label is None and row.score is None for row in rows),
        }
        run.metrics({"rows": snapshot.rows, "labels": len(labels), **kinds})
        run.describe(
            f"{kinds['labelled']:,} right answers that users told in {period}, {len(labels)} labels; {kinds['thumbs']:,} thumbs; "
            f"{kinds['unjudged']:,} texts that nobody judged. DVC's hash is {snapshot.md5}."
        )
        run.tags({"evermoe.dvc_md5": snapshot.md5, "evermoe.path": str(snapshot.path)})
    return snapshot


def row_of(answered: Answered) -> SnapshotRow:
    """A request with what was said of it: a told label says all, a score without one is of the answer that was given."""
    asked, source = answered.request, f"response:{answered.request.id}"
    unit = asked.unit if asked.unit_given else None
    if answered.label is not None or answered.reward is None:
        return SnapshotRow(asked.input, answered.label, unit, asked.at, source)
    return SnapshotRow(asked.input, None, unit, asked.at, source, answer=asked.output, score=answered.reward)


def is_label(request: Request) -> bool:
    """Whether a request was answered with a label, or should have been."""
    return request.kind == "classify"


def is_sound(request: Request) -> bool:
    """Whether a text that nobody judged is one to learn language from: it was answered, and it says something."""
    return is_label(request) and request.error is None and bool(request.input.strip())
