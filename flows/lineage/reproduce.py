"""A version made again from its lineage, in a clean folder, and compared file by file with what was recorded.

Runs the functions that the flows run, on snapshots and a parent that are known to be those of then. Writes nothing into the home,
and knows no run of Prefect or MLflow.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from pydantic import ValidationError
from safetensors.torch import load_file

from evermoe.errors import BadInput, Conflict, NotFound
from evermoe.settings import Params
from flows.learning.base import learn
from flows.learning.examples import split
from flows.learning.update import Training, update
from flows.lineage.record import FIRST_OF_HASH, Lineage, digests, read_lineage
from flows.runtime.progress import advance
from flows.snapshots.learned import gathered
from model import LanguageModel, Step, from_pretrained
from registry.snapshots import Snapshots
from registry.tracker.versions import Versions

WORDS = {"base": "train the base", "new": "train", "challenger": "distil", "aligned": "align"}


@dataclass(frozen=True)
class Link:
    """A version of a chain, and what was recorded of it."""

    version: str
    lineage: Lineage


@dataclass(frozen=True)
class Rebuilt:
    """A version made again in `folder`: the files compared, and a line for each that is not the same."""

    version: str
    folder: Path
    files: tuple[str, ...]
    differences: tuple[str, ...]

    @property
    def identical(self) -> bool:
        """Whether every file is, bit for bit."""
        return not self.differences


def chain(versions: Versions, version: str, from_base: bool) -> tuple[Link, ...]:
    """What is to be made again, in that order: the version, with `from_base` after all those it came from.

    Raises `NotFound` for an unknown version and for one whose lineage was not recorded.
    """
    found = [Link(version, read_lineage(versions, version))]
    while from_base and (parent := found[0].lineage.parent) is not None:
        found.insert(0, Link(parent, read_lineage(versions, parent)))
    return tuple(found)


def reproduce(versions: Versions, snapshots: Snapshots, links: Sequence[Link], into: Path) -> Iterator[Rebuilt]:
    """Make each link again in a folder of its own below `into`; the first that differs is the last.

    Where a link's parent is no link itself, it starts from the parent's registered weights. Raises `BadInput` naming the file
    where a snapshot or the parent is not what it was, before anything is trained; `Conflict` where `into` is not empty.
    """
    for link in links:
        for name, md5 in link.lineage.snapshots.items():
            snapshots.require(name, md5)
    if into.exists() and (not into.is_dir() or any(into.iterdir())):
        raise Conflict(f"{into} is not empty; a version is made again in a clean folder: choose another, or empty it")
    made: dict[str, Path] = {}
    for link in links:
        parent = link.lineage.parent
        start = None if parent is None else made.get(parent) or versions.weights(parent)
        folder = rebuild(link, snapshots, start).save(into / f"version-{link.version}")
        made[link.version] = folder
        rebuilt = compared(link, folder, registered(versions, link.version))
        yield rebuilt
        if not rebuilt.identical:
            return


def rebuild(link: Link, snapshots: Snapshots, start: Path | None) -> LanguageModel:
    """The model that the lineage leads to; `start` is the parent's folder. Raises `BadInput` where that is another one."""
    lineage, params = link.lineage, recorded_params(link)

    def conduct(name: str, training: Training) -> LanguageModel:
        what = f"version {link.version}: {WORDS[name]}"

        def report(step: Step) -> None:
            advance(what, step.number + 1, step.of)

        return training(report, None)

    with threads(lineage.machine.threads):
        if start is None:
            rows = [row for name in lineage.fresh for row in snapshots.load(name)]
            return conduct("base", lambda report, kept: learn(split(rows).train, params, report, kept))
        require_files(start, lineage.parent_files, link.version)
        material = gathered(snapshots, lineage.fresh, lineage.replay, params)
        return update(from_pretrained(start), material, params.update, conduct).challenger


def recorded_params(link: Link) -> Params:
    """The parameters of then. Raises `BadInput` where this Evermoe cannot read them."""
    try:
        return Params.model_validate(link.lineage.params)
    except ValidationError as error:
        where, commit = ".".join(map(str, error.errors()[0]["loc"])), link.lineage.code.git_commit
        raise BadInput(
            f"version {link.version} was made with parameters that this Evermoe does not read ({where}); "
            f"check out commit {commit or 'of then'} to make it again"
        ) from None


def require_files(folder: Path, recorded: dict[str, str], version: str) -> None:
    """Raise `BadInput` for the first file that is not the one `version` was trained from."""
    found = digests(folder)
    for name in sorted({*recorded, *found}):
        if found.get(name) != recorded.get(name):
            raise BadInput(
                f"{folder / name}: its SHA-256 is {_short(found.get(name))}, and version {version} was trained from "
                f"{_short(recorded.get(name))}; restore the file, or make the whole chain again with --from-base"
            )


def registered(versions: Versions, version: str) -> Path | None:
    """The registered folder, where there still is one: to say what differs."""
    try:
        return versions.weights(version)
    except NotFound:
        return None


def compared(link: Link, folder: Path, original: Path | None) -> Rebuilt:
    """Every file of the folder against the hash recorded of it, and against the registered file where that is at hand."""
    recorded, found = link.lineage.files, digests(folder)
    there = digests(original) if original is not None else recorded
    lines = []
    for name in sorted({*recorded, *found}):
        if name not in found:
            lines.append(f"{name}: was not made again")
        elif name not in recorded:
            lines.append(f"{name}: there was no such file")
        elif found[name] != recorded[name]:
            what = difference(folder / name, original / name) if original and there.get(name) == recorded[name] else ""
            hashes = f"its SHA-256 is {_short(found[name])}, and {_short(recorded[name])} was recorded"
            lines.append(f"{name}: {hashes}{what}")
        elif there.get(name) != recorded[name]:
            lines.append(
                f"{name}: made again as recorded, and {original} holds another or none: restore it from {folder}"
            )
    return Rebuilt(link.version, folder, tuple(sorted({*recorded, *found})), tuple(lines))


def difference(made: Path, original: Path) -> str:
    """Where two files part, in words: of weights how many tensors and how far, of text the line."""
    if made.suffix == ".safetensors":
        one, other = load_file(made), load_file(original)
        if {name: tensor.shape for name, tensor in one.items()} != {
            name: tensor.shape for name, tensor in other.items()
        }:
            return "; other tensors"
        apart = {
            name: float((one[name].double() - other[name].double()).abs().max()) for name in one if one[name].numel()
        }
        moved = [name for name in one if not torch.equal(one[name], other[name])]
        furthest = f" by up to {max(apart[name] for name in moved):.1e}, first {moved[0]}" if moved else ""
        return f"; {len(moved)} of {len(one)} tensors differ{furthest}"
    lines = zip(made.read_bytes().splitlines(), original.read_bytes().splitlines(), strict=False)
    at = next((number for number, (one, other) in enumerate(lines, 1) if one != other), None)
    return f"; from line {at}" if at else "; one is longer"


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Work with as many threads as then, because sums are parted among them."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _short(digest: str | None) -> str:
    return f"{digest[:FIRST_OF_HASH]}…" if digest else "none"
