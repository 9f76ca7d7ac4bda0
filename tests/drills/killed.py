"""Processes to be killed: real ones, ended by SIGKILL, that start in milliseconds because they fork from one that has imported.

Knows how to start one, how to hear what it says and how to kill it. Does not know what it is for.
"""

from __future__ import annotations

import math
import multiprocessing
import os
import random
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection, wait

_PRELOADED = [
    "model",
    "monitoring.events",
    "registry.book.ledger",
    "serving.app",
    "serving.server",
    "tests.drills.controlling",
]
_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(_PRELOADED)

Say = Callable[[str], None]


def kills(share: float) -> int:
    """How many kills are one drill's, which has this share of the EVERMOE_KILLS in all."""
    return math.ceil(int(os.environ.get("EVERMOE_KILLS", "40")) * share)


class Victim:
    """A process that runs `target(say, *args)`; each line it says is heard, up to the kill and not beyond."""

    def __init__(self, target: Callable[..., None], *args: object) -> None:
        self._heard, saying = _CONTEXT.Pipe(duplex=False)
        self.process = _CONTEXT.Process(target=_run, args=(target, saying, args), daemon=True)
        self.process.start()
        saying.close()

    def hear(self, seconds: float) -> list[str]:
        """The lines that have come, waiting for the first of them for `seconds` at most."""
        lines: list[str] = []
        try:
            while self._heard.poll(0 if lines else seconds):
                lines.append(self._heard.recv_bytes().decode())
        except (EOFError, OSError):
            assert self.process.exitcode in (None, -9), f"a victim ended by itself: {self.process.exitcode}"
        return lines

    def kill(self) -> list[str]:
        """Kill it; what it had said before is returned."""
        self.process.kill()
        self.process.join()
        lines: list[str] = []
        while said := self.hear(0):
            lines += said
        self._heard.close()
        return lines


def at_a_random_moment(draw: random.Random, victims: list[Victim], most_lines: int) -> Iterator[list[str]]:
    """What the victims say until a moment that falls anywhere: some lines from now, and a little later."""
    left = draw.randint(0, most_lines)
    deadline = time.monotonic() + 60
    while left > 0:
        assert time.monotonic() < deadline, "the victims say nothing"
        wait([victim._heard for victim in victims], 1)
        for victim in victims:
            lines = victim.hear(0)
            left -= len(lines)
            yield lines
    time.sleep(draw.uniform(0, 0.02))


def _run(target: Callable[..., None], saying: Connection, args: tuple[object, ...]) -> None:
    target(lambda line: saying.send_bytes(line.encode()), *args)  # short, so one write: lines of threads do not mix
