"""A training run on disk, so that a killed one goes on to the same weights, bit for bit. Knows nothing of what is trained.

A checkpoint is a folder `step-00000040`: tensors in safetensors files, and `manifest.json` with the SHA-256 of each file, the
step, and the identity of the run. It is written under another name and renamed when all of it is on the disk, so a folder of
that name is whole unless somebody changed it; a changed one stops the run rather than teach it something else in silence.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from evermoe.errors import BadInput, StorageUnavailable
from model.parallel import as_in, gathered

log = logging.getLogger(__name__)

FORMAT = 1
MANIFEST = "manifest.json"
UNFINISHED = ".unfinished-"
KEPT = 2

Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class Checkpoint:
    """A run after `step` steps: numbers, and tensors by file and name."""

    step: int
    tensors: Mapping[str, Tensors]
    numbers: Mapping[str, float] = field(default_factory=dict)


class Checkpoints:
    """The checkpoints of one run in one folder, one after every `every` steps; the last two are kept.

    One process at a time may use the folder. With `lenient`, what is damaged or of another run is let go rather than refused,
    for runs that nobody watches: the training starts anew.
    """

    def __init__(self, folder: Path, every: int, *, lenient: bool = False) -> None:
        if every < 1:
            raise BadInput(f"a checkpoint every {every} steps cannot be; give a whole number from 1")
        self.folder, self.every, self.lenient = folder, every, lenient

    def latest(self, identity: Mapping[str, str]) -> Checkpoint | None:
        """The newest one, once it has been checked against its hashes and `identity`; None where there is none.

        What a killed run left unfinished is removed. Raises `BadInput` where the newest is truncated, was changed, or belongs
        to another run.
        """
        if not self.folder.exists():
            return None
        for left in self.folder.glob(f"{UNFINISHED}*"):
            shutil.rmtree(left, ignore_errors=True)
        for place in reversed(self._finished()):
            try:
                return read(place, identity)
            except BadInput as refusal:
                if not self.lenient:
                    raise
                log.warning("%s", refusal)
                self._remove(place)
        return None

    def save(self, checkpoint: Checkpoint, identity: Mapping[str, str]) -> Path:
        """Write one, whole or not at all, and let go of those before the last two. Raises `StorageUnavailable`."""
        name = f"step-{checkpoint.step:08}"
        place, aside = self.folder / name, self.folder / f"{UNFINISHED}{name}"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            shutil.rmtree(aside, ignore_errors=True)
            aside.mkdir()
            _write(aside, checkpoint, identity)
            if place.exists():
                self._remove(place)
            os.rename(aside, place)
            _sync(self.folder)
            for old in self._finished()[:-KEPT]:
                self._remove(old)
        except OSError as error:
            raise StorageUnavailable(
                f"{place}: {error.strerror or error}; the checkpoint was not written; free the disk and start again"
            ) from None
        return place

    def clear(self) -> None:
        """Remove them all, once what they led to is safe elsewhere; and the folder, unless something else is in it."""
        for place in self._finished():
            self._remove(place)
        if self.folder.exists() and not any(self.folder.iterdir()):
            self.folder.rmdir()

    def _finished(self) -> list[Path]:
        return sorted(self.folder.glob("step-" + "[0-9]" * 8))

    def _remove(self, place: Path) -> None:
        """Renamed first: a folder with a checkpoint's name is always whole."""
        away = place.with_name(f"{UNFINISHED}removed-{place.name}")
        shutil.rmtree(away, ignore_errors=True)
        os.rename(place, away)
        shutil.rmtree(away)


def read(place: Path, identity: Mapping[str, str]) -> Checkpoint:
    """A finished checkpoint. Raises `BadInput`, one line that says what does not match."""
    remedy = "remove that folder to go on from the one before it, or from the start"
    try:
        written = json.loads((place / MANIFEST).read_text(encoding="utf-8"))
        content, sha256 = written["content"], written["sha256"]
        if _digest_of(content) != sha256:
            raise BadInput(f"{place}: {MANIFEST} was changed, its own SHA-256 does not match; {remedy}")
        if content["format"] != FORMAT:
            raise BadInput(f"{place}: format {content['format']}, and this Evermoe reads format {FORMAT}; {remedy}")
        files, step, numbers, theirs = (content[name] for name in ("files", "step", "numbers", "identity"))
    except FileNotFoundError:
        raise BadInput(f"{place}: {MANIFEST} is missing; {remedy}") from None
    except (ValueError, KeyError, TypeError):
        raise BadInput(f"{place}: {MANIFEST} is truncated or no manifest; {remedy}") from None
    other = [name for name in sorted({*identity, *theirs}) if identity.get(name) != theirs.get(name)]
    if other:
        raise BadInput(
            f"{place}: belongs to another run, {' and '.join(other)} differ{'s' if len(other) == 1 else ''}; "
            "give another folder, or remove this one to start anew"
        )
    tensors: dict[str, Tensors] = {}
    for name, expected in files.items():
        try:
            found = _sha256(place / name)
            if found != expected:
                raise BadInput(
                    f"{place}: {name} is truncated or was changed, "
                    f"its SHA-256 is {found[:12]}… and not {expected[:12]}…; {remedy}"
                )
            tensors[name.removesuffix(".safetensors")] = load_file(place / name)
        except FileNotFoundError:
            raise BadInput(f"{place}: {name} is missing; {remedy}") from None
        except SafetensorError as error:
            raise BadInput(f"{place}: {name} cannot be read ({error}); {remedy}") from None
    return Checkpoint(step, tensors, numbers)


def _write(folder: Path, checkpoint: Checkpoint, identity: Mapping[str, str]) -> None:
    files: dict[str, str] = {}
    for name, tensors in checkpoint.tensors.items():
        file = folder / f"{name}.safetensors"
        save_file({key: tensor.detach().contiguous() for key, tensor in tensors.items()}, file)
        _sync(file)
        files[file.name] = _sha256(file)
    content = {
        "format": FORMAT,
        "step": checkpoint.step,
        "identity": dict(identity),
        "numbers": dict(checkpoint.numbers),
        "files": files,
    }
    manifest = folder / MANIFEST
    manifest.write_text(json.dumps({"content": content, "sha256": _digest_of(content)}, indent=1), encoding="utf-8")
    _sync(manifest)
    _sync(folder)


def capture(network: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensors]:
    """Weights, all buffers, the optimizer's state of each weight, and the generators of random numbers; all of each weight.

    Where ranks share the weights, all of them must ask.
    """
    names: dict[Tensor, str] = {parameter: name for name, parameter in network.named_parameters()}
    kept = {
        f"{names[parameter]}:{key}": gathered(value)
        for parameter, state in optimizer.state.items()
        for key, value in state.items()
    }
    random = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        random["cuda"] = torch.cuda.get_rng_state()
    buffers = dict(network.named_buffers())
    weights = {name: gathered(parameter) for name, parameter in network.named_parameters()}
    return {"weights": weights, "buffers": buffers, "optimizer": kept, "random": random}


@torch.no_grad()
def restore(network: nn.Module, optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensors]) -> None:
    """Put what `capture` took where it was."""
    for file, places in (("weights", network.named_parameters()), ("buffers", network.named_buffers())):
        for name, place in places:
            place.copy_(as_in(place, tensors[file][name]))
    optimizer.state.clear()
    names = dict(network.named_parameters())
    for key, value in tensors["optimizer"].items():
        name, _, what = key.rpartition(":")
        # The count of steps stays where AdamW made it; the moments lie beside their weight.
        optimizer.state[names[name]][what] = as_in(names[name], value.clone())
    torch.set_rng_state(tensors["random"]["cpu"])
    if "cuda" in tensors["random"] and torch.cuda.is_available():
        torch.cuda.set_rng_state(tensors["random"]["cuda"])


def _digest_of(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _sha256(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _sync(path: Path) -> None:
    """Wait until the disk has it."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
