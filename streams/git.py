"""The history of a git repository as records: a commit's subject, and the first directory it changed as the label.

Asks the `git` binary and nothing else; never writes to the repository, and does not know what a diff says.
"""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from evermoe.errors import BadInput
from evermoe.words import as_name
from streams.dates import PLAUSIBLE_YEARS
from streams.record import MAX_TEXT, LoadedStream, Record

ROOT_LABEL = "(root)"
FIELDS = ("%H", "%at", "%aE", "%s")
# Set by a hook or another git that runs us; each would make git read another repository than the path we were given.
OUTRANKS_PATH = {
    "GIT_DIR",
    "GIT_WORK_TREE",
    "GIT_INDEX_FILE",
    "GIT_OBJECT_DIRECTORY",
    "GIT_COMMON_DIR",
    "GIT_NAMESPACE",
}


# What a partial clone left behind is not fetched (git 2.45 and later), and nobody is asked for a password.
ALONE = {"LC_ALL": "C", "GIT_NO_LAZY_FETCH": "1", "GIT_TERMINAL_PROMPT": "0"}
SUBMODULE = "160000"


@dataclass(frozen=True)
class Commit:
    """One entry of the log, as git gives it."""

    id: str
    author_seconds: str
    email: str
    subject: str
    paths: tuple[str, ...]


def open_git(repository: Path) -> LoadedStream:
    """Every commit reachable from HEAD but merges. Raises `BadInput` when there is no such history to read.

    at = author date; label = first directory changed, `(root)` when only files at the root did, None when no file did;
    unit = hash of the author's address (after .mailmap).
    """
    if not repository.is_dir():
        raise BadInput(f"{repository}: not a directory; --path must name a git repository")
    _git(repository, "rev-parse", "--git-dir")
    try:
        head = _git(repository, "rev-parse", "--verify", "--quiet", "HEAD^{commit}").decode().strip()
    except BadInput:
        raise BadInput(f"{repository}: the git repository has no commits yet") from None
    records: list[Record] = []
    left_out: Counter[str] = Counter()
    cut_off = _edge_of_shallow(repository)
    for commit in _log(repository, head):
        try:
            at = datetime.fromtimestamp(int(commit.author_seconds), UTC)
        except (ValueError, OverflowError, OSError):
            left_out["commit without a readable date"] += 1
            continue
        if at.year not in PLAUSIBLE_YEARS:
            left_out["commit without a plausible date"] += 1
            continue
        if not commit.subject.strip():
            left_out["commit without a subject"] += 1
            continue
        if len(commit.subject) > MAX_TEXT:
            left_out[f"commit with a subject of more than {MAX_TEXT:,} characters"] += 1
            continue
        if commit.id in cut_off:
            left_out["commit at the edge of a shallow clone, which seems to change everything"] += 1
            continue
        unit = hashlib.sha256(commit.email.lower().encode()).hexdigest()[:16] if commit.email else None
        records.append(Record(at, commit.subject, _label(commit.paths), unit, "git"))
    if not records:
        raise BadInput(f"{repository}: the git repository has no commit with a subject and a date")
    return LoadedStream("git", head, tuple(records), left_out=dict(left_out))


def _label(paths: tuple[str, ...]) -> str | None:
    directories = (as_name(path.split("/", 1)[0]) for path in paths if "/" in path)
    return next(filter(None, directories), ROOT_LABEL if paths else None)


def _edge_of_shallow(repository: Path) -> frozenset[str]:
    """The commits whose parents a shallow clone left behind: git compares them with nothing."""
    file = repository / _git(repository, "rev-parse", "--git-path", "shallow").decode().rstrip("\n")
    return frozenset(file.read_text().split()) if file.is_file() else frozenset()


def _log(repository: Path, head: str) -> Iterator[Commit]:
    """Commits, oldest first.

    With -z and --raw the output is a flat run of NUL-ended fields: those of FIELDS, then for each file changed one that opens
    with ':' (modes and hashes) and its path. A commit id never opens with ':', so neither a subject nor a path, whatever
    characters it holds, can be mistaken for the start of the next commit.
    """
    output = _git(
        repository,
        *("-c", "log.showRoot=true", "-c", "diff.orderFile=/dev/null", "-c", "diff.relative=false"),
        *(
            "log",
            head,
            "--reverse",
            "--no-merges",
            "--no-show-signature",
            "--encoding=UTF-8",
            "--raw",
            "--no-renames",
            "--ignore-submodules=none",
            "-z",
        ),
        *("--no-color", "--no-ext-diff", f"--format={'%x00'.join(FIELDS)}"),
    )
    fields = [part.decode("utf-8", "replace") for part in output.split(b"\0")]
    start = 0
    while start + len(FIELDS) <= len(fields):
        commit, seconds, email, subject = fields[start : start + len(FIELDS)]
        if not re.fullmatch(r"[0-9a-f]{40,64}", commit):
            raise BadInput(f"{repository}: git log answered in a form this version does not know; update git")
        start += len(FIELDS)
        paths = []
        while start + 1 < len(fields) and fields[start].lstrip("\n").startswith(
            ":"
        ):  # git puts one newline before the first
            is_submodule = SUBMODULE in fields[start].lstrip("\n:").split()[:2]
            paths.append(fields[start + 1] + "/" * is_submodule)
            start += 2
        yield Commit(commit, seconds, email, subject, tuple(paths))


def _git(repository: Path, *arguments: str) -> bytes:
    environment = {name: value for name, value in os.environ.items() if name not in OUTRANKS_PATH} | ALONE
    try:
        done = subprocess.run(
            ["git", "-C", str(repository), *arguments],
            capture_output=True,
            env=environment,
            stdin=subprocess.DEVNULL,
            check=False,
        )
    except FileNotFoundError:
        raise BadInput("git is not installed, and the git stream needs it; install git or use --stream files") from None
    except OSError as error:
        raise BadInput(f"git cannot be run: {error.strerror}") from None
    if done.returncode != 0:
        said = done.stderr.decode("utf-8", "replace").strip().splitlines()
        raise BadInput(f"{repository}: {said[0] if said else 'git failed'}")
    return done.stdout
