"""On the first of each month, or when drift says so: freeze the month, learn it, distil it, examine the result, put it on trial.

Each step is one call into the rooms below. A run that is started again finds what the last one finished: the snapshot is
frozen once, and a version is registered once for its (period, parent).
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from hashlib import blake2b

from prefect import flow
from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.runtime import flow_run

from evermoe.errors import NotReady
from evermoe.locks import exclusive
from evermoe.settings import UpdateParams
from flows.candidate import Candidate, describe, store
from flows.examples import Split, split
from flows.exams import LOOK_BACK_MONTHS, sit
from flows.lineage import learned, merged, unlearned
from flows.months import before, end_of, month_of, period_of, start_of
from flows.parts import Parts, open_parts
from flows.rehearsal import rehearse
from flows.steps import due, step
from flows.trainings import Curve, forget_trainings, resumable
from model import Checkpoints, Example, Gate, LanguageModel, Recipe, distil, from_pretrained, mix, train_month
from registry.controls import Controls
from registry.evidence import weigh
from registry.rollout import Policy, make_way, new_rollout
from registry.snapshots import Snapshot, SnapshotRow
from registry.versions import Version

BEGINNING = datetime(1971, 1, 1, tzinfo=UTC)  # before any feedback
REHEARSED = "evermoe.rehearsed"


@dataclass(frozen=True)
class Material:
    """What one update learns from: new rows and replay to train on, and both held out for the examination."""

    domain: tuple[Example, ...]
    past: tuple[Example, ...]
    new_exam: tuple[Example, ...]
    past_exam: dict[str, tuple[Example, ...]]
    snapshots: tuple[str, ...]


def run_name() -> str:
    """`update 2025-06`."""
    return f"update {flow_run.parameters.get('month') or before(month_of(due()))}"


@flow(name="monthly", flow_run_name=run_name)
def monthly(month: str | None = None, now: datetime | None = None) -> str | None:
    """Make the challenger of `month`, by default the one before the run was due. Returns its version; None: too little to learn."""
    month = month or before(month_of(due()))
    now = now or datetime.now(UTC)
    period = period_of(month, now)
    with open_parts() as parts, exclusive(parts.snapshots.home / "update.lock"):
        champion = parts.versions.champion()
        if champion is None:
            raise NotReady("there is no champion to update; make a base first: `evermoe demo`, or see the README")
        made = parts.versions.find(period, champion.version)
        if made is None:
            for missed in unfrozen(parts, month):
                freeze(parts, missed, now)
            freeze(parts, period, now)
            material = gather(parts, champion, period)
            if len(material.domain) < parts.params.update.min_records or not material.new_exam:
                too_little(period, material)
                return None
            made = make(parts, champion, material, period)
        forget_trainings()
        if made.tags.get("evermoe.gates") == "passed" and answers(parts, made, period):
            put_on_trial(parts, made, period, now)
        return made.version


def make(parts: Parts, champion: Version, material: Material, period: str) -> Version:
    """Train, distil, examine, register."""
    incumbent = from_pretrained(parts.versions.weights(champion.version))
    name = f"{period}-from-{champion.version}"
    new = train_new(parts, incumbent, material, period, resumable(f"{name}-new"))
    challenger = distil_challenger(parts, incumbent, new, material, period, resumable(f"{name}-challenger"))
    gates = examine(parts, incumbent, challenger, material, period)
    return register(parts, champion, incumbent, challenger, material, gates, period)


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


@step(name="gather new rows and replay")
def gather(parts: Parts, champion: Version, period: str) -> Material:
    """3 parts of what the champion has not learned, 7 parts of what it has; one row in seven of both kept for the examination."""
    fresh = unlearned(parts.snapshots, champion, period)
    new: Split = split(merged(parts.snapshots, fresh))
    old: Split = split(merged(parts.snapshots, learned(champion)))
    params = parts.params.update
    domain, past = mix(new.train, old.train, params.domain_share, random.Random(params.seed)) if new.train else ([], [])
    most = parts.params.gates.examples_per_month
    past_exam = {month: old.held_out[month][:most] for month in sorted(old.held_out)[-LOOK_BACK_MONTHS:]}
    return Material(tuple(domain), tuple(past), new.examination, past_exam, (*learned(champion), *fresh))


@step(name="train the new model")
def train_new(
    parts: Parts, incumbent: LanguageModel, material: Material, period: str, checkpoints: Checkpoints
) -> LanguageModel:
    """Incremental training: a copy of the champion on the new month and replay."""
    params = parts.params.update
    recipe = recipe_of(params, params.epochs, params.learning_rate)
    with parts.tracking.step(period[:7], "train", period) as run:
        run.params({**asdict(recipe), "domain": len(material.domain), "replay": len(material.past)})
        run.describe(
            f"The *new* model: a copy of the champion, trained on {len(material.domain):,} new examples and "
            f"{len(material.past):,} replayed ones, of snapshots {', '.join(material.snapshots)}."
        )
        with Curve(run, f"train {period}") as curve:
            return train_month(incumbent, material.domain, material.past, recipe, curve, checkpoints=checkpoints)


@step(name="distil the challenger")
def distil_challenger(
    parts: Parts,
    incumbent: LanguageModel,
    new: LanguageModel,
    material: Material,
    period: str,
    checkpoints: Checkpoints,
) -> LanguageModel:
    """A copy of the champion, guided by the new model on the new month and by its own frozen self on replay."""
    params = parts.params.update
    recipe = recipe_of(params, params.distil_epochs, params.distil_learning_rate)
    with parts.tracking.step(period[:7], "distil", period) as run:
        run.params({**asdict(recipe), "temperature": params.temperature, "teachers": "new model, champion"})
        run.describe(
            "The challenger: a copy of the champion, guided by the new model on new examples and by its own frozen self on "
            "replayed ones."
        )
        with Curve(run, f"distil {period}") as curve:
            taught = (material.domain, material.past)
            return distil(incumbent, new, *taught, recipe, params.temperature, curve, checkpoints=checkpoints)


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
def register(
    parts: Parts,
    champion: Version,
    incumbent: LanguageModel,
    challenger: LanguageModel,
    material: Material,
    gates: Sequence[Gate],
    period: str,
) -> Version:
    """Into MLflow with its lineage; a challenger that failed a gate is kept with the reasons and goes no further."""
    candidate = Candidate(challenger, period, champion.version, material.snapshots, tuple(gates))
    version = store(parts, candidate, describe(candidate, incumbent, len(material.domain)))
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
        failed = {"evermoe.gates": "failed", "evermoe.gates_failed": f"{gate.name} {gate.reason}"}
        parts.versions.tag(challenger.version, failed)
    return gate.passed


@step(name="put the challenger on trial", retries=2, retry_delay_seconds=10)
def put_on_trial(parts: Parts, challenger: Version, period: str, now: datetime) -> None:
    """Open the rollout at the foot of the ramp, unless an older one is still to be decided (`registry.rollout.make_way`).

    A challenger whose parent was replaced while it was trained meets nobody: it would be compared with a version that has
    gone. The new champion has not learned its month, so the next update does.
    """
    champion = parts.versions.champion()
    assert champion is not None
    if parts.ledger.find(period, str(challenger.parent)) is not None:
        return
    if champion.version != challenger.parent:
        gone = (
            f"version {champion.version} replaced {challenger.parent} meanwhile; the next update learns {period} anew"
        )
        parts.versions.tag(challenger.version, {"evermoe.rollout": gone})
        return
    controls = Controls(parts.ledger, parts.versions, parts.tracking)
    policy = Policy(**parts.params.rollout.model_dump())
    undecided = parts.ledger.running()
    if undecided is not None:
        verdict = weigh(parts.events.rewards(undecided.id), policy.alpha, now)
        decision = make_way(undecided, verdict, period)
        controls.apply(undecided, decision, by="flow monthly", now=now, verdict=verdict)
        if decision.action == "hold":
            parts.versions.tag(challenger.version, {"evermoe.rollout": decision.reason})
            return
    name = f"{period}-v{challenger.version}"
    salt = salt_of(name, challenger)
    controls.open(new_rollout(name, period, champion.version, challenger.version, salt, policy, now), by="flow monthly")


def salt_of(name: str, challenger: Version) -> str:
    """The salt that draws a rollout's units. It follows from what was learned, so a replay of the same month assigns the same
    users, and no two rollouts share one."""
    return blake2b(f"{name} {challenger.tags.get('evermoe.dvc', '')}".encode(), digest_size=12).hexdigest()


def too_little(period: str, material: Material) -> None:
    """Say why there is no update, where a reviewer looks for one."""
    create_markdown_artifact(
        f"# No update for {period}\n\n{len(material.domain)} labelled examples to learn from and {len(material.new_exam)} to "
        "examine with are too few; they stay for the next month.",
        key=f"update-{period}",
    )


def recipe_of(params: UpdateParams, epochs: float, learning_rate: float) -> Recipe:
    """The recipe of one of the update's two trainings."""
    return Recipe(
        epochs=epochs,
        batch_size=params.batch_size,
        learning_rate=learning_rate,
        text_loss_weight=params.text_loss_weight,
        seed=params.seed,
    )
