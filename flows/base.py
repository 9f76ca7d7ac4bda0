"""Once: the first model, from a stream's records to version 1, champion at once. A home that has a champion keeps it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from prefect import flow

from evermoe.errors import Conflict
from evermoe.settings import settings
from flows.learning.base import examine, learn, prepare
from flows.learning.examples import split
from flows.lineage.candidate import Candidate, store
from flows.review.account import keep, present
from flows.review.card import Card, figures_of, sources_of, words
from flows.runtime.parts import Parts, open_parts
from flows.runtime.steps import step
from flows.runtime.trainings import Curve, forget_trainings, resumable
from model import Evaluation, LanguageModel
from model.gates import Contest
from registry.snapshots import SnapshotRow, Snapshots
from registry.tracker.versions import Version
from streams import Columns, open_stream

BASE = "base"


def take_in(parts: Parts, model: LanguageModel, rows: Sequence[SnapshotRow], until: str) -> Version:
    """Version 1, with its figures on held-out rows; champion at once, since there is nobody to compare it with."""
    figures = examine(model, rows)
    with parts.tracking.step(BASE, "gates", BASE) as run:
        run.metrics({f"accuracy.{name}": evaluation.accuracy for name, evaluation in figures.items()})
        every = figures["all"]
        run.metrics(
            {name: getattr(every, name) for name in ("calibration_error", "macro_f1", "latency_ms", "memory_bytes")}
        )
    origin = "from nothing" if parts.params.base.pretrained is None else f"from {parts.params.base.pretrained}"
    lesson = f"The base: trained {origin} on {len(rows):,} records before {until}, {len(model.labels)} labels. " + (
        f"Held-out accuracy {figures['all'].accuracy:.1%}." if figures["all"].examples else "None was held out."
    )
    card = Card(
        BASE,
        None,
        model.labels,
        lesson,
        sources_of(parts.snapshots, (), (BASE,)),
        figures=figures_of_base(figures, model),
    )
    with parts.tracking.step(BASE, "gates", BASE) as run:
        links = keep(parts, run, card)
    settings = {**parts.params.base.model_dump(), **parts.params.model.model_dump(), "until": until}
    candidate = Candidate(model, BASE, None, (BASE,), figures=card.figures, settings=settings)
    version = store(parts, candidate, words(card, links))
    parts.versions.set_alias("champion", version.version)
    present(parts, version.version)
    return version


def figures_of_base(figures: Mapping[str, Evaluation], model: LanguageModel) -> dict[str, float]:
    """Under the names that every version has: the last month as the new one, the months before it as the past."""
    every, months = figures["all"], [month for month in figures if month != "all"]
    new = figures[months[-1]] if months else every
    past = {month: figures[month] for month in months[:-1]}
    return figures_of(Contest(new, past, every.latency_ms, every.memory_bytes), model.labels)


@flow(name="base", flow_run_name="base before {until}")
def base(stream: str, path: str | None, until: str, columns: Columns | None = None) -> str:
    """Make version 1 from a stream and let it be the champion. Returns the version; a home that has a champion keeps it."""
    with open_parts() as parts:
        champion = parts.versions.champion()
        if champion is not None:
            return champion.version
        rows = freeze(parts, stream, path, until, columns)
        model = train(parts, rows, until)
        version = register(parts, model, rows, until).version
        forget_trainings()
        return version


@step("bring the records", retries=2, retry_delay_seconds=5)
def freeze(parts: Parts, stream: str, path: str | None, until: str, columns: Columns | None) -> list[SnapshotRow]:
    """The stream's records before the month, as the DVC snapshot `base`; in its order, from which the base can be made again."""
    place = Path(path) if path else None
    records = open_stream(stream, path=place, cache=settings().cache, columns=columns).records()
    return frozen(parts.snapshots, prepare(records, until, parts.params.base.max_records))


def frozen(snapshots: Snapshots, rows: Sequence[SnapshotRow]) -> list[SnapshotRow]:
    """The rows as the snapshot `base`. Raises `Conflict` where a base that was begun here and never finished froze others."""
    kept = snapshots.freeze(BASE, rows)
    found = list(snapshots.load(BASE))
    if Counter(found) != Counter(rows):
        raise Conflict(
            f"{kept.path} holds the records of another base, which was begun here and not finished; choose another home"
        )
    return found


@step("train the base")
def train(parts: Parts, rows: Sequence[SnapshotRow], until: str) -> LanguageModel:
    """From nothing, with the training's curves in MLflow."""
    with parts.tracking.step(BASE, "train", until) as run:
        run.params({**parts.params.base.model_dump(), **parts.params.model.model_dump(), "until": until})
        run.dataset(parts.snapshots.get(BASE), "training")
        with run.watched(), Curve(run, "train the base") as curve:
            return learn(split(rows).train, parts.params, curve, resumable(BASE))


@step("examine and register the base", retries=2, retry_delay_seconds=10)
def register(parts: Parts, model: LanguageModel, rows: Sequence[SnapshotRow], until: str) -> Version:
    """As `take_in`, with retries."""
    return take_in(parts, model, rows, until)
