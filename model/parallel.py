"""Where a run runs: how many processes share it, which of them this is, on what device. Knows nothing of tasks, steps or rates.

Under `torchrun` every rank keeps its share of each weight, its gradient and its optimizer state (torch's `fully_shard`, FSDP2):
of E stacked experts that is E / ranks of them. A block's weights are gathered while it computes. Each rank works on its share
of a batch, and all together take the step that one process would have taken, but for the order in which floats are added.

Where it fails: each rank makes the whole network once before it keeps its share, so one that is larger than a machine's memory
cannot be trained. The work is parted by examples and not by experts: weights travel, tokens do not.
On CUDA (nccl, weights computed with in bf16, kept and reduced in float32) the code is the same, and no GPU has run it yet.
"""

from __future__ import annotations

import atexit
import copy
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor

from evermoe.errors import BadInput
from model.decoder import MoeForCausalLM
from model.routing import routers

Anything = TypeVar("Anything")
PROCESSOR = torch.device("cpu")


@dataclass(frozen=True)
class Ranks:
    """The processes of a run, `world` of them, and this one among them. The first one reports and writes, all of them train.

    `precision` is what weights are computed with, None: as they are.
    """

    world: int = 1
    rank: int = 0
    device: torch.device = PROCESSOR
    precision: torch.dtype | None = None

    @classmethod
    def here(cls) -> Ranks:
        """What torchrun's environment says: one process without it. Takes a GPU where there is one (CUDA_VISIBLE_DEVICES).

        May be asked any number of times. Raises `BadInput` for more processes than GPUs.
        """
        world = int(os.environ.get("WORLD_SIZE", "1"))
        rank, local = (int(os.environ.get(name, "0")) for name in ("RANK", "LOCAL_RANK"))
        if not torch.cuda.is_available():
            if world > 1:
                connect("gloo", world, rank)
            return cls(world, rank)
        if local >= torch.cuda.device_count():
            raise BadInput(
                f"process {local} of this machine has no GPU: there are {torch.cuda.device_count()}; "
                "give as many to --nproc-per-node, or hide them with CUDA_VISIBLE_DEVICES="
            )
        torch.cuda.set_device(local)
        connect("nccl", world, rank)
        return cls(world, rank, torch.device("cuda", local), torch.bfloat16)

    @property
    def is_first(self) -> bool:
        """Whether this process is the one that reports and writes."""
        return self.rank == 0

    @property
    def is_plain(self) -> bool:
        """Whether the run is one process on the processor, where nothing is moved, sharded or gathered."""
        return self.world == 1 and self.device.type == "cpu"

    def part(self, group: Sequence[Anything]) -> list[Anything]:
        """This rank's share. A rank that gets nothing works on the first one, so that nobody waits for it: see `weight`."""
        return list(group[self.rank :: self.world] or group[:1])

    def weight(self, count: int) -> float:
        """What this rank's part of so many counts for: 0 where the part only keeps the others company, else 1."""
        return float(self.rank < count)

    def total(self, tensor: Tensor) -> Tensor:
        """The sum over the ranks, the same on each; no gradient passes."""
        tensor = tensor.detach()
        if self.world > 1:
            tensor = tensor.clone()
            dist.all_reduce(tensor)
        return tensor

    def require_same(self, facts: Mapping[str, object]) -> None:
        """Raise `BadInput` on every rank where the ranks do not agree."""
        if self.world == 1:
            return
        told: list[Mapping[str, object]] = [{}] * self.world
        dist.all_gather_object(told, dict(facts))
        differing = [name for name in told[0] if any(other[name] != told[0][name] for other in told)]
        if differing:
            raise BadInput(
                f"the {self.world} processes do not agree on: {', '.join(differing)}; "
                "give each the same files, settings and folder of checkpoints"
            )

    def add_up_loads(self, network: nn.Module, weight: float) -> None:
        """Make the routers' loads those of all ranks, so that all ranks balance alike and as one process would."""
        counted = [buffer for router in routers(network) for buffer in (router.load, router.tokens)]
        if self.world == 1 or not counted:
            return
        sums = self.total(weight * torch.cat([buffer.flatten() for buffer in counted]))
        for buffer, summed in zip(counted, sums.split([buffer.numel() for buffer in counted]), strict=True):
            buffer.copy_(summed.view_as(buffer))

    def shard(self, network: MoeForCausalLM) -> MoeForCausalLM:
        """The network to train: this one where the run is plain, else a copy on the device, of which each rank keeps a share.

        `copy_places` brings the weights back.
        """
        if self.is_plain:
            return network
        shared = moved(copy.deepcopy(network), self.device)
        mesh = init_device_mesh(self.device.type, (self.world,))
        policy = MixedPrecisionPolicy(param_dtype=self.precision, reduce_dtype=torch.float32)
        for block in shared.blocks:
            fully_shard(block, mesh=mesh, mp_policy=policy)
        fully_shard(shared, mesh=mesh, mp_policy=policy)
        register_fsdp_forward_method(shared, "trunk")
        return shared

    def place(self, network: MoeForCausalLM) -> MoeForCausalLM:
        """A network to ask only, such as a teacher, where the run can ask it; each rank has all of it."""
        return network if self.device.type == "cpu" else moved(copy.deepcopy(network), self.device)

    def whole(self, network: MoeForCausalLM) -> MoeForCausalLM:
        """An independent copy with all weights, on this rank's device. All ranks must ask for it."""
        if self.is_plain:
            return copy.deepcopy(network)
        with torch.random.fork_rng(devices=[]):
            plain = moved(MoeForCausalLM(network.config), self.device)
        copy_places(network, plain)
        return plain


ALONE = Ranks()


def moved(network: MoeForCausalLM, device: torch.device) -> MoeForCausalLM:
    """The network itself, on a device."""
    nn.Module.to(network, device)
    return network


def connect(backend: str, world: int, rank: int) -> None:
    """Meet the other ranks, once."""
    if dist.is_initialized():
        return
    if world > 1:
        dist.init_process_group(backend)
    else:  # sharding wants a group, and one process has nobody to find
        dist.init_process_group(backend, store=dist.HashStore(), rank=rank, world_size=world)
    atexit.register(leave)


def leave() -> None:
    """Part from the other ranks."""
    if dist.is_initialized():
        dist.destroy_process_group()


def places(network: nn.Module) -> dict[str, Tensor]:
    """Every parameter and buffer by name, each once, the buffers that are not saved with a model too."""
    if isinstance(network, FSDPModule):
        network.reshard()
    return {**dict(network.named_parameters()), **dict(network.named_buffers())}


@torch.no_grad()
def copy_places(source: nn.Module, target: nn.Module) -> None:
    """Copy all of `source` to `target`, either of them sharded or not. All ranks must do it."""
    there = places(source)
    for name, place in places(target).items():
        place.copy_(as_in(place, gathered(there[name])))


def gathered(tensor: Tensor) -> Tensor:
    """All of a tensor of which this rank may have a share only. All ranks must ask for it."""
    return tensor.full_tensor().detach() if isinstance(tensor, DTensor) else tensor


def as_in(place: Tensor, tensor: Tensor) -> Tensor:
    """The same numbers on the device of `place`, and where that is a share, of a tensor of this shape, this rank's share."""
    tensor = tensor.to(place.device)
    if isinstance(place, DTensor) and place.shape == tensor.shape:
        return distribute_tensor(tensor, place.device_mesh, place.placements, src_data_rank=None)
    return tensor
