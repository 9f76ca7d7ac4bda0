"""Dynamic routing against a fixed number of experts a token, at equal training on real text.

    python -m benchmarks.routing [--seeds N] [--steps N] [--json]

Every arm is the same network but for how many experts a token has: 12 on average between 4 and 24, or always 12, 16 or 20.
All arms of a seed start from the same weights and see the same rows in the same order. Loss is in nats a token on text that no
arm was trained on; FLOPs are those of the routed experts, against the arm with 20. About 4 minutes on 2 cores.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from statistics import fmean

from benchmarks.real_text import (
    Text,
    arguments,
    difference,
    every_arm,
    held_out_statistics,
    real_text,
    show,
    small_config,
    spread,
    train,
)

ARMS = {
    "dynamic 12": {"min_experts_per_tok": 4, "max_experts_per_tok": 24},
    "fixed 12": {},
    "fixed 16": {"num_experts_per_tok": 16},
    "fixed 20": {"num_experts_per_tok": 20},
}
LENGTH, BATCH = 128, 8


@dataclass(frozen=True)
class Figures:
    """One training: held-out loss; mean and spread of active experts; experts that no held-out token uses; the lowest diversity."""

    loss: float
    active: float
    active_spread: float
    dead: float
    diversity: float


def measure(text: Text, arm: str, seed: int, steps: int) -> Figures:
    """Train one arm with one seed."""
    run = train(small_config(text, **ARMS[arm]), text, steps=steps, batch=BATCH, seed=seed)
    found = held_out_statistics(run.network, text)
    return Figures(
        run.held_out,
        float(found.active_experts.mean()),
        float(found.active_spread.mean()),
        float(found.dead_expert_frac.max()),
        float(found.expert_diversity.min()),
    )


def main() -> None:
    """Train all arms with all seeds, print the table."""
    options = arguments(__doc__, steps=200)
    text = real_text(LENGTH)
    found = every_arm(measure, text, ARMS, options)
    if options.json:
        show({arm: [asdict(one) for one in rows] for arm, rows in found.items()}, options)
        return
    print(f"{options.steps} steps of {BATCH} x {LENGTH} tokens, {options.seeds} seeds")
    print(
        f"{'':12}{'held-out loss':>18}{'against fixed 16':>20}{'active':>8}{'spread':>8}{'dead':>7}{'diversity':>11}{'FLOPs':>8}"
    )
    against = [one.loss for one in found["fixed 16"]]
    for arm, rows in found.items():
        losses = [one.loss for one in rows]
        active, wide, dead = (fmean(getattr(one, name) for one in rows) for name in ("active", "active_spread", "dead"))
        diversity, flops = fmean(one.diversity for one in rows), active / fmean(one.active for one in found["fixed 20"])
        print(
            f"{arm:12}{spread(losses):>18}{difference(losses, against):>20}"
            f"{active:8.2f}{wide:8.2f}{dead:7.1%}{diversity:11.2f}{flops:8.0%}"
        )


if __name__ == "__main__":
    main()
