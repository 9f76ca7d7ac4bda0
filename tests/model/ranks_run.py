"""Runs for test_parallel.py, on any number of ranks: `ranks_run.py FOLDER NAME...`, under torchrun or not.

Of each run the first rank writes `NAME.json` and `NAME.safetensors`: its curve, and every weight and buffer in the end.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import sys
from dataclasses import replace
from pathlib import Path

import torch
import torch.distributed as dist
from killed_run import EXAMPLES, RECIPE, THUMBS
from safetensors.torch import save_file

from model import Example, LanguageModel, MoeConfig, MoeForCausalLM, Recipe, Step, distil, train_base
from model.batches import Lesson
from model.checkpoint import Checkpoints
from model.curriculum import one_stage
from model.experts import Experts
from model.learn import align, supervised, untrained
from model.loop import gradients
from model.parallel import Ranks, gathered, places
from model.preferences import Alignment
from model.routing import routers
from model.tasks import Language
from streams import open_stream
from streams.ansible import WHEEL

EVERY = 10
ALIKE = {"token_split": 0.0, "join_share": 0.0, "doubt_share": 0.0}  # each rank draws for its own part
SHORT = replace(RECIPE, epochs=4, batch_size=7, **ALIKE)
"""24 steps; 40 examples by 7, so the last batch of an epoch has 5."""


BOUND = 1e-4
DEMO = Recipe(epochs=2, batch_size=32, learning_rate=3e-3, text_loss_weight=0.02, seed=1)


def config(experts: int = 9) -> MoeConfig:
    """A decoder as small as it gets, with all that learns in it; two ranks cannot halve its nine experts."""
    return MoeConfig(
        vocab_size=300,
        hidden_size=16,
        num_attention_heads=2,
        num_experts=experts,
        num_experts_per_tok=2,
        min_experts_per_tok=1,
        max_experts_per_tok=4,
        moe_intermediate_size=8,
        shared_expert_size=8,
        expert_communication=8,
        attention_segment=4,
        channel_gate=True,
        max_position_embeddings=64,
    )


class Run:
    """One run and what is kept of it."""

    def __init__(self, folder: Path, name: str) -> None:
        self.folder, self.name, self.steps = folder, name, list[Step]()

    def base(self, recipe: Recipe = SHORT, checkpoints: str = "") -> LanguageModel:
        kept = Checkpoints(self.folder / checkpoints, EVERY) if checkpoints else None
        return train_base(EXAMPLES, config(), 32, recipe, self.steps.append, experts_at_first=5, checkpoints=kept)

    def save(self, model: LanguageModel) -> None:
        ranks, tensors = Ranks.here(), {name: tensor.detach() for name, tensor in places(model.network).items()}
        ranks.require_same(
            {name: hashlib.sha256(tensor.numpy().tobytes()).hexdigest() for name, tensor in tensors.items()}
        )
        if ranks.is_first:
            save_file(
                {name: tensor.clone() for name, tensor in tensors.items()}, self.folder / f"{self.name}.safetensors"
            )
            (self.folder / f"{self.name}.json").write_text(
                json.dumps([dataclasses.asdict(step) for step in self.steps])
            )


def whole(run: Run) -> LanguageModel:
    return run.base(checkpoints=f"{Ranks.here().world} ranks")


def resumed(run: Run) -> LanguageModel:
    """From the checkpoints of a run on one rank."""
    return run.base(checkpoints="1 ranks")


def half(run: Run) -> LanguageModel:
    """In bf16, as on a GPU."""
    here = Ranks.here
    Ranks.here = lambda: replace(here(), precision=torch.bfloat16)  # type: ignore[method-assign]
    try:
        return run.base()
    finally:
        Ranks.here = here  # type: ignore[method-assign]


def lonely(run: Run) -> LanguageModel:
    """One example a step: only the first rank has work."""
    return run.base(replace(SHORT, batch_size=1, epochs=0.4))


def aligned(run: Run) -> LanguageModel:
    """Five thumbs by three, which pull so hard that the weights are drawn back to the bound in the end."""
    model = run.base(replace(SHORT, epochs=1))
    run.steps.clear()
    recipe = replace(SHORT, batch_size=3, epochs=4)
    return align(model, THUMBS, EXAMPLES, recipe, run.steps.append, alignment=Alignment(bound=BOUND, anchors=9))


def distilled(run: Run) -> LanguageModel:
    """From two teachers, of whom a rank's part of a batch may need one."""
    champion = run.base(replace(SHORT, epochs=1))
    new = run.base(replace(SHORT, epochs=2))
    run.steps.clear()
    return distil(champion, new, EXAMPLES[:4], EXAMPLES[4:], replace(SHORT, epochs=2), 2.0, run.steps.append)


def demo(run: Run) -> LanguageModel:
    """A decoder of the demo's sizes, 200 steps on the notes of its stream; on forty sentences where that is not on this machine."""
    cache, examples = Path.home() / ".cache" / "evermoe", EXAMPLES * 80
    if (cache / WHEEL).exists():
        records = open_stream("ansible", path=None, cache=cache).records()
        examples = [Example(record.text, record.label) for record in records if record.label][-3200:]
    return train_base(examples, demo_config(), 64, replace(DEMO, epochs=2), run.steps.append)


def demo_learned(run: Run) -> LanguageModel:
    """The same decoder, 200 steps on forty sentences, which it learns by heart, at a rate at which it comes to rest."""
    return train_base(EXAMPLES, demo_config(), 64, replace(DEMO, epochs=100, learning_rate=1e-3), run.steps.append)


def demo_config() -> MoeConfig:
    return MoeConfig(vocab_size=4096, min_experts_per_tok=4, max_experts_per_tok=24)


RUNS = {run.__name__: run for run in (whole, resumed, half, lonely, aligned, distilled, demo, demo_learned)}


def shares(folder: Path) -> None:
    """How many of eight experts each rank keeps, and of nine."""
    ranks, local = Ranks.here(), list[int]()
    for experts in (8, 9):
        network = ranks.shard(MoeForCausalLM(config(experts)))
        found = (module.gate_up_EDF for module in network.modules() if isinstance(module, Experts))
        local += [len(weight.to_local()) for weight in found]
    held: list[list[int]] = [[]] * ranks.world
    dist.all_gather_object(held, local)
    if ranks.is_first:
        (folder / "shares.json").write_text(json.dumps(held))


def one_step(folder: Path) -> None:
    """Gradients of groups of seven, of three and of one, and what the routers counted over them."""
    ranks, model = Ranks.here(), untrained(EXAMPLES, config(), 32, 3)
    (task,) = supervised(model, one_stage("base", 40), [Lesson(e) for e in EXAMPLES], SHORT, Language())
    network, found = ranks.shard(model.network).train(), dict[str, torch.Tensor]()
    for group in (range(7), range(7, 10), range(10, 11)):
        loss, _, _ = gradients(network, task, group, 1e9, ranks)
        ranks.add_up_loads(network, ranks.weight(len(group)))
        kept = {name: gathered(weight.grad) for name, weight in network.named_parameters()}
        kept |= {name: buffer.clone() for name, buffer in network.named_buffers() if "router" in name}
        found |= {f"{len(group)}:{name}": tensor for name, tensor in kept.items()} | {
            f"{len(group)}:loss": torch.tensor(loss)
        }
        network.zero_grad()
        for router in routers(network):
            router.load.zero_(), router.tokens.zero_()
    if ranks.is_first:
        save_file(found, folder / "one_step.safetensors")


ALSO = {"shares": shares, "one_step": one_step}


def main(folder: Path, *names: str) -> None:
    for name in names:
        if name in ALSO:
            ALSO[name](folder)
        else:
            run = Run(folder, name)
            run.save(RUNS[name](run))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]), *sys.argv[2:])
