"""What a saved model consists of: size and SHA-256 of each file, so that a cut or changed one is seen. Knows no model."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

from evermoe.errors import BadInput

MANIFEST = "manifest.json"
REMEDY = "restore the folder from where it came"


def write_manifest(folder: Path, files: Iterable[str]) -> None:
    """Record these files of the folder."""
    recorded = {name: _facts(folder / name) for name in sorted(set(files))}
    (folder / MANIFEST).write_text(json.dumps({"files": recorded}, indent=1) + "\n", encoding="utf-8")


def recorded_files(folder: Path) -> frozenset[str]:
    """The files that the manifest names; none where there is no manifest. Raises `BadInput` for one that cannot be read."""
    return frozenset(_recorded(folder))


def verify_manifest(folder: Path) -> None:
    """Raise `BadInput` for the first recorded file that is missing, cut short or changed. Without a manifest all is well."""
    for name, facts in _recorded(folder).items():
        file = folder / name
        if not file.is_file():
            raise BadInput(f"{file} is missing; {REMEDY}")
        size = file.stat().st_size
        if size != facts.get("bytes"):
            raise BadInput(f"{file} has {size:,} bytes, and {facts.get('bytes'):,} were saved; {REMEDY}")
        if _facts(file) != facts:
            raise BadInput(f"{file} is not what was saved (its SHA-256 differs from {MANIFEST}); {REMEDY}")


def _recorded(folder: Path) -> dict[str, dict[str, int | str]]:
    file = folder / MANIFEST
    if not file.exists():
        return {}
    try:
        files = json.loads(file.read_text(encoding="utf-8"))["files"]
        return {
            str(name): {"bytes": int(facts["bytes"]), "sha256": str(facts["sha256"])} for name, facts in files.items()
        }
    except (ValueError, KeyError, TypeError, AttributeError):
        raise BadInput(f"{file} cannot be read; {REMEDY}") from None


def _facts(file: Path) -> dict[str, int | str]:
    with file.open("rb") as opened:
        return {"bytes": file.stat().st_size, "sha256": hashlib.file_digest(opened, "sha256").hexdigest()}
