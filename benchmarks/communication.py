"""What communication between a token's experts is worth, at equal FLOPs.

    python -m benchmarks.communication [--seeds N] [--steps N] [--json]

With communication of width 8 the experts are 8 narrower, so that both arms multiply as often for a token's expert:
3 x D x (24 + 8) = 3 x D x 32. Both start from the same seeds and see the same rows. `benchmarks.moe_layer` says what it takes in
time. About 2 minutes on 2 cores.
"""

from __future__ import annotations

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

ARMS = {
    "silent, width 32": {"moe_intermediate_size": 32},
    "communicating, width 24": {"moe_intermediate_size": 24, "expert_communication": 8},
}
LENGTH, BATCH = 128, 8


def measure(text: Text, arm: str, seed: int, steps: int) -> float:
    """Train one arm with one seed. Returns its loss on held-out text."""
    config = small_config(text, min_experts_per_tok=4, max_experts_per_tok=24, **ARMS[arm])
    return train(config, text, steps=steps, batch=BATCH, seed=seed).held_out


def main() -> None:
    """Train both arms with all seeds, print the table."""
    options = arguments(__doc__, steps=200)
    text = real_text(LENGTH)
    losses = every_arm(measure, text, ARMS, options)
    if options.json:
        show({"held_out_loss": losses}, options)
        return
    print(f"{options.steps} steps of {BATCH} x {LENGTH} tokens, {options.seeds} seeds")
    print(f"{'':26}{'held-out loss':>18}{'difference':>20}")
    against = losses["silent, width 32"]
    for arm, found in losses.items():
        print(f"{arm:26}{spread(found):>18}{difference(found, against):>20}")


if __name__ == "__main__":
    main()
