"""The one loop that trains: a task's batch, its gradients, a step, the routers' adjustment, a report, and at times a checkpoint.

Knows nothing of what is taught; `tasks.py` and `preferences.py` do.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch

from model.batches import groups
from model.checkpoint import Checkpoint, Checkpoints, capture, restore
from model.decoder import MoeForCausalLM
from model.growth import adjust
from model.language import LanguageModel
from model.parallel import Ranks, copy_places
from model.routing import Load
from model.schedule import warmup_cosine
from model.tasks import Task, fingerprint


@dataclass(frozen=True)
class Recipe:
    """How long and how hard to train. `text_loss_weight` is the weight of predicting a text token beside a label token,
    `token_split` the share of a text's tokens that are cut into smaller ones, other ones each time (`splitting.py`), `join_share`
    that of the texts which another one of their label is joined to, `doubt_share` that of the labels which are drawn from what
    words alone suggest (`variations.py`), `label_smoothing` that of each target which goes evenly to all tokens.

    The rate rises over the share `warmup` of the steps and then falls as a half cosine (source document, section 4.1).
    """

    epochs: float
    batch_size: int
    learning_rate: float
    text_loss_weight: float
    seed: int
    token_split: float = 0.0
    join_share: float = 0.0
    doubt_share: float = 0.0
    label_smoothing: float = 0.0
    warmup: float = 0.05
    weight_decay: float = 0.05
    clip: float = 1.0
    balance_rate: float = 0.02


@dataclass(frozen=True)
class Step:
    """What one step reports.

    Args:
        number: from 0, `of` as many.
        loss: in nats.
        learning_rate: that the step was taken with.
        tokens: that the network worked on, padding included.
        peak_load: the busiest expert's load against the mean, over all blocks.
        active_experts: routed experts a token, mean over blocks.
        dead_expert_frac: share of the experts that no token of the step reached, mean over blocks.
        stage: of the curriculum.
        moved: divergence from the reference on this step's anchors, in nats a token; at the stage's last step on all anchors, of
            the final weights. 0 outside the alignment.
    """

    number: int
    of: int
    loss: float
    learning_rate: float
    tokens: int
    peak_load: float
    active_experts: float
    dead_expert_frac: float
    stage: str
    moved: float = 0.0


class Turn(NamedTuple):
    """What one step does: a group of a task's indices, and whether it is the task's first or last."""

    task: Task
    group: tuple[int, ...]
    is_first: bool
    is_last: bool


Report = Callable[[Step], None]


def plan(tasks: Iterable[Task], steps: int, recipe: Recipe) -> list[Turn]:
    """The whole run, step by step: the order of the data follows from the recipe's seed alone."""
    order, turns = random.Random(recipe.seed), list[Turn]()
    for task in tasks:
        its = task.stage.steps(steps)
        drawn = groups(task.stage.passes, task.lengths, recipe.batch_size, order) if its else iter(())
        turns += [
            Turn(task, group, at == its[0], at == its[-1])
            for at, group in zip(its, itertools.islice(drawn, len(its)), strict=True)
        ]
    return turns


def fit(
    model: LanguageModel,
    tasks: Sequence[Task],
    steps: int,
    recipe: Recipe,
    report: Report,
    checkpoints: Checkpoints | None = None,
) -> None:
    """The loop. Changes `model` in place; deterministic for one recipe, data and machine, interrupted or not.

    The tasks' stages follow each other from the first step to the last. With `checkpoints` a run that was killed goes on where
    the newest one was made, and the steps since then are reported again. Raises `BadInput` where that one does not fit.

    Under `torchrun` all ranks call this alike and end with the same model; the first one reports and keeps the checkpoints, with
    which any number of ranks goes on. Raises `BadInput` where they were not given the same.
    """
    ranks, turns = Ranks.here(), plan(tasks, steps, recipe)
    network = ranks.shard(model.network)
    torch.manual_seed(recipe.seed)
    optimizer = torch.optim.AdamW(
        network.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay, betas=(0.9, 0.98), fused=True
    )
    identity = identify(model, tasks, turns, recipe) if checkpoints is not None or ranks.world > 1 else {}
    done = resume(network, optimizer, turns, checkpoints, identity, ranks) if checkpoints is not None else 0
    ranks.require_same({**identity, "the step to go on from": done})
    for number in range(done, steps):
        task, group, is_first, is_last = turns[number]
        network.train()
        if is_first:
            task.begin(network, ranks)
        rate = recipe.learning_rate * warmup_cosine(number, steps, recipe.warmup)
        for parameters in optimizer.param_groups:
            parameters["lr"] = rate
        loss, tokens, moved = gradients(network, task, group, recipe.clip, ranks)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        ranks.add_up_loads(network, ranks.weight(len(group)))
        loads = adjust(network, recipe.balance_rate, (number + 1) / steps)
        moved = task.end(network, ranks) if is_last else moved
        if ranks.is_first:
            report(Step(number, steps, loss, rate, tokens, *traffic(loads), task.stage.name, moved))
        if checkpoints is not None and ((number + 1) % checkpoints.every == 0 or number + 1 == steps):
            numbers, tensors = task.state()
            kept = {**capture(network, optimizer), "task": tensors}
            if ranks.is_first:
                checkpoints.save(Checkpoint(number + 1, kept, numbers), identity)
    if network is not model.network:
        copy_places(network, model.network)
    model.network.eval()


def gradients(
    network: MoeForCausalLM, task: Task, group: Sequence[int], clip: float, ranks: Ranks
) -> tuple[float, int, float]:
    """Where a batch, its normalisation and its gradients come together: each term's sum over its count, added up.

    Sums and counts are those of all ranks. Returns the loss, the tokens it took, and `Worth.moved`.
    """
    worth, weight = task.worth(network, group, ranks), ranks.weight(len(group))
    terms, size = worth.terms, len(worth.terms)
    tokens = terms[0].total.new_tensor(worth.tokens)
    mine = (*(term.total for term in terms), *(term.count for term in terms), tokens)
    sums = ranks.total(weight * torch.stack([one.detach().float() for one in mine]))
    counts = sums[size : 2 * size].clamp(min=1e-9)
    # Sharding takes the mean of the ranks' gradients; this is to be their sum.
    share = weight * ranks.world * torch.stack([term.total for term in terms]) / counts
    share.sum().backward()
    torch.nn.utils.clip_grad_norm_(network.parameters(), clip)
    return float((sums[:size] / counts).sum()), int(sums[-1]), worth.moved


def traffic(loads: Sequence[Load]) -> tuple[float, float, float]:
    """Of the routers' loads: the peak against the mean, active experts a token, share of experts without a token."""
    if not loads:
        return 0.0, 0.0, 0.0
    peak = max(float(load.share_E.max() * load.share_E.numel()) for load in loads)
    dead = sum(float((load.share_E == 0).float().mean()) for load in loads) / len(loads)
    return peak, sum(load.active for load in loads) / len(loads), dead


def identify(model: LanguageModel, tasks: Iterable[Task], turns: Sequence[Turn], recipe: Recipe) -> dict[str, str]:
    """What makes a run this run: checkpoints of any other are refused, and the part that differs is named."""
    parts = {
        "recipe": [repr(recipe)],
        "data": (line for task in tasks for line in task.content()),
        "order of the data": (repr((turn.task.stage.name, turn.group)) for turn in turns),
        "configuration": [json.dumps(model.network.config.to_dict(), sort_keys=True, default=str)],
        "tokenizer": [model.tokenizer.backend_tokenizer.to_str(), str(model.codec.max_length)],
        "weights at the start": [fingerprint(model.network)],
        "version of torch": [torch.__version__],
    }
    return {
        name: hashlib.sha256("\n".join(lines).encode("utf-8", "surrogatepass")).hexdigest()
        for name, lines in parts.items()
    }


def resume(
    network: MoeForCausalLM,
    optimizer: torch.optim.Optimizer,
    turns: Sequence[Turn],
    checkpoints: Checkpoints,
    identity: dict[str, str],
    ranks: Ranks,
) -> int:
    """Put the newest checkpoint in place. Returns how many steps it has done, 0 without one."""
    found = checkpoints.latest(identity)
    if found is None:
        return 0
    restore(network, optimizer, found.tensors)
    if found.numbers:
        turns[found.step - 1].task.restore(network, found.numbers, found.tensors["task"], ranks)
    return found.step
