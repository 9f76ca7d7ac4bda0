"""A cold start of the expert pool against all experts from the first step, and what experts added later disturb.

    python -m benchmarks.cold_start [--seeds N] [--steps N] [--json]

Both arms see the same rows in the same order with every seed; the seed decides the weights alone, so what varies between seeds is
what the start makes of them. The variance of the training loss between seeds is taken at each of the first fifth of the steps
(while the pool unlocks) and averaged. Then 16 fresh experts are added to a trained network: the largest change of a logit on
held-out text, before any training. About 12 minutes on 2 cores.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from statistics import fmean, variance

import torch

from benchmarks.real_text import (
    Text,
    arguments,
    difference,
    every_arm,
    real_text,
    show,
    small_config,
    spread,
    train,
)
from model import MoeForCausalLM
from model.growth import UNLOCKED_BY, add_experts, cold_start

FIRST = 32
ADDED = 16
LENGTH, BATCH = 128, 8
ORDER = 0
ALL = "all experts"
ARMS: dict[str, Callable[[MoeForCausalLM], None] | None] = {
    ALL: None,
    f"{FIRST} at first": partial(cold_start, first=FIRST),
}


@dataclass(frozen=True)
class Figures:
    """One training: its losses by step and on held-out text; what `ADDED` fresh experts change of a logit, at most."""

    losses: list[float]
    held_out: float
    disturbed: float


def measure(text: Text, arm: str, seed: int, steps: int) -> Figures:
    """Train one arm with one seed."""
    config = small_config(text, min_experts_per_tok=4, max_experts_per_tok=24)
    run = train(config, text, steps=steps, batch=BATCH, seed=seed, order=ORDER, prepare=ARMS[arm])
    return Figures(run.losses, run.held_out, disturbance(run.network, text))


def variance_of_start(found: list[Figures]) -> float:
    """Mean over the first fifth of the steps of the variance between runs of the training loss, in nats squared."""
    steps = int(UNLOCKED_BY * len(found[0].losses))
    return fmean(variance([one.losses[step] for one in found]) for step in range(steps))


@torch.no_grad()
def disturbance(network: MoeForCausalLM, text: Text) -> float:
    """Largest change of any logit on held-out rows when fresh experts are added."""
    grown = add_experts(network, ADDED)
    rows = text.held_out[:16]
    return float((network(rows).logits - grown(rows).logits).abs().max())


def main() -> None:
    """Train both arms with all seeds, print the table."""
    options = arguments(__doc__, steps=600, seeds=6, least_seeds=2)
    text = real_text(LENGTH)
    found = every_arm(measure, text, ARMS, options)
    varied = {arm: variance_of_start(rows) for arm, rows in found.items()}
    moved = max(one.disturbed for rows in found.values() for one in rows)
    if options.json:
        told = {arm: {"variance": varied[arm], "held_out": [one.held_out for one in found[arm]]} for arm in ARMS}
        show({**told, "logit_change_of_added_experts": moved}, options)
        return
    print(f"{options.steps} steps of {BATCH} x {LENGTH} tokens, {options.seeds} seeds")
    print(f"{'':14}{'variance, first fifth':>24}{'final held-out loss':>24}{'difference':>20}")
    against = [one.held_out for one in found[ALL]]
    for arm, rows in found.items():
        losses = [one.held_out for one in rows]
        print(f"{arm:14}{varied[arm]:24.6f}{spread(losses):>24}{difference(losses, against):>20}")
    print(f"{ADDED} fresh experts added to a trained network change a logit by at most {moved:.1e}")


if __name__ == "__main__":
    main()
