"""What the three axes of attention cost with length, and what each is worth.

    python -m benchmarks.attention [--seeds N] [--steps N] [--json]

First the prefill of one sequence of 1,024 to 8,192 tokens by an untrained network of the demo's width, three axes against full
attention (the same network without a window, segments or gate), interleaved in one run. Then trainings on real text, documents
of 512 tokens in which a paragraph is a note, with each axis left out in turn: held-out loss, in nats a token. About 12 minutes
on 2 cores.
"""

from __future__ import annotations

import time
from statistics import median
from typing import Any

import torch

from benchmarks.real_text import Text, arguments, difference, every_arm, real_text, show, small_config, spread, train
from model import MoeForCausalLM

LENGTHS = (1024, 2048, 4096, 8192)
ROUNDS = 5
DOCUMENT, BATCH = 512, 2


def axes(text: Text, window: int = 64, segment: int = 32) -> dict[str, Any]:
    """All three axes."""
    ends = (text.paragraph_end,)
    return {
        "attention_window": window,
        "attention_segment": segment,
        "segment_end_token_ids": ends,
        "channel_gate": True,
    }


def arms(text: Text) -> dict[str, dict[str, Any]]:
    """The network with all axes, and with each left out; without the spatial one a token sees itself alone."""
    every = axes(text)
    return {
        "three axes": every,
        "without spatial": every | {"attention_window": 1},
        "without temporal": every | {"attention_segment": 0},
        "without channel": every | {"channel_gate": False},
        "full attention": {},
    }


def prefill(text: Text) -> dict[str, dict[int, float]]:
    """Median seconds by length."""
    torch.manual_seed(0)
    networks = {
        "three axes": MoeForCausalLM(small_config(text, **axes(text, window=256, segment=64))).eval(),
        "full attention": MoeForCausalLM(small_config(text)).eval(),
    }
    row = text.train.flatten()
    spent: dict[str, dict[int, list[float]]] = {name: {length: [] for length in LENGTHS} for name in networks}
    with torch.no_grad():
        for turn in range(ROUNDS + 1):
            for length in LENGTHS:
                for name, network in networks.items():
                    began = time.perf_counter()
                    network(row[None, :length], use_cache=True, logits_to_keep=1)
                    if turn:  # the first turn warms up
                        spent[name][length].append(time.perf_counter() - began)
    return {name: {length: median(times) for length, times in rows.items()} for name, rows in spent.items()}


def measure(text: Text, arm: str, seed: int, steps: int) -> float:
    """Train one arm with one seed. Returns its loss on held-out text."""
    config = small_config(text, **arms(text)[arm])
    return train(config, text, steps=steps, batch=BATCH, seed=seed).held_out


def main() -> None:
    """Time the prefill, train the arms, print both tables."""
    options = arguments(__doc__, steps=600, seeds=2)
    text = real_text(DOCUMENT)
    seconds = prefill(text)
    losses = every_arm(measure, text, arms(text), options)
    if options.json:
        show({"prefill_seconds": seconds, "held_out_loss": losses}, options)
        return
    print(f"prefill, median of {ROUNDS}, milliseconds")
    print(f"{'':18}" + "".join(f"{length:>9,}" for length in LENGTHS) + f"{'8k / 1k':>10}")
    for name, times in seconds.items():
        growth = times[LENGTHS[-1]] / times[LENGTHS[0]]
        print(f"{name:18}" + "".join(f"{1000 * times[length]:9.0f}" for length in LENGTHS) + f"{growth:10.1f}")
    print(f"\n{options.steps} steps of {BATCH} x {DOCUMENT} tokens, {options.seeds} seeds")
    print(f"{'':18}{'held-out loss':>18}{'against three axes':>20}")
    for arm, found in losses.items():
        print(f"{arm:18}{spread(found):>18}{difference(found, losses['three axes']):>20}")


if __name__ == "__main__":
    main()
