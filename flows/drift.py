"""Every day: does what users ask still look like what the champion learned from? A verdict of drift starts the update early."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from prefect import flow
from prefect.artifacts import create_markdown_artifact
from prefect.events import emit_event

from evermoe.errors import NotReady
from evermoe.locks import taken
from evermoe.months import before, month_of
from flows.runtime.parts import UPDATE_LOCK, Parts, open_parts
from flows.runtime.steps import asked_for, at_moment, step
from flows.snapshots.freezing import unfrozen
from flows.snapshots.learned import learned_rows
from monitoring.drift import DriftPolicy, DriftVerdict, Observed, compare
from registry.tracker.pages import plain

DETECTED = "evermoe.drift.detected"


@dataclass(frozen=True)
class Seen:
    """The verdict, and whether it was announced: the event then starts an update."""

    verdict: DriftVerdict
    announced: bool


@flow(name="drift", flow_run_name=at_moment("window before"), retries=1, retry_delay_seconds=30)
def drift(now: datetime | None = None) -> Seen:
    """Compare the window before `now` with the champion's own data; write the report to MLflow; tell `monthly` of drift."""
    now = now or datetime.now(UTC)
    with open_parts() as parts:
        champion = parts.versions.champion()
        if champion is None:
            raise NotReady("there is no champion to compare with; make a base first: `evermoe demo`, or see the README")
        policy = DriftPolicy(**parts.params.drift.model_dump())
        current = window(parts, now, policy.window_days)
        reference = [
            Observed(row.text, row.label) for row in learned_rows(parts.snapshots, champion) if row.label is not None
        ]
        verdict = judge(parts, reference[-policy.reference_rows :], current, policy, now)
        month = month_to_learn(parts, now)
        announced = verdict.drifted and worth_starting(parts, champion.version, month)
        if announced:
            announce(champion.version, verdict, month, now)
        return Seen(verdict, announced)


@step(name="read the window", retries=2, retry_delay_seconds=5)
def window(parts: Parts, now: datetime, days: int) -> list[Observed]:
    """What users asked in the last `days`, with the right label where it is known and the answered one where not."""
    answered = parts.events.answered(now - timedelta(days=days), now, known_by=now)
    return [
        Observed(row.request.input, row.label or row.request.output)
        for row in answered
        if row.request.kind == "classify" and row.request.error is None
    ]


@step(name="compare with the reference")
def judge(
    parts: Parts, reference: Sequence[Observed], current: Sequence[Observed], policy: DriftPolicy, now: datetime
) -> DriftVerdict:
    """The verdict, its HTML report and its figures, in MLflow and as a Prefect artifact."""
    month = month_of(now - timedelta(seconds=1))
    with tempfile.TemporaryDirectory() as folder:
        html = Path(folder) / "drift.html"
        verdict = compare(reference, current, policy, seed=0, html=html)
        reasons = [f"- {plain(reason, 2000)}" for reason in verdict.reasons]  # they name labels, which are users' words
        with parts.tracking.step(month, "drift", now.isoformat()) as run:
            run.params(asdict(policy))
            run.metrics({f"score.{name}": score for name, score in verdict.scores.items()})
            run.metrics({f"threshold.{name}": limit for name, limit in verdict.thresholds.items()})
            run.metrics({"reference_rows": verdict.reference_rows, "current_rows": verdict.current_rows})
            run.describe("\n".join(reasons))
            run.tags({"evermoe.drifted": str(verdict.drifted).lower(), "evermoe.reasons": "; ".join(verdict.reasons)})
            if html.exists():
                run.file(html)
    lines = [f"# {'Drift' if verdict.drifted else 'No drift'} in the window before {now:%Y-%m-%d}", ""]
    lines += reasons
    lines += ["", "| score | value | threshold |", "|---|---|---|"]
    lines += [
        f"| {name} | {score:.3f} | {verdict.thresholds.get(name, float('nan')):.3f} |"
        for name, score in verdict.scores.items()
    ]
    create_markdown_artifact("\n".join(lines), key=f"drift-{month}", description=f"Drift verdict of {month}")
    return verdict


def month_to_learn(parts: Parts, now: datetime) -> str:
    """The month that an update at `now` should learn: the one before, until it is frozen; then what there is of this one."""
    running = month_of(now - timedelta(seconds=1))
    last = before(running)
    if last in unfrozen(parts, running):
        return last
    return running


def worth_starting(parts: Parts, champion: str, month: str) -> bool:
    """Whether drift should start an update: not during one, not while a challenger is on trial, once for a champion in a month."""
    tried = [v for v in parts.versions.all() if v.parent == champion and v.month.startswith(month)]
    learning = taken(parts.snapshots.home / UPDATE_LOCK) or asked_for("monthly")
    return parts.ledger.running() is None and not tried and not learning


def announce(champion: str, verdict: DriftVerdict, month: str, now: datetime) -> None:
    """Emit the event that `monthly`'s trigger in prefect.yaml waits for."""
    emit_event(
        DETECTED,
        resource={"prefect.resource.id": f"evermoe.version.{champion}", "prefect.resource.name": f"evermoe {champion}"},
        payload={
            "month": month,
            "now": now.isoformat(),
            "reasons": list(verdict.reasons),
        },
    )
