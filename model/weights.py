"""The tensors of a checkpoint by name: what is there, with which shape, read one at a time. Knows nothing of what they are for.

Only safetensors are read: a pickle runs code when it is opened.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from evermoe.errors import BadInput

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
SHARD = "model-{:05}-of-{:05}.safetensors"
Shape = tuple[int, ...]


class Weights(Protocol):
    """Named tensors, and the shape of each."""

    shapes: dict[str, Shape]

    def read(self, name: str) -> Tensor:
        """One tensor."""
        ...


class HeldWeights:
    """Tensors that are in memory already."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self.tensors = tensors
        self.shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}

    def read(self, name: str) -> Tensor:
        """One tensor."""
        return self.tensors[name]


class FolderWeights:
    """The safetensors of a folder, in one file or in shards with their index.

    Raises `BadInput` for a folder without any, a file that is missing, cut short or no safetensors, an index that names what
    is not there.
    """

    def __init__(self, folder: Path) -> None:
        self._files: dict[str, Any] = {}
        self.shapes: dict[str, Shape] = {}
        for file in shards(folder):
            opened = _opened(file)
            for name in opened.keys():  # noqa: SIM118 - a file of tensors is no dict
                self._files[name] = opened
                self.shapes[name] = tuple(opened.get_slice(name).get_shape())
        _hold_what_the_index_says(folder, self.shapes)

    def read(self, name: str) -> Tensor:
        """One tensor."""
        tensor: Tensor = self._files[name].get_tensor(name)
        return tensor


def shards(folder: Path) -> list[Path]:
    """The safetensors files of a folder. Raises `BadInput` where there are none."""
    if (folder / WEIGHTS).exists():
        return [folder / WEIGHTS]
    if (folder / INDEX).exists():
        return [folder / name for name in sorted(set(_index(folder).values()))]
    pickled = next((file.name for pattern in ("*.bin", "*.pt", "*.pth") for file in folder.glob(pattern)), None)
    instead = f"; {pickled} is a pickle, which is not opened: save it as safetensors" if pickled else ""
    raise BadInput(f"{folder}: no weights, neither {WEIGHTS} nor {INDEX}{instead}")


def _index(folder: Path) -> dict[str, str]:
    try:
        names = json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"]
        return {str(tensor): str(file) for tensor, file in names.items()}
    except (ValueError, KeyError, TypeError, AttributeError):
        raise BadInput(f"{folder / INDEX}: not an index of safetensors; fetch the checkpoint again") from None


def _hold_what_the_index_says(folder: Path, shapes: Mapping[str, Shape]) -> None:
    if (folder / WEIGHTS).exists():
        return
    gone = sorted(set(_index(folder)) - set(shapes))
    if gone:
        raise BadInput(f"{folder / INDEX} names {some(gone)}, which no file holds; fetch the checkpoint again")


def _opened(file: Path) -> Any:
    try:
        return safe_open(file, framework="pt")
    except FileNotFoundError:
        raise BadInput(f"{file} is missing; fetch the checkpoint again") from None
    except (SafetensorError, OSError) as error:
        raise BadInput(f"{file} is cut short or no safetensors ({first_line(error)}); fetch it again") from None


def write_weights(folder: Path, parts: Iterable[tuple[int, Callable[[], dict[str, Tensor]]]], most: int) -> None:
    """Write tensors as one file, or as shards of about `most` bytes with their index, holding one shard's copy at a time.

    `parts` are the size in bytes of some tensors, and what makes them.
    """
    groups: list[list[Callable[[], dict[str, Tensor]]]] = [[]]
    filled = total = 0
    for size, make in parts:
        if filled and filled + size > most:
            groups.append([])
            filled = 0
        groups[-1].append(make)
        filled += size
        total += size
    folder.mkdir(parents=True, exist_ok=True)
    files = [WEIGHTS] if len(groups) == 1 else [SHARD.format(n + 1, len(groups)) for n in range(len(groups))]
    held: dict[str, str] = {}
    for file, group in zip(files, groups, strict=True):
        tensors = {name: tensor for make in group for name, tensor in make().items()}
        save_file(tensors, folder / file, metadata={"format": "pt"})
        held |= dict.fromkeys(tensors, file)
    if len(files) > 1:
        content = {"metadata": {"total_size": total}, "weight_map": dict(sorted(held.items()))}
        (folder / INDEX).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    keep = {INDEX, *files} if len(files) > 1 else set(files)
    for stale in (WEIGHTS, INDEX, *(file.name for file in folder.glob("model-*-of-*.safetensors"))):
        if stale not in keep:
            (folder / stale).unlink(missing_ok=True)


def require_fit(where: Path | str, expected: Mapping[str, Shape], found: Mapping[str, Shape]) -> None:
    """Raise `BadInput` unless exactly the expected tensors are found, each in its shape: nothing is made up or left out."""
    missing, strange = sorted(set(expected) - set(found)), sorted(set(found) - set(expected))
    shaped = sorted(name for name in set(expected) & set(found) if expected[name] != found[name])
    reasons = [f"{what} {some(names)}" for what, names in (("no", missing), ("unknown", strange)) if names]
    if shaped:
        first = shaped[0]
        more = f" and {len(shaped) - 1} more" if len(shaped) > 1 else ""
        reasons.append(f"{first} is {list(found[first])}, not {list(expected[first])}{more}")
    if reasons:
        raise BadInput(f"{where}: the weights do not fit config.json: {'; '.join(reasons)}")


def some(names: Iterable[str]) -> str:
    """The first name, and how many more there are."""
    first, *more = names
    return f"{first} and {len(more)} more" if more else first


def first_line(error: BaseException) -> str:
    """The first line of what an error says, or its name."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
