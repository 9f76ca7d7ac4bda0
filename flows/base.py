"""The first model: a stream's records before a month, a decoder from nothing, its figures, version 1.

The three stages are plain functions, so that `dvc.yaml` runs them file by file and the flow runs them into a home.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from prefect import flow

from evermoe.errors import BadInput
from evermoe.months import start_of
from evermoe.packages import bring_smollm2
from evermoe.settings import Params, settings
from flows.account import keep, present
from flows.candidate import Candidate, store
from flows.card import Card, figures_of, sources_of, words
from flows.examples import split
from flows.runtime.parts import Parts, open_parts
from flows.runtime.steps import step
from flows.runtime.trainings import Curve, forget_trainings, resumable
from model import (
    Checkpoints,
    Evaluation,
    Example,
    LanguageModel,
    MoeConfig,
    Recipe,
    evaluate,
    train_base,
    train_month,
    upcycle,
)
from model.gates import Contest
from model.learn import Report
from registry.snapshots import SnapshotRow
from registry.versions import Version
from streams import Columns, open_stream
from streams.record import Record

BASE = "base"
EXAM_MONTHS = 6


def prepare(records: Sequence[Record], until: str, most: int) -> list[SnapshotRow]:
    """The latest `most` labelled records before the month `until`. Raises `BadInput` where there is nothing to tell apart."""
    rows = [
        SnapshotRow(record.text, record.label, record.unit, record.at, f"{record.source}-{index}")
        for index, record in enumerate(records)
        if record.label is not None and record.at < start_of(until)
    ][-most:]
    labels = {example.label for example in split(rows).train}
    if len(labels) < 2:
        what = f"only the label {labels.pop()!r} to learn from" if labels else "no labelled record to learn from"
        raise BadInput(f"before {until} the stream has {what}; a base needs two labels or more: choose a later month")
    return rows


def learn(
    examples: Sequence[Example], params: Params, report: Report, checkpoints: Checkpoints | None = None
) -> LanguageModel:
    """Train the base on examples: those that `split` does not hold out.

    A pretrained one is brought from the package index, given experts, and then learns the examples as a month is learned.
    """
    base = params.base
    recipe = Recipe(base.epochs, base.batch_size, base.learning_rate, base.text_loss_weight, base.seed)
    if base.pretrained is not None:
        return train_month(pretrained(params), examples, (), recipe, report, checkpoints=checkpoints)
    sizes = params.model
    config = model_config(params)
    return train_base(
        examples,
        config,
        sizes.max_length,
        recipe,
        report,
        experts_at_first=sizes.experts_at_first,
        checkpoints=checkpoints,
    )


def pretrained(params: Params) -> LanguageModel:
    """SmolLM2-135M with the experts that the parameters ask for. Raises `ServiceUnreachable`, `StorageUnavailable`."""
    sizes = params.model
    return upcycle(
        bring_smollm2(settings().cache),
        sizes.experts,
        sizes.experts_per_token,
        expert_size=sizes.expert_size,
        least=sizes.fewest_per_token,
        most=sizes.most_per_token,
        max_length=sizes.max_length,
        seed=params.base.seed,
    )


def examine(model: LanguageModel, rows: Sequence[SnapshotRow]) -> dict[str, Evaluation]:
    """The base on its held-out rows: over all, and on each of the last months."""
    held_out = split(rows).held_out
    months = {month: evaluate(model, held_out[month], timed=0) for month in sorted(held_out)[-EXAM_MONTHS:]}
    every = [example for month in sorted(held_out) for example in held_out[month]]
    return {"all": evaluate(model, every), **months}


def model_config(params: Params) -> MoeConfig:
    """The decoder's configuration from params.yaml."""
    sizes = params.model
    return MoeConfig(
        vocab_size=sizes.vocab_size,
        hidden_size=sizes.hidden_size,
        num_hidden_layers=sizes.layers,
        num_attention_heads=sizes.heads,
        num_experts=sizes.experts,
        num_experts_per_tok=sizes.experts_per_token,
        min_experts_per_tok=sizes.fewest_per_token,
        max_experts_per_tok=sizes.most_per_token,
        moe_intermediate_size=sizes.expert_size,
        shared_expert_size=sizes.shared_expert_size,
        expert_communication=sizes.expert_communication,
        attention_window=sizes.attention_window,
        attention_segment=sizes.attention_segment,
        channel_gate=sizes.channel_gate,
        token_dropout=sizes.token_dropout,
        max_position_embeddings=max(512, 2 * sizes.max_length),
    )


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
    lesson = (
        f"The base: trained {origin} on {len(rows):,} records before {until}, {len(model.labels)} labels. "
        f"Held-out accuracy {figures['all'].accuracy:.1%}."
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
    rows = prepare(records, until, parts.params.base.max_records)
    parts.snapshots.freeze(BASE, rows)
    return list(parts.snapshots.load(BASE))


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
