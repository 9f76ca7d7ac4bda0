"""On the first of each month, or when drift says so: freeze the month, learn it, distil it, examine the result, put it on trial.

Each step is one call into the rooms below. A run that is started again finds what the last one finished: the snapshot is
frozen once, and a version is registered once for its (period, parent).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from prefect import flow
from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.runtime import flow_run

from evermoe.errors import BadInput, NotReady
from evermoe.locks import exclusive
from evermoe.months import before, month_of, period_of, start_of
from flows.gates.checks import check_rows, enough, stop
from flows.gates.exams import ExamReport, sit
from flows.gates.overrides import OVERRIDDEN, Override
from flows.gates.pages import note, page
from flows.gates.rehearsal import rehearse
from flows.gates.trial import override_gates, put_on_trial
from flows.learning.update import Material, Taught, Training, update
from flows.lineage.candidate import Candidate, attempt, settle, store
from flows.review.account import keep, monthly_card, name_data, present
from flows.review.card import Card, Source, sources_of, words
from flows.runtime.parts import UPDATE_LOCK, Parts, open_parts
from flows.runtime.steps import due, step
from flows.runtime.trainings import Curve, forget_trainings, resumable
from flows.snapshots.freezing import freeze, unfrozen
from flows.snapshots.learned import gathered, learned, unlearned
from model import Checkpoints, LanguageModel, from_pretrained
from model.tasks import fingerprint
from registry.tracker.runs import StepName
from registry.tracker.versions import Version

REHEARSED = "evermoe.rehearsed"
FAILED_AFTER = "failed after "


def run_name() -> str:
    """`update 2025-06`."""
    return f"update {flow_run.parameters.get('month') or before(month_of(due()))}"


@flow(name="monthly", flow_run_name=run_name)
def monthly(month: str | None = None, now: datetime | None = None, override: Override | None = None) -> str | None:
    """Make the challenger of `month`, by default the one before the run was due. Returns its version; None: a check stopped it.

    An override lets the month pass the checks, and its version the gates, that it names. Raises `BadInput` for a month that is
    still to come: what is frozen stays as it is, so the months until then would end today.
    """
    month = month or before(month_of(due()))
    now = now or datetime.now(UTC)
    if start_of(month) > now:
        raise BadInput(f"{month} has not begun; the last month that is over is {before(month_of(now))}")
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
            fit = check_rows(parts, champion, fresh, period, override)
            material = gather(parts, champion, fit.snapshots)
            already = (
                f"version {champion.version} has learned {period}" if not fresh and period in learned(champion) else ""
            )
            if failed := fit.failed or enough(material, parts.params.update.min_records, already):
                stop(parts, champion, period, failed)
                return None
            made = make(parts, champion, material, fit.snapshots, period)
        else:
            settle(parts, made)
        forget_trainings()
        if override is not None:
            made = override_gates(parts, made, override, now)
        if examined(made) is not None and answers(parts, made, period):
            put_on_trial(parts, made, now)
        present(parts, made.version)
        return made.version


def make(parts: Parts, champion: Version, material: Material, fresh: tuple[str, ...], period: str) -> Version:
    """Train, distil, examine, register."""
    incumbent, known = from_pretrained(parts.versions.weights(champion.version)), learned(champion)
    sources = sources_of(parts.snapshots, known, fresh)

    def conduct(name: str, training: Training) -> LanguageModel:
        kept, lesson = resumable(f"{attempt(period, champion.version)}-{name}"), LESSONS[name]
        return step(lesson.task)(train)(parts, lesson, training, material, sources, period, kept)

    taught = update(incumbent, material, parts.params.update, conduct)
    report = examine(parts, incumbent, taught.challenger, material, (period, champion.version))
    card = draw_up(parts, incumbent, taught, material, sources, report, (period, champion.version))
    candidate = Candidate(
        taught.challenger,
        period,
        champion.version,
        (*known, *fresh),
        report.gates,
        replayed=known,
        teachers={"new model": fingerprint(taught.new.network), "champion": fingerprint(incumbent.network)},
        figures=card.figures,
        settings={"parent": champion.version, **parts.params.update.model_dump()},
    )
    return register(parts, candidate, card)


@step(name="gather new rows and replay")
def gather(parts: Parts, champion: Version, fresh: Sequence[str]) -> Material:
    """New rows from the snapshots `fresh`, replay from those the champion has learned."""
    return gathered(parts.snapshots, fresh, learned(champion), parts.params)


@dataclass(frozen=True)
class Lesson:
    """How a training of the update is shown: its task in Prefect, its run in MLflow, and what the run says of itself."""

    task: str
    run: StepName
    words: str


LESSONS = {
    "new": Lesson(
        "train the new model",
        "train",
        "The *new* model: a copy of the champion, trained on {domain:,} new examples and {replay:,} replayed ones.",
    ),
    "challenger": Lesson(
        "distil the challenger",
        "distil",
        "The challenger: a copy of the champion, guided by the new model on {domain:,} new examples and by its own frozen self "
        "on {replay:,} replayed ones.",
    ),
    "aligned": Lesson(
        "align with thumbs",
        "align",
        "The challenger, aligned with {thumbs:,} thumbs; old answers stay within a bound.",
    ),
}
"""By the names that `update` gives its trainings."""


def train(
    parts: Parts,
    lesson: Lesson,
    training: Training,
    material: Material,
    sources: Sequence[Source],
    period: str,
    checkpoints: Checkpoints,
) -> LanguageModel:
    """One training of the update, with its curve, its data and what the machine did in MLflow."""
    counts = {"domain": len(material.domain), "replay": len(material.replayed), "thumbs": len(material.thumbs)}
    with parts.tracking.step(period[:7], lesson.run, period) as run:
        run.params({**parts.params.update.model_dump(), **counts})
        run.describe(lesson.words.format(**counts))
        name_data(run, parts.snapshots, sources)
        with run.watched(), Curve(run, f"{lesson.run} {period}") as curve:
            return training(curve, checkpoints)


@step(name="examine at the gates")
def examine(
    parts: Parts, incumbent: LanguageModel, challenger: LanguageModel, material: Material, made: tuple[str, str]
) -> ExamReport:
    """The champion and the challenger on the same held-out rows, judged gate by gate."""
    report = sit(incumbent, challenger, material.new_exam, material.past_exam, parts.params.gates)
    period = made[0]
    with parts.tracking.step(period[:7], "gates", attempt(*made)) as run:
        run.metrics(report.metrics)
        run.params(parts.params.gates.model_dump())
        run.tags(
            {
                f"evermoe.gate.{gate.name.replace(' ', '_')}": "passed" if gate.passed else gate.reason
                for gate in report.gates
            }
        )
        run.describe(note(report.markdown))
        run.html(report.markdown, "gates.md")
        run.html(page(f"Gates of {period}", report.markdown), "gates.html")
    create_table_artifact(
        [{"gate": gate.name, "passed": "yes" if gate.passed else "NO", "why": gate.reason} for gate in report.gates],
        key=f"gates-{period}",
        description=f"Gates of the challenger of {period}",
    )
    return report


@step(name="draw up its card")
def draw_up(
    parts: Parts,
    incumbent: LanguageModel,
    taught: Taught,
    material: Material,
    sources: Sequence[Source],
    report: ExamReport,
    made: tuple[str, str],
) -> Card:
    """What changed since the parent, as `account.monthly_card`."""
    return monthly_card(parts, incumbent, taught, material, sources, report, made)


@step(name="register the version", retries=2, retry_delay_seconds=10)
def register(parts: Parts, candidate: Candidate, card: Card) -> Version:
    """Into MLflow with its lineage; a challenger that failed a gate is kept with the reasons and goes no further."""
    with parts.tracking.step(candidate.period[:7], "gates", candidate.attempt) as run:
        links = keep(parts, run, card)
    version = store(parts, candidate, words(card, links))
    create_markdown_artifact(
        version.description, key=f"version-{version.version}", description=f"What version {version.version} is"
    )
    return version


def examined(version: Version) -> str | None:
    """What all gates but the last said of a version, `passed` or `overridden`; None where one failed."""
    said = version.tags.get(REHEARSED, "")
    before = said.removeprefix(FAILED_AFTER) if said.startswith(FAILED_AFTER) else version.tags.get("evermoe.gates")
    return before if before in ("passed", OVERRIDDEN) else None


@step(name="ask it in the real server")
def answers(parts: Parts, challenger: Version, period: str) -> bool:
    """The last gate: the registered version loads and answers in the gateway. Once passed, it is not asked again; one that failed
    is asked again with the month, for a full disk or a busy machine says nothing against a version."""
    if challenger.tags.get(REHEARSED) == "passed":
        return True
    before = examined(challenger)
    gate = rehearse(parts, challenger)
    with parts.tracking.step(period[:7], "gates", attempt(period, challenger.parent)) as run:
        run.tags({"evermoe.gate.server": "passed" if gate.passed else gate.reason})
    if gate.passed:
        mended = {"evermoe.gates": before, "evermoe.gates_failed": ""} if REHEARSED in challenger.tags else {}
        parts.versions.tag(challenger.version, {**mended, REHEARSED: "passed"})
    else:
        failed = {"evermoe.gates_failed": f"{gate.name} {gate.reason}", REHEARSED: f"{FAILED_AFTER}{before}"}
        parts.versions.tag(challenger.version, failed | {"evermoe.gates": "failed"})  # the reason first
    return gate.passed
