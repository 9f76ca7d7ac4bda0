"""On the first of each month, or when drift says so: freeze the month, learn it, distil it, examine the result, put it on trial.

Each step is one call into the rooms below. A run that is started again finds what the last one finished: the snapshot is
frozen once, and a version is registered once for its (period, parent).
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from prefect import flow
from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.runtime import flow_run

from evermoe.errors import NotReady
from evermoe.locks import exclusive
from flows.candidate import Candidate, describe, settle, store
from flows.exams import sit
from flows.freezing import freeze, unfrozen
from flows.learning import Material, Training, update
from flows.lineage import gathered, learned, unlearned
from flows.months import before, month_of, period_of
from flows.parts import UPDATE_LOCK, Parts, open_parts
from flows.rehearsal import rehearse
from flows.steps import due, step
from flows.trainings import Curve, forget_trainings, resumable
from flows.trial import put_on_trial
from model import Checkpoints, Gate, LanguageModel, from_pretrained
from model.tasks import fingerprint
from registry.versions import Version

REHEARSED = "evermoe.rehearsed"


def run_name() -> str:
    """`update 2025-06`."""
    return f"update {flow_run.parameters.get('month') or before(month_of(due()))}"


@flow(name="monthly", flow_run_name=run_name)
def monthly(month: str | None = None, now: datetime | None = None) -> str | None:
    """Make the challenger of `month`, by default the one before the run was due. Returns its version; None: too little to learn."""
    month = month or before(month_of(due()))
    now = now or datetime.now(UTC)
    period = period_of(month, now)
    with open_parts() as parts, exclusive(parts.snapshots.home / UPDATE_LOCK):
        champion = parts.versions.champion()
        if champion is None:
            raise NotReady("there is no champion to update; make a base first: `evermoe demo`, or see the README")
        made = parts.versions.find(period, champion.version)
        if made is None:
            for missed in unfrozen(parts, month):
                freeze(parts, missed, now)
            freeze(parts, period, now)
            fresh = unlearned(parts.snapshots, champion, period)
            material = gather(parts, champion, fresh)
            if len(material.domain) < parts.params.update.min_records or not material.new_exam:
                too_little(period, material)
                return None
            made = make(parts, champion, material, fresh, period)
        else:
            settle(parts, made)
        forget_trainings()
        if made.tags.get("evermoe.gates") == "passed" and answers(parts, made, period):
            put_on_trial(parts, made, period, now)
        return made.version


def make(parts: Parts, champion: Version, material: Material, fresh: tuple[str, ...], period: str) -> Version:
    """Train, distil, examine, register."""
    incumbent, known = from_pretrained(parts.versions.weights(champion.version)), learned(champion)

    def conduct(name: str, training: Training) -> LanguageModel:
        kept = resumable(f"{period}-from-{champion.version}-{name}")
        task = {"new": train_new, "challenger": distil_challenger}[name]
        return task(parts, training, material, period, kept)

    taught = update(incumbent, material, parts.params.update, conduct)
    gates = examine(parts, incumbent, taught.challenger, material, period)
    candidate = Candidate(
        taught.challenger,
        period,
        champion.version,
        (*known, *fresh),
        gates,
        replayed=known,
        teachers={"new model": fingerprint(taught.new.network), "champion": fingerprint(incumbent.network)},
    )
    return register(parts, candidate, describe(candidate, incumbent, len(material.domain)))


@step(name="gather new rows and replay")
def gather(parts: Parts, champion: Version, fresh: Sequence[str]) -> Material:
    """New rows from the snapshots `fresh`, replay from those the champion has learned."""
    return gathered(parts.snapshots, fresh, learned(champion), parts.params)


@step(name="train the new model")
def train_new(
    parts: Parts, training: Training, material: Material, period: str, checkpoints: Checkpoints
) -> LanguageModel:
    """Incremental training: a copy of the champion on the new month and replay."""
    params = parts.params.update
    with parts.tracking.step(period[:7], "train", period) as run:
        run.params({**params.model_dump(), "domain": len(material.domain), "replay": len(material.past)})
        run.describe(
            f"The *new* model: a copy of the champion, trained on {len(material.domain):,} new examples and "
            f"{len(material.past):,} replayed ones."
        )
        with Curve(run, f"train {period}") as curve:
            return training(curve, checkpoints)


@step(name="distil the challenger")
def distil_challenger(
    parts: Parts, training: Training, material: Material, period: str, checkpoints: Checkpoints
) -> LanguageModel:
    """A copy of the champion, guided by the new model on the new month and by its own frozen self on replay."""
    params = parts.params.update
    with parts.tracking.step(period[:7], "distil", period) as run:
        run.params({**params.model_dump(), "teachers": "new model, champion"})
        run.describe(
            "The challenger: a copy of the champion, guided by the new model on new examples and by its own frozen self on "
            "replayed ones."
        )
        with Curve(run, f"distil {period}") as curve:
            return training(curve, checkpoints)


@step(name="examine at the gates")
def examine(
    parts: Parts, incumbent: LanguageModel, challenger: LanguageModel, material: Material, period: str
) -> tuple[Gate, ...]:
    """The champion and the challenger on the same held-out rows, judged gate by gate."""
    report = sit(incumbent, challenger, material.new_exam, material.past_exam, parts.params.gates)
    with parts.tracking.step(period[:7], "gates", period) as run:
        run.metrics(report.metrics)
        run.params(parts.params.gates.model_dump())
        run.tags(
            {
                f"evermoe.gate.{gate.name.replace(' ', '_')}": "passed" if gate.passed else gate.reason
                for gate in report.gates
            }
        )
        run.describe(report.markdown)
        run.html(report.markdown, "gates.md")
    create_table_artifact(
        [{"gate": gate.name, "passed": "yes" if gate.passed else "NO", "why": gate.reason} for gate in report.gates],
        key=f"gates-{period}",
        description=f"Gates of the challenger of {period}",
    )
    return report.gates


@step(name="register the version", retries=2, retry_delay_seconds=10)
def register(parts: Parts, candidate: Candidate, words: str) -> Version:
    """Into MLflow with its lineage; a challenger that failed a gate is kept with the reasons and goes no further."""
    version = store(parts, candidate, words)
    create_markdown_artifact(
        version.description, key=f"version-{version.version}", description=f"What version {version.version} is"
    )
    return version


@step(name="ask it in the real server")
def answers(parts: Parts, challenger: Version, period: str) -> bool:
    """The last gate: the registered version loads and answers in the gateway. Once passed, it is not asked again."""
    if challenger.tags.get(REHEARSED) == "passed":
        return True
    gate = rehearse(parts, challenger)
    with parts.tracking.step(period[:7], "gates", period) as run:
        run.tags({"evermoe.gate.server": "passed" if gate.passed else gate.reason})
    if gate.passed:
        parts.versions.tag(challenger.version, {REHEARSED: "passed"})
    else:
        failed = {"evermoe.gates_failed": f"{gate.name} {gate.reason}", "evermoe.gates": "failed"}  # the reason first
        parts.versions.tag(challenger.version, failed)
    return gate.passed


def too_little(period: str, material: Material) -> None:
    """Say why there is no update, where a reviewer looks for one."""
    create_markdown_artifact(
        f"# No update for {period}\n\n{len(material.domain)} labelled examples to learn from and {len(material.new_exam)} to "
        "examine with are too few; they stay for the next month.",
        key=f"update-{period}",
    )
