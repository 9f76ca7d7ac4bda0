"""Who works on a thing now: exclusive locks on files, held by a process and let go by the kernel however it ends."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from evermoe.errors import Conflict


@contextmanager
def exclusive(file: Path, taken: str | None = None) -> Iterator[None]:
    """Hold `file`, made where it is not there, until the block ends. Where another holds it: wait, or raise `Conflict(taken)`."""
    with file.open("a") as held:
        try:
            fcntl.flock(held, fcntl.LOCK_EX if taken is None else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Conflict(taken or "") from None
        yield


def taken(file: Path) -> bool:
    """Whether a process holds `file` now. One that was killed holds nothing."""
    try:
        with exclusive(file, f"{file} is held"):
            return False
    except Conflict:
        return True
