"""The first model: a stream's records before a month, a decoder from nothing or a pretrained one, its figures.

Plain functions: `dvc.yaml` runs them file by file, and the flow `base` into a home.
"""

from __future__ import annotations

from collections.abc import Sequence

from evermoe.errors import BadInput
from evermoe.months import start_of
from evermoe.packages import bring_smollm2
from evermoe.settings import Params, settings
from flows.learning.examples import split
from flows.learning.recipe import recipe_of
from model import (
    Checkpoints,
    Evaluation,
    Example,
    LanguageModel,
    MoeConfig,
    evaluate,
    train_base,
    train_month,
    upcycle,
)
from model.batches import steps_of
from model.learn import Report
from registry.snapshots import SnapshotRow
from streams.record import Record

EXAM_MONTHS = 6


def prepare(records: Sequence[Record], until: str, most: int) -> list[SnapshotRow]:
    """The latest `most` labelled records before the month `until`. Raises `BadInput` where there is nothing to tell apart."""
    rows = [row for row in rows_of(records) if row.at < start_of(until)][-most:]
    labels = {example.label for example in split(rows).train}
    if len(labels) < 2:
        what = f"only the label {labels.pop()!r} to learn from" if labels else "no labelled record to learn from"
        raise BadInput(f"before {until} the stream has {what}; a base needs two labels or more: choose a later month")
    return rows


def rows_of(records: Sequence[Record]) -> list[SnapshotRow]:
    """The labelled records as rows."""
    return [
        SnapshotRow(record.text, record.label, record.unit, record.at, f"{record.source}-{index}")
        for index, record in enumerate(records)
        if record.label is not None
    ]


def learn(
    examples: Sequence[Example], params: Params, report: Report, checkpoints: Checkpoints | None = None
) -> LanguageModel:
    """Train the base on examples: those that `split` does not hold out.

    A pretrained one is brought from the package index, given experts, and then learns the examples as a month is learned.
    """
    base = params.base
    enough = base.min_steps / steps_of(len(examples), base.batch_size, 1)
    recipe = recipe_of(base, max(base.epochs, min(enough, base.most_epochs)))
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
