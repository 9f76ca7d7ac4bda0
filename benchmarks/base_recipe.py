"""What keeps a small base from learning its records by heart: its recipe, with each part left out, beside TF-IDF and regression.

    python -m benchmarks.base_recipe [--stream ansible|git|files] [--path P] [--labels N] [--months N] [--seeds N] [--json]

The base learns what came before the last months, once by each recipe. Accuracy in percent: on what it holds out of its own months,
and on all of the first three months that follow. About 20 minutes a stream on 2 cores.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from statistics import fmean
from typing import Any

from benchmarks.continual import open_records, spread, stage_of, stream_arguments
from benchmarks.continual_course import BASELINE, Stage, ask, one_thread, seeded
from benchmarks.continual_figures import hits
from evermoe.errors import EvermoeError
from evermoe.quiet import silence
from evermoe.settings import Params, load_params
from flows.learning.base import learn
from flows.learning.examples import split
from model import Example
from model.baseline import train_baseline

ARMS: dict[str, dict[str, dict[str, Any]]] = {
    "as in params.yaml": {},
    "no token dropout": {"model": {"token_dropout": 0.0}},
    "text weighs 0.02": {"base": {"text_loss_weight": 0.02}},
    "neither": {"model": {"token_dropout": 0.0}, "base": {"text_loss_weight": 0.02}},
    "neither, 3 epochs": {"model": {"token_dropout": 0.0}, "base": {"text_loss_weight": 0.02, "epochs": 3}},
}
MONTHS_AFTER = 3


def measure(stage: Stage, arm: str, seed: int) -> tuple[float, float]:
    """Accuracy on held-out examples and on the months that follow."""
    known = split(stage.base, str(seed))
    if arm == BASELINE:
        answers = train_baseline(known.train, seed)
    else:
        answers = learn(known.train, seeded(changed(stage.params, ARMS[arm]), seed), lambda step: None)  # type: ignore[assignment]
    later = [
        Example(row.text, row.label or "") for name in list(stage.months)[:MONTHS_AFTER] for row in stage.months[name]
    ]
    return tuple(fmean(hits(ask(answers, examples))) for examples in (known.examination, later))  # type: ignore[return-value]


def changed(params: Params, changes: Mapping[str, Mapping[str, Any]]) -> Params:
    """The parameters with some values replaced, section by section."""
    sections = {name: getattr(params, name).model_copy(update=dict(values)) for name, values in changes.items()}
    return params.model_copy(update=sections)


def main() -> None:
    """Train every arm with every seed, print the table."""
    silence()
    options = stream_arguments(__doc__).parse_args()
    try:
        stage = stage_of(list(open_records(options)), load_params(), options.months or 12)
    except EvermoeError as error:
        sys.exit(f"base_recipe: {error}")
    arms, seeds = (BASELINE, *ARMS), range(options.seeds or 3)
    with ProcessPoolExecutor(os.cpu_count(), multiprocessing.get_context("spawn"), one_thread) as pool:
        waiting = {arm: [pool.submit(measure, stage, arm, seed) for seed in seeds] for arm in arms}
        found = {arm: [one.result() for one in rows] for arm, rows in waiting.items()}
    if options.json:
        print(
            json.dumps(
                {arm: [{"held_out": held, "next": later} for held, later in rows] for arm, rows in found.items()}
            )
        )
        return
    print(f"{'':20}{'held out':>14}{'next months':>14}")
    for arm, rows in found.items():
        print(f"{arm:20}{spread([held for held, _ in rows]):>14}{spread([later for _, later in rows]):>14}")


if __name__ == "__main__":
    main()
