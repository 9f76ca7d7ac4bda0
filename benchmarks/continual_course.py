"""One method's way through the months of a stream: learn a month, be asked the next, and again. Knows nothing of tables.

What each month showed is kept in a file as soon as it is computed, with the model from which the next month goes on, so that a
run which was stopped does so too. Text-only figures (what was answered to what) are kept whole, so that a table can be made of
them in any way.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from sklearn.pipeline import Pipeline

from benchmarks.continual_methods import METHODS, Meter, Month
from benchmarks.continual_stage import Stage
from evermoe.settings import Params
from flows.learning.base import learn
from flows.learning.examples import split
from model import Example, LanguageModel, from_pretrained
from model.baseline import baseline_answers, train_baseline

BASELINE, SCRATCH = "TF-IDF + LR", "from scratch"
ANEW = (BASELINE, SCRATCH)
"""What learns everything anew each month."""
EXAMINED = 60
"""Held-out examples of a month that are looked at, as the gates do."""


@dataclass(frozen=True)
class Answers:
    """What was answered to a month's examples, in their order: right label, answered label, and how sure the answer was."""

    right: list[str]
    given: list[str]
    sure: list[float]


@dataclass(frozen=True)
class Cell:
    """What one (method, seed, month) showed: on the next month, on what each past month holds out, and what learning cost.

    `taught` are the labels of the month's rows, `known` those of all rows so far; `tokens` as in `Meter`, `active` the parameters
    that work on a token.
    """

    month: str
    taught: list[str]
    known: list[str]
    next: Answers
    past: dict[str, Answers]
    tokens: float
    active: float
    seconds: float


def stretches(stage: Stage, method: str) -> list[list[str]]:
    """The months that have to be played one after the other, the base first; stretches may be played side by side.

    What learns everything anew each month does not need the months before it to be played.
    """
    course = ["base", *stage.updates]
    return [[name] for name in course] if method in ANEW else [course]


def needs_base(method: str, stretch: Sequence[str]) -> bool:
    """Whether the base has to be there before the stretch is played."""
    return method not in ANEW or (method == SCRATCH and stretch[0] == "base")


def play(stage: Stage, method: str, seed: int, stretch: Sequence[str], folder: Path) -> None:
    """Learn the months of a stretch, and be asked after each. What `folder` holds already is not played again."""
    last = None
    for name in stretch:
        if not (folder / f"{name}.json").exists():
            if last:
                champion: Path | None = folder / f"model-{last}"
            else:
                champion = prepared_base(stage, seed, folder.parent) if needs_base(method, stretch) else None
            cell, model = play_month(stage, method, seed, name, champion)
            if isinstance(model, LanguageModel) and len(stretch) > 1:
                keep_model(model, folder / f"model-{name}")
            write_cell(folder / f"{name}.json", cell)
            if last:
                shutil.rmtree(folder / f"model-{last}", ignore_errors=True)
        last = name


def play_month(
    stage: Stage, method: str, seed: int, name: str, champion: Path | None
) -> tuple[Cell, LanguageModel | Pipeline]:
    """What a month showed, and the model that learned it: from that in `champion`, or anew."""
    params, course = seeded(stage.params, seed), ["base", *stage.updates]
    earlier = course[: course.index(name)]
    before = [row for month in earlier for row in stage.rows(month)]
    fresh = stage.rows(name)
    known = [*before, *fresh]
    meter, began = Meter(), time.process_time()
    model: LanguageModel | Pipeline
    if method == BASELINE:
        model = train_baseline(split(known, str(seed)).train, seed)
    elif champion is None:
        model = learn(split(known, str(seed)).train, params, meter)
    elif name == "base" or not split(fresh, str(seed)).train:
        model = from_pretrained(champion)  # as the platform learns nothing of a month without enough rows
    else:
        model = METHODS[method](from_pretrained(champion), Month(fresh, before, params, str(seed)), meter)
    seconds = time.process_time() - began
    following = stage.months[list(stage.months)[len(earlier)]]
    cell = Cell(
        name,
        sorted({example.label for example in split(fresh, str(seed)).train}),
        sorted({example.label for example in split(known, str(seed)).train}),
        ask(model, [Example(row.text, row.label or "") for row in following]),
        {month: ask(model, examples[:EXAMINED]) for month, examples in split(known, str(seed)).held_out.items()},
        meter.tokens,
        active_parameters(model) if isinstance(model, LanguageModel) else 0.0,
        seconds,
    )
    return cell, model


def ask(model: LanguageModel | Pipeline, examples: Sequence[Example]) -> Answers:
    """All of the examples' texts."""
    right, texts = [example.label for example in examples], [example.text for example in examples]
    if not texts:
        return Answers([], [], [])
    if isinstance(model, LanguageModel):
        given = model.classify(texts)
        return Answers(right, [one.label for one in given], [round(one.scores[one.label], 4) for one in given])
    return Answers(right, baseline_answers(model, texts), model.predict_proba(texts).max(axis=1).tolist())


def seeded(params: Params, seed: int) -> Params:
    """The parameters with every seed replaced."""
    return params.model_copy(
        update={
            "base": params.base.model_copy(update={"seed": seed}),
            "update": params.update.model_copy(update={"seed": seed}),
        }
    )


def prepared_base(stage: Stage, seed: int, folder: Path) -> Path:
    """The base of this seed, which all methods share: its folder. Trained once."""
    place = folder / f"base-{seed}"
    if not (place / "config.json").exists():
        keep_model(learn(split(stage.base, str(seed)).train, seeded(stage.params, seed), lambda step: None), place)
    return place


def keep_model(model: LanguageModel, folder: Path) -> None:
    """Put the model in place of the one before, never leaving a half."""
    draft = folder.with_name(f".{folder.name}.{os.getpid()}")
    model.save(draft)
    shutil.rmtree(folder, ignore_errors=True)
    draft.rename(folder)


def active_parameters(model: LanguageModel) -> float:
    """Parameters that work on one token: all but the embeddings that are looked up and the experts that rest."""
    network, config = model.network, model.network.config
    routed = sum(
        weight.numel() for name, weight in network.named_parameters() if "experts." in name and "shared" not in name
    )
    looked_up = network.get_input_embeddings().weight.numel()
    tied = network.get_input_embeddings().weight is network.get_output_embeddings().weight
    every = sum(weight.numel() for weight in network.parameters())
    return every - routed * (1 - config.num_experts_per_tok / config.num_experts) - (0 if tied else looked_up)


def write_cell(file: Path, cell: Cell) -> None:
    """All or nothing."""
    file.parent.mkdir(parents=True, exist_ok=True)
    draft = file.with_name(f".{file.name}.{os.getpid()}")
    draft.write_text(json.dumps(asdict(cell), ensure_ascii=False))
    draft.replace(file)


def read_cell(file: Path) -> Cell:
    """What `write_cell` wrote."""
    held = json.loads(file.read_text())
    past = {month: Answers(**answers) for month, answers in held.pop("past").items()}
    return Cell(**held | {"next": Answers(**held["next"]), "past": past})


def one_thread() -> None:
    """Courses are played side by side, a process a core."""
    torch.set_num_threads(1)
