"""Figures that a page waits for briefly: new when they are quick, the last ones with their age when not, never an error."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from evermoe.errors import StorageUnavailable
from serving.kept import Kept


def with_kept(play: Callable[[Kept[int]], object], lasts: float = 3600.0) -> None:
    with ThreadPoolExecutor(1) as pool:
        asyncio.run(play(Kept(pool, lasts, dearer=0.0)))  # type: ignore[arg-type]


def test_figures_are_made_once_and_kept() -> None:
    made: list[int] = []

    async def play(kept: Kept[int]) -> None:
        for _ in range(3):
            latest = await kept.get("a", lambda: made.append(1) or len(made), 60)  # type: ignore[func-returns-value]
            assert (latest.value, latest.problem) == (1, "")
        assert (await kept.get("b", lambda: 7, 60)).value == 7

    with_kept(play)


def test_slow_figures_are_shown_as_they_were_and_the_new_ones_later() -> None:
    go = threading.Event()

    def slowly() -> int:
        go.wait(60)
        return 2

    async def play(kept: Kept[int]) -> None:
        assert (await kept.get("a", lambda: 1, 60)).value == 1
        assert (await kept.get("a", slowly, 0.01)).value == 1
        go.set()
        assert (await kept.get("a", lambda: 3, 60)).value in (2, 3)

    with_kept(play, lasts=-1.0)


def test_figures_of_another_thing_are_never_shown() -> None:
    go = threading.Event()

    async def play(kept: Kept[int]) -> None:
        assert (await kept.get("a", lambda: (go.wait(60) and 1) or 0, 0.01)).value is None
        assert (await kept.get("b", lambda: 2, 0.01)).value is None
        go.set()
        assert (await kept.get("b", lambda: 2, 60)).value == 2

    with_kept(play)


def test_a_failure_is_told_in_a_line_and_the_last_figures_stay() -> None:
    def fails() -> int:
        raise StorageUnavailable("the disk is full")

    def breaks() -> int:
        raise RuntimeError("a mistake of ours")

    async def play(kept: Kept[int]) -> None:
        assert (await kept.get("a", fails, 60)).problem == "the disk is full"
        assert (await kept.get("a", lambda: 1, 60)).problem == ""
        latest = await kept.get("a", breaks, 60)
        assert (latest.value, "its log has the details" in latest.problem) == (1, True)

    with_kept(play, lasts=-1.0)
