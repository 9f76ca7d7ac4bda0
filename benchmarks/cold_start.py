"""A cold start of the expert pool against all experts from the first step, and what experts added later disturb.

    python -m benchmarks.cold_start [--seeds N] [--steps N] [--json]

Both arms see the same rows in the same order with every seed; the seed decides the weights alone, so what varies between seeds is
what the start makes of them. The variance of the training loss between seeds is taken at each of the first fifth of the steps
(while the pool unlocks) and averaged. Then 16 fresh experts are added to a trained network: the largest change of a logit on
held-out text, before any training. About 12 minutes on 2 cores.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from statistics import fmean, variance

import torch

from benchmarks.real_text import Run, Text, arguments, difference, real_text, show, small_config, spread, train
from model import MoeForCausalLM
from model.growth import UNLOCKED_BY, add_experts, cold_start

FIRST = 32
ADDED = 16
LENGTH, BATCH = 128, 8
ORDER = 0


def variance_of_start(runs: list[Run]) -> float:
    """Mean over the first fifth of the steps of the variance between runs of the training loss, in nats squared."""
    steps = int(UNLOCKED_BY * len(runs[0].losses))
    return fmean(variance([run.losses[step] for run in runs]) for step in range(steps))


@torch.no_grad()
def disturbance(network: MoeForCausalLM, text: Text) -> float:
    """Largest change of any logit on held-out rows when fresh experts are added."""
    grown = add_experts(network, ADDED, torch.Generator().manual_seed(0))
    rows = text.held_out[:16]
    return float((network(rows).logits - grown(rows).logits).abs().max())


def main() -> None:
    """Train both arms with all seeds, print the table."""
    options = arguments(__doc__, steps=200, seeds=5)
    text = real_text(LENGTH)
    config = partial(small_config, text, min_experts_per_tok=4, max_experts_per_tok=24)
    starts: dict[str, Callable[[MoeForCausalLM], None] | None] = {
        "all experts": None,
        f"{FIRST} at first": partial(cold_start, first=FIRST),
    }
    found = {
        arm: [
            train(config(), text, steps=options.steps, batch=BATCH, seed=seed, order=ORDER, prepare=start)
            for seed in range(options.seeds)
        ]
        for arm, start in starts.items()
    }
    varied = {arm: variance_of_start(runs) for arm, runs in found.items()}
    moved = disturbance(found["all experts"][0].network, text)
    if options.json:
        rows = {
            arm: {"variance": varied[arm], "held_out": [run.held_out for run in runs]} for arm, runs in found.items()
        }
        show({**rows, "logit_change_of_added_experts": moved}, options)
        return
    print(f"{options.steps} steps of {BATCH} x {LENGTH} tokens, {options.seeds} seeds")
    print(f"{'':14}{'variance, first fifth':>24}{'final held-out loss':>24}{'difference':>20}")
    against = [run.held_out for run in found["all experts"]]
    for arm, runs in found.items():
        losses = [run.held_out for run in runs]
        print(f"{arm:14}{varied[arm]:24.6f}{spread(losses):>24}{difference(losses, against):>20}")
    print(f"{ADDED} fresh experts added to a trained network change a logit by at most {moved:.1e}")


if __name__ == "__main__":
    main()
