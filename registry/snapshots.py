"""A month's labelled rows, frozen once, tracked and pushed with DVC inside the home.

Knows rows, files and DVC; not where rows come from, what learns from them, or MLflow. The home is a DVC project of its own
(`dvc init --no-scm`), so it works inside another repository, DVC or Git, that ignores it, and outside of any. Its default
remote is `dvc-remote/` in the home; `dvc remote` in the home points it elsewhere. `dvc push`, `pull` and `status` work there.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from evermoe.errors import BadInput, NotFound, StorageUnavailable
from evermoe.locks import exclusive

if TYPE_CHECKING:
    from dvc.repo import Repo

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_CONFIG = """\
[core]
    no_scm = true
    analytics = false
    autostage = false
    remote = home
['remote "home"']
    url = ../dvc-remote
"""


@dataclass(frozen=True)
class SnapshotRow:
    """One text: who asked, when, and where it came from (a stream, or `response:<id>` for a served request).

    `label` is the right answer where somebody told it. Where somebody only said how an answer was liked, `answer` is that answer
    and `score` the liking, from 0 to 1. A row with neither is a text and no more.
    """

    text: str
    label: str | None
    unit: str | None
    at: datetime
    source: str
    answer: str | None = None
    score: float | None = None


@dataclass(frozen=True)
class Snapshot:
    """A frozen file. `md5` is the one DVC tracks it by, `rows` how many lines it has."""

    name: str
    path: Path
    md5: str
    rows: int


class Snapshots:
    """The snapshots of one home. Safe to use from several processes: one freezes at a time."""

    def __init__(self, home: Path) -> None:
        self.home = home.resolve()
        self.folder = self.home / "snapshots"

    def freeze(self, name: str, rows: Sequence[SnapshotRow]) -> Snapshot:
        """Write, track and push the rows under this name. A snapshot that exists is returned as it is: frozen is frozen.

        A run that died half-way is completed by the next one: only a tracked file counts as a snapshot, and a tracker that a
        full disk cut short tracks nothing. The same rows in any order give the same bytes. Raises `BadInput` for no rows or a
        name no file can have, `StorageUnavailable`.
        """
        path = self._path(name)
        if not rows:
            raise BadInput(f"snapshot {name} would have no rows; a month without labelled records is not frozen")
        with _storage(path), self._alone():
            self._set_broken_trackers_aside()
            with self._repo() as repo:
                if not _tracker(path).exists():
                    write_rows(path, rows)
                    repo.add([str(path)])
                repo.push([str(_tracker(path))])
        return self._snapshot(path)

    def load(self, name: str) -> tuple[SnapshotRow, ...]:
        """The rows of a snapshot, the oldest first; a file that is gone is pulled from the remote.

        Raises `NotFound` for an unknown name, `BadInput` naming the file when it is not what was frozen.
        """
        path = self._path(name)
        snapshot = self._snapshot(path)
        return read_rows(snapshot.path)

    def get(self, name: str) -> Snapshot:
        """What was frozen under this name. Raises as `load` does."""
        return self._snapshot(self._path(name))

    def require(self, name: str, md5: str) -> Snapshot:
        """The snapshot, if it is the one with this hash. Raises as `load` does, and `BadInput` naming the file of any other."""
        found = self.get(name)
        if found.md5 != md5:
            raise BadInput(
                f"{found.path}: frozen anew or changed together with its .dvc: its md5 is {found.md5}, not {md5}"
            )
        return found

    def names(self) -> tuple[str, ...]:
        """All snapshots, in alphabetical order, which for months is the order of time."""
        files = (tracker.with_suffix("") for tracker in self.folder.glob("*.jsonl.dvc"))
        return tuple(sorted(file.name.removesuffix(".jsonl") for file in files if _tracked(file) is not None))

    def _set_broken_trackers_aside(self) -> None:
        """One that a full disk cut short tracks nothing, and DVC refuses to work beside it."""
        for tracker in self.folder.glob("*.jsonl.dvc"):
            if _tracked(tracker.with_suffix("")) is None:
                tracker.replace(tracker.with_name(tracker.name + ".broken"))

    def _path(self, name: str) -> Path:
        if not _NAME.fullmatch(name):
            raise BadInput(f"{name!r} is no name for a snapshot; use letters, digits, '.', '_' and '-'")
        return self.folder / f"{name}.jsonl"

    def _snapshot(self, path: Path) -> Snapshot:
        name = path.name.removesuffix(".jsonl")
        if not _tracker(path).exists():
            raise NotFound(f"no snapshot {name!r} in {self.folder}; there are: {', '.join(self.names()) or 'none'}")
        if (md5 := _tracked(path)) is None:
            raise BadInput(f"{_tracker(path)}: not a DVC file; restore it, or freeze the month again")
        if not path.exists():
            with _storage(path), self._alone(), self._repo() as repo:
                repo.pull([str(_tracker(path))])
        content = path.read_bytes()
        if hashlib.md5(content, usedforsecurity=False).hexdigest() != md5:
            raise BadInput(
                f"{path}: changed since it was frozen (DVC has md5 {md5}); delete it, and it is pulled again"
            )
        return Snapshot(name, path, md5, content.count(b"\n"))

    @contextmanager
    def _alone(self) -> Iterator[None]:
        self.folder.mkdir(parents=True, exist_ok=True)
        with exclusive(self.folder / ".lock"):
            yield

    @contextmanager
    def _repo(self) -> Iterator[Repo]:
        """The home as a DVC project, made on first use. Made by hand: `Repo.init` refuses a project that died half-made."""
        os.environ.setdefault("DVC_NO_ANALYTICS", "1")
        from dvc.repo import Repo  # here, because it costs a third of a second that most commands do not need

        config = self.home / ".dvc" / "config"
        if not config.exists():
            config.parent.mkdir(parents=True, exist_ok=True)
            _write(config, _CONFIG.encode())
        with Repo(str(self.home)) as repo:
            yield repo


def write_rows(path: Path, rows: Sequence[SnapshotRow]) -> None:
    """Write rows as JSONL, all or nothing, the oldest first; the same rows in any order give the same bytes."""
    _write(path, b"".join(sorted(_line(row) for row in rows)))


def read_rows(path: Path) -> tuple[SnapshotRow, ...]:
    """The rows that `write_rows` wrote. Raises `BadInput` naming the file and the line that is none."""
    return tuple(_row(line, path) for line in path.read_bytes().splitlines())


@contextmanager
def _storage(path: Path) -> Iterator[None]:
    """Turn what a disk or DVC says into one line."""
    try:
        yield
    except OSError as error:
        raise StorageUnavailable(f"{path}: {error.strerror or error}; nothing was frozen, try again") from None
    except Exception as error:
        if type(error).__module__.partition(".")[0] not in ("dvc", "dvc_data", "dvc_objects", "scmrepo"):
            raise
        raise StorageUnavailable(f"{path}: DVC says: {str(error).splitlines()[0]}") from None


def _write(path: Path, content: bytes) -> None:
    """All of it or nothing, and on disk before the name points to it."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with draft.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def _line(row: SnapshotRow) -> bytes:
    if row.at.tzinfo is None:
        raise ValueError(f"{row.at} has no time zone")
    at = row.at.astimezone(UTC).isoformat(timespec="microseconds")
    content: dict[str, str | float | None] = {
        "at": at,
        "text": row.text,
        "label": row.label,
        "unit": row.unit,
        "source": row.source,
    }
    if row.score is not None:
        content |= {"answer": row.answer, "score": row.score}
    try:
        return json.dumps(content, ensure_ascii=False).encode() + b"\n"
    except UnicodeEncodeError:  # half of a surrogate pair: only an escape can hold it
        return json.dumps(content).encode() + b"\n"


def _row(line: bytes, path: Path) -> SnapshotRow:
    try:
        content = json.loads(line)
        return SnapshotRow(**content | {"at": datetime.fromisoformat(content["at"])})
    except (ValueError, TypeError, KeyError):
        raise BadInput(f"{path}: a line that is no snapshot row: {line[:80]!r}") from None


def _tracked(path: Path) -> str | None:
    """The md5 by which DVC tracks the file, or None where no tracker can be read."""
    try:
        out = yaml.safe_load(_tracker(path).read_text(encoding="utf-8"))["outs"][0]
        return str(out["md5"]) if out["path"] == path.name else None  # the path is the last that DVC writes
    except (FileNotFoundError, yaml.YAMLError, UnicodeDecodeError, KeyError, IndexError, TypeError):
        return None


def _tracker(path: Path) -> Path:
    """The small file by which DVC knows the large one."""
    return path.with_name(path.name + ".dvc")
