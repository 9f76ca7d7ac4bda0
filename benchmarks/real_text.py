"""The ground that the model's benchmarks share: real text, and one small training on it. Knows nothing of what is compared.

The text is the stream `ansible`: each collection's change notes in order of date, a paragraph a note, cut into runs of tokens.
The last tenth of each collection is held out. B sequences, S tokens.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from evermoe.quiet import silence
from evermoe.settings import use_home
from model import MoeConfig, MoeForCausalLM
from model.growth import adjust
from model.schedule import warmup_cosine
from model.statistics import RouterStatistics
from model.tokens import train_tokenizer
from streams import open_stream

VOCABULARY = 4096
HELD_OUT = 0.1
LEARNING_RATE = 3e-3
EXAMINED = 128
"""Held-out runs that are looked at."""


Found = TypeVar("Found")


@dataclass(frozen=True)
class Text:
    """Runs of `length` tokens, (runs, length) both; `paragraph_end` is the token that ends a note."""

    train: Tensor
    held_out: Tensor
    vocabulary: int
    paragraph_end: int


@dataclass(frozen=True)
class Run:
    """A trained network, its training loss by step and its loss on held-out text, in nats a token."""

    network: MoeForCausalLM
    losses: list[float]
    held_out: float


def real_text(length: int) -> Text:
    """The stream's text in runs of `length` tokens; brings the package where it is not in the cache."""
    records = open_stream("ansible", path=None, cache=use_home(None).cache).records()
    notes: dict[str, list[str]] = defaultdict(list)
    for record in records:
        if record.label is not None:
            notes[record.label].append(record.text)
    tokenizer = train_tokenizer((text for texts in notes.values() for text in texts), VOCABULARY)
    end = tokenizer.eos_token_id
    parts: tuple[list[int], list[int]] = ([], [])
    for _, texts in sorted(notes.items()):
        kept = int(len(texts) * (1 - HELD_OUT))
        for part, some in zip(parts, (texts[:kept], texts[kept:]), strict=True):
            for row in tokenizer(some, add_special_tokens=False)["input_ids"] if some else ():
                part.extend([*row, end])
    runs = [torch.tensor(part[: len(part) // length * length]).view(-1, length) for part in parts]
    return Text(runs[0], runs[1], len(tokenizer), end)


def small_config(text: Text, **changes: Any) -> MoeConfig:
    """The demo's sizes, for this text."""
    return MoeConfig(vocab_size=text.vocabulary, max_position_embeddings=8192, **changes)


def train(
    config: MoeConfig,
    text: Text,
    *,
    steps: int,
    batch: int,
    seed: int,
    order: int | None = None,
    prepare: Callable[[MoeForCausalLM], None] | None = None,
) -> Run:
    """Next-token training from nothing. `seed` decides the weights and, unless `order` does, the order of the rows.

    `prepare` changes the fresh network.
    """
    torch.manual_seed(seed)
    network = MoeForCausalLM(config)
    if prepare is not None:
        prepare(network)
    draw = torch.Generator().manual_seed(seed if order is None else order)
    optimizer = torch.optim.AdamW(network.parameters(), weight_decay=0.05, betas=(0.9, 0.98), fused=True)
    losses = []
    network.train()
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * warmup_cosine(step, steps)
        rows = text.train[torch.randint(len(text.train), (batch,), generator=draw)]
        loss = next_token_loss(network, rows)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        adjust(network, 0.02, (step + 1) / steps)
        losses.append(float(loss.detach()))
    run = Run(network, losses, held_out_loss(network, text))
    print(f"seed {seed}: held-out loss {run.held_out:.4f} after {steps} steps", file=sys.stderr)
    return run


def every_arm(
    measure: Callable[[Text, str, int, int], Found], text: Text, arms: Iterable[str], options: argparse.Namespace
) -> dict[str, list[Found]]:
    """`measure(text, arm, seed, steps)` of each arm with each seed, by arm.

    As many at a time as torch would use threads, each in a process with one.
    """
    spawn, seeds = multiprocessing.get_context("spawn"), range(options.seeds)
    with ProcessPoolExecutor(torch.get_num_threads(), spawn, torch.set_num_threads, (1,)) as pool:
        waiting = {arm: [pool.submit(measure, text, arm, seed, options.steps) for seed in seeds] for arm in arms}
        return {arm: [one.result() for one in rows] for arm, rows in waiting.items()}


def next_token_loss(network: MoeForCausalLM, rows_BS: Tensor) -> Tensor:
    """Mean cross-entropy of each token given those before it, in nats."""
    logits = network(rows_BS[:, :-1]).logits
    return cross_entropy(logits.flatten(0, 1).float(), rows_BS[:, 1:].flatten())


@torch.no_grad()
def held_out_loss(network: MoeForCausalLM, text: Text) -> float:
    """Mean over held-out runs, in nats a token."""
    return fmean(float(next_token_loss(network.eval(), part)) for part in text.held_out[:EXAMINED].split(16))


@torch.no_grad()
def held_out_statistics(network: MoeForCausalLM, text: Text) -> RouterStatistics:
    """How the routers spread held-out text."""
    found = network.eval()(text.held_out[:EXAMINED], output_router_statistics=True, logits_to_keep=1).router
    assert found is not None
    return found


def arguments(documentation: str | None, steps: int, seeds: int = 3, least_seeds: int = 1) -> argparse.Namespace:
    """The options that all trainings have; silences the tools we use. Ends the program where they cannot work."""
    parser = argparse.ArgumentParser(description=(documentation or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, default=seeds, help="trainings of each arm")
    parser.add_argument("--steps", type=int, default=steps, help="steps of each training")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    silence()
    options = parser.parse_args()
    if options.seeds < least_seeds or options.steps < 5:  # a fifth of the steps is to be a step
        parser.error(f"--seeds must be {least_seeds} or more, --steps 5 or more")
    return options


def show(figures: dict[str, Any], options: argparse.Namespace) -> None:
    """As one JSON object, with what the trainings were."""
    print(json.dumps({"steps": options.steps, "seeds": options.seeds, **figures}))


def spread(values: list[float]) -> str:
    """Mean and standard deviation, as a table shows them."""
    return f"{fmean(values):.4f} ± {stdev(values) if len(values) > 1 else 0.0:.4f}"


def difference(values: list[float], against: list[float]) -> str:
    """Of pairs with the same seed: mean and standard deviation."""
    return spread([a - b for a, b in zip(values, against, strict=True)]) if values is not against else "-"
