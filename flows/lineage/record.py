"""Where a version comes from: the snapshots it has learned, and everything else that decided its bytes.

The whole is `lineage.json` beside the version's weights, written before the version exists and never changed; what other parts
of the platform look up is in the version's tags too. `reproduce.py` rebuilds a version from it.
"""

from __future__ import annotations

import hashlib
import json
import platform
import subprocess
from collections.abc import Iterable, Mapping
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, ValidationError

from evermoe.errors import BadInput, NotFound
from evermoe.settings import ROOT, Params
from flows.snapshots.learned import LEARNED
from model import Gate
from registry.snapshots import Snapshots
from registry.tracker.versions import Versions

FILE = "lineage.json"
LIBRARIES = ("evermoe", "torch", "transformers", "tokenizers", "safetensors", "numpy", "scikit-learn")
FIRST_OF_HASH = 12
"""Of a hash, as many characters as people are shown."""


class Part(BaseModel):
    """A part of a lineage. What a newer Evermoe adds to it is passed over."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class Code(Part):
    """What was checked out. `changes` is the SHA-256 of what differed from the commit, None where nothing did."""

    git_commit: str | None
    changes: str | None


class Machine(Part):
    """What decides how floating-point sums are rounded: two machines that agree in all of it give the same bits."""

    architecture: str
    system: str
    processor: str
    capability: str
    threads: int
    accelerator: str | None


class Lineage(Part):
    """All that a version was made from, and what came of it.

    Args:
        period: month, or month up to a day; `base` for the first version.
        parent: version it continues; None for one that was trained from nothing.
        parent_files: SHA-256 of each file of the parent's folder.
        fresh: snapshots it was first to learn, and DVC's md5 of each, in the order of time.
        replay: snapshots its parent had learned, likewise.
        params: params.yaml, whole.
        seeds: by the section of params.yaml.
        teachers: fingerprints of the weights that taught it.
        gates: name, whether it was passed, and why.
        files: SHA-256 of each file of its own folder.
    """

    period: str
    parent: str | None
    parent_files: dict[str, str]
    fresh: dict[str, str]
    replay: dict[str, str]
    params: dict[str, Any]
    seeds: dict[str, int]
    code: Code
    libraries: dict[str, str]
    machine: Machine
    teachers: dict[str, str]
    gates: tuple[dict[str, Any], ...]
    files: dict[str, str]

    @property
    def snapshots(self) -> dict[str, str]:
        """All snapshots it knows, what its parent knew first."""
        return {**self.replay, **self.fresh}


def lineage_of(
    params: Params,
    snapshots: Snapshots,
    *,
    period: str,
    parent: str | None,
    parent_folder: Path | None,
    fresh: Iterable[str],
    replay: Iterable[str],
    teachers: Mapping[str, str],
    gates: Iterable[Gate],
    folder: Path,
) -> Lineage:
    """The lineage of the model in `folder`, made here and now."""
    content = params.model_dump(mode="json")
    return Lineage(
        period=period,
        parent=parent,
        parent_files=digests(parent_folder) if parent_folder else {},
        fresh={name: snapshots.get(name).md5 for name in fresh},
        replay={name: snapshots.get(name).md5 for name in replay},
        params=content,
        seeds={name: section["seed"] for name, section in content.items() if "seed" in section},
        code=code_here(),
        libraries=libraries_here(),
        machine=machine_here(),
        teachers=dict(teachers),
        gates=tuple({"name": gate.name, "passed": gate.passed, "reason": gate.reason} for gate in gates),
        files=digests(folder),
    )


def read_lineage(versions: Versions, version: str) -> Lineage:
    """What was recorded of a version. Raises `NotFound` for a version without, `BadInput` for a record that cannot be read."""
    content = versions.beside(version, FILE)
    if content is None:
        raise NotFound(f"version {version} has no {FILE}: an older Evermoe made it; only later versions can be rebuilt")
    try:
        return Lineage.model_validate_json(content)
    except ValidationError as error:
        where = ".".join(map(str, error.errors()[0]["loc"])) or "all of it"
        raise BadInput(
            f"{FILE} of version {version} cannot be read ({where}); it was changed, or is cut short"
        ) from None


def lineage_tags(lineage: Lineage) -> dict[str, str]:
    """The lineage as tags, for those who look a version up in MLflow; `lineage.json` says more."""
    sections = {name: lineage.params[name] for name in ("model", "base", "update", "gates")}
    return {
        LEARNED: ",".join(lineage.snapshots),
        "evermoe.dvc": json.dumps(lineage.snapshots),
        "evermoe.git_commit": lineage.code.git_commit or "not a checkout",
        "evermoe.git_changes": lineage.code.changes or "none",
        "evermoe.params": json.dumps(sections),
        "evermoe.seeds": json.dumps(lineage.seeds),
        "evermoe.libraries": json.dumps(lineage.libraries),
        "evermoe.machine": lineage.machine.model_dump_json(),
        "evermoe.teachers": json.dumps(lineage.teachers),
        "evermoe.sha256": digest_of(lineage.files),
        **({"evermoe.parent_sha256": digest_of(lineage.parent_files)} if lineage.parent else {}),
    }


def changed_since(lineage: Lineage) -> tuple[str, ...]:
    """What is not here as it was where the version was made, in words; each may change its bytes."""
    code, machine, libraries = code_here(), machine_here(), libraries_here()
    found = []
    if code.git_commit != lineage.code.git_commit:
        found.append(f"git commit {_short(lineage.code.git_commit)} (here {_short(code.git_commit)})")
    elif code.changes != lineage.code.changes:
        found.append(f"git commit {_short(code.git_commit)} with other uncommitted changes")
    for name, there in lineage.libraries.items():
        if (here := libraries.get(name, "none")) != there:
            found.append(f"{name} {there} (here {here})")
    there_machine, here_machine = lineage.machine.model_dump(), machine.model_dump()
    for name in ("architecture", "system", "processor", "capability", "accelerator"):
        if there_machine[name] != here_machine[name]:
            found.append(f"{name} {there_machine[name] or 'none'} (here {here_machine[name] or 'none'})")
    return tuple(found)


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 of each file of a folder, by its path in there."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            with path.open("rb") as opened:
                found[path.relative_to(folder).as_posix()] = hashlib.file_digest(opened, "sha256").hexdigest()
    return found


def digest_of(files: Mapping[str, str]) -> str:
    """One SHA-256 for a folder: of its files' names and digests."""
    return hashlib.sha256(json.dumps(dict(files), sort_keys=True).encode()).hexdigest()


def code_here() -> Code:
    """What is checked out here; nothing outside of a checkout, or without git."""
    commit = (_git("rev-parse", "HEAD") or b"").decode().strip()
    changes = _git("diff", "HEAD", "--no-ext-diff") if commit else None
    return Code(git_commit=commit or None, changes=hashlib.sha256(changes).hexdigest() if changes else None)


def libraries_here() -> dict[str, str]:
    """Python and the libraries that have a say in a model's bytes."""
    found = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = installed(name)
        except PackageNotFoundError:
            continue
    return found


def machine_here() -> Machine:
    """This machine, as this process uses it."""
    return Machine(
        architecture=platform.machine(),
        system=platform.system(),
        processor=_processor(),
        capability=torch.backends.cpu.get_cpu_capability(),
        threads=torch.get_num_threads(),
        accelerator=torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    )


def _processor() -> str:
    """The processor's name; on Linux from /proc, because Python does not know it there."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, "") or platform.processor() or "unknown"


def _git(*arguments: str) -> bytes | None:
    try:
        said = subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, check=False)
    except OSError:
        return None
    return said.stdout if said.returncode == 0 else None


def _short(commit: str | None) -> str:
    return commit[:FIRST_OF_HASH] if commit else "not a checkout"
