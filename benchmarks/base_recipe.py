"""What keeps a small base from learning its records by heart: its recipe, with each part left out, beside TF-IDF and regression.

    python -m benchmarks.base_recipe [--stream ansible|git|files] [--path P] [--labels N] [--months N] [--seeds N] [--quick]

The base learns what came before the last months, once by each recipe. Accuracy in percent: on what it holds out of its own months,
and on all of the first three months that follow. There are ten bases a seed; one of 3,000 records (--quick) took six minutes of
a core.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any

from rich.console import Console
from rich.progress import track

from benchmarks.continual import spread
from benchmarks.continual_course import BASELINE, ask, one_thread, seeded
from benchmarks.continual_figures import hits
from benchmarks.continual_stage import Stage, stage_asked_for, stream_arguments, with_defaults
from evermoe.errors import EvermoeError
from evermoe.quiet import silence
from evermoe.settings import Params, load_params
from flows.learning.base import learn
from flows.learning.examples import split
from model import Example
from model.baseline import train_baseline

RECIPES: dict[str, dict[str, dict[str, Any]]] = {
    "as in params.yaml": {},
    "no token split": {"base": {"token_split": 0.0}},
    "no token left blank": {"model": {"token_dropout": 0.0}},
    "no text joined": {"base": {"join_share": 0.0}},
    "no label doubted": {"base": {"doubt_share": 0.0}},
    "not smoothed": {"base": {"label_smoothing": 0.0}},
    "none of these": {
        "model": {"token_dropout": 0.0},
        "base": {"token_split": 0.0, "join_share": 0.0, "doubt_share": 0.0, "label_smoothing": 0.0},
    },
    "text weighs 0.02": {"base": {"text_loss_weight": 0.02}},
    "half as many steps": {"base": {"epochs": 4, "min_steps": 1125}},
    "twice the rate": {"base": {"learning_rate": 3.0e-3}},
}
MONTHS_AFTER = 3


@dataclass(frozen=True)
class Accuracy:
    """Shares of right answers, 0 to 1: on held-out examples of the base's own months, and on the months that follow."""

    held_out: float
    following: float


def main() -> None:
    """Train a base by every recipe with every seed, and print the table."""
    silence()
    options = with_defaults(stream_arguments(__doc__).parse_args())
    try:
        stage = stage_asked_for(options, load_params())
    except EvermoeError as error:
        sys.exit(f"base_recipe: {error}")
    found = measured(stage, options.seeds)
    if options.json:
        print(json.dumps({name: [asdict(one) for one in seeds] for name, seeds in found.items()}))
        return
    print(f"{len(stage.base):,} records, then {', '.join(list(stage.months)[:MONTHS_AFTER])}; seeds: {options.seeds}")
    print(f"{'':20}{'held out':>14}{'next months':>14}")
    for name, seeds in found.items():
        held_out, following = ([getattr(one, which) for one in seeds] for which in ("held_out", "following"))
        print(f"{name:20}{spread(held_out):>14}{spread(following):>14}")


def measured(stage: Stage, seeds: int) -> dict[str, list[Accuracy]]:
    """Every recipe with so many seeds, a base a core at a time."""
    courses = [(name, seed) for name in (*RECIPES, BASELINE) for seed in range(seeds)]
    with ProcessPoolExecutor(os.cpu_count(), multiprocessing.get_context("spawn"), one_thread) as pool:
        running = {pool.submit(measure, stage, *course): course for course in courses}
        done = as_completed(running)
        shown = track(done, "bases", len(running), console=Console(stderr=True), transient=True)
        found = {running[one]: one.result() for one in shown}
    return {name: [found[name, seed] for seed in range(seeds)] for name in (*RECIPES, BASELINE)}


def measure(stage: Stage, recipe: str, seed: int) -> Accuracy:
    """A base made by one recipe."""
    known = split(stage.base, str(seed))
    following = [
        Example(row.text, row.label or "") for name in list(stage.months)[:MONTHS_AFTER] for row in stage.months[name]
    ]
    if recipe == BASELINE:
        model = train_baseline(known.train, seed)
    else:
        model = learn(known.train, seeded(changed(stage.params, RECIPES[recipe]), seed), lambda step: None)
    return Accuracy(*(fmean(hits(ask(model, examples))) for examples in (known.examination, following)))


def changed(params: Params, changes: Mapping[str, Mapping[str, Any]]) -> Params:
    """The parameters with some values replaced, section by section."""
    sections = {name: getattr(params, name).model_copy(update=dict(values)) for name, values in changes.items()}
    return params.model_copy(update=sections)


if __name__ == "__main__":
    main()
