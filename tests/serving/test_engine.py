"""Versions load, answer and leave without stopping the event loop."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from evermoe.errors import BadInput
from model import LanguageModel, from_pretrained
from model.language import Classification, Generated
from serving.engine import TEXTS_AT_ONCE, Engine, Generation, Overloaded, Sampling


@pytest.fixture
def engine(tiny_model_folder: Path) -> Iterator[Engine]:
    engine = Engine(lambda version: from_pretrained(tiny_model_folder), threads=1, waiting=4)
    yield engine
    engine.close()


def test_a_request_keeps_the_model_it_began_with_after_the_version_is_dropped(engine: Engine) -> None:
    async def scene() -> tuple[str, tuple[str, ...]]:
        await engine.ensure(["1", "2"])
        model = engine.get("1")
        assert model is not None
        engine.keep(["2"])
        answer = await engine.classify(model, "fix the vlan option", None)
        return answer.label, engine.versions

    assert asyncio.run(scene()) == ("net.switch", ("2",))


def test_pieces_of_a_stream_join_to_what_the_model_generates_alone(engine: Engine, tiny_model_folder: Path) -> None:
    alone = from_pretrained(tiny_model_folder)
    assert isinstance(alone, LanguageModel)

    async def scene() -> list[str]:
        await engine.ensure(["1"])
        model = engine.get("1")
        assert model is not None
        generation = engine.generate(model, "fix the", Sampling(12))
        pieces = [piece async for piece in generation]
        assert (generation.text, generation.finish_reason) == ("".join(pieces), "length")
        assert (generation.prompt_tokens, generation.output_tokens) == (len(alone.codec.opening("fix the")), 12)
        return pieces

    pieces = asyncio.run(scene())
    assert len(pieces) > 1
    assert "".join(pieces) == "".join(alone.generate("fix the", max_new_tokens=12))


def test_a_text_that_is_not_streamed_comes_whole_and_wakes_the_event_loop_once(engine: Engine) -> None:
    async def scene() -> tuple[list[str], list[str], int]:
        await engine.ensure(["1"])
        model, loop = engine.get("1"), asyncio.get_running_loop()
        assert model is not None
        streamed = [piece async for piece in engine.generate(model, "fix the", Sampling(12))]
        calls, call = 0, loop.call_soon_threadsafe

        def counted(*what: Any, **how: Any) -> asyncio.Handle:
            nonlocal calls
            calls += 1
            return call(*what, **how)

        loop.call_soon_threadsafe = counted  # type: ignore[method-assign]
        whole = [piece async for piece in engine.generate(model, "fix the", Sampling(12), streamed=False)]
        return streamed, whole, calls

    streamed, whole, calls = asyncio.run(scene())
    assert "".join(streamed) == "".join(whole)
    assert calls == 1


def test_a_stream_left_early_frees_its_worker(engine: Engine) -> None:
    async def scene() -> int:
        await engine.ensure(["1"])
        model = engine.get("1")
        assert model is not None
        generation = engine.generate(model, "fix the", Sampling(100, temperature=1.0, seed=1))
        async for _ in generation:
            break
        generation.leave()
        await engine.classify(model, "fix the vlan option", None)  # the one worker is free again
        return engine.waiting

    assert asyncio.run(scene()) == 0


class Slow:
    """A model whose texts have a piece each 2 ms, and whose labels are there at once; `order` is who was served when."""

    labels = ("net",)

    def __init__(self) -> None:
        self.order: list[str] = []

    def classify(self, texts: Sequence[str], labels: Sequence[str] | None = None) -> list[Classification]:
        self.order.append("label")
        return [Classification("net", {"net": 1.0}, (), 1)]

    def generate(self, prompt: str, *, max_new_tokens: int, **how: Any) -> Generator[str, None, Generated]:
        for _ in range(max_new_tokens):
            time.sleep(0.002)
            self.order.append(prompt)
            yield prompt[:1]
        return Generated(1, max_new_tokens, "length")


@pytest.fixture
def slow() -> Slow:
    return Slow()


@pytest.fixture
def busy(slow: Slow) -> Iterator[Engine]:
    """An engine whose one worker has the slow model."""
    engine = Engine(lambda version: slow)
    yield engine
    engine.close()


async def drained(generation: Generation) -> str:
    return "".join([piece async for piece in generation])


def test_a_label_does_not_wait_for_the_end_of_a_text(slow: Slow, busy: Engine) -> None:
    async def scene() -> int:
        text = busy.generate(slow, "a", Sampling(200))
        async for _ in text:
            break_at = len(slow.order)
            await busy.classify(slow, "fix", None)
            text.leave()
            return slow.order.index("label") - break_at
        raise AssertionError("no piece came")

    assert asyncio.run(scene()) < 30  # of 200 pieces


def test_texts_take_turns_and_as_many_as_there_is_memory_for_have_begun(slow: Slow, busy: Engine) -> None:
    async def scene() -> list[str]:
        long = [
            asyncio.create_task(drained(busy.generate(slow, f"{n} long", Sampling(60)))) for n in range(TEXTS_AT_ONCE)
        ]
        late = asyncio.create_task(drained(busy.generate(slow, "late", Sampling(1))))
        return await asyncio.gather(*long, late)

    texts = asyncio.run(scene())
    assert texts == [*(str(n) * 60 for n in range(TEXTS_AT_ONCE)), "l"]
    first_end = min(len(slow.order) - slow.order[::-1].index(f"{n} long") for n in range(TEXTS_AT_ONCE))
    assert len(set(slow.order[: first_end // 2])) == TEXTS_AT_ONCE  # all of them long before the first has ended
    assert slow.order.index("late") >= first_end
    assert busy.waiting == 0


def test_a_short_text_that_comes_later_ends_sooner(slow: Slow, busy: Engine) -> None:
    async def scene() -> None:
        long = asyncio.create_task(drained(busy.generate(slow, "long", Sampling(100))))
        await asyncio.sleep(0.02)
        assert await drained(busy.generate(slow, "short", Sampling(3), streamed=False)) == "sss"
        assert not long.done()
        await long

    asyncio.run(scene())


def test_short_texts_that_keep_coming_stop_no_long_one(slow: Slow, busy: Engine) -> None:
    async def scene() -> int:
        long = asyncio.create_task(drained(busy.generate(slow, "long", Sampling(40))))
        asked = 0
        while not long.done():
            await asyncio.gather(*(drained(busy.generate(slow, "short", Sampling(1))) for _ in range(3)))
            asked += 3
        return asked

    assert asyncio.run(scene()) < 200  # 40 pieces take eight turns


def test_a_text_that_was_left_before_it_began_is_not_kept(slow: Slow, busy: Engine) -> None:
    async def scene() -> int:
        long = [busy.generate(slow, "long", Sampling(1000)) for _ in range(TEXTS_AT_ONCE)]
        for _ in range(50):
            busy.generate(slow, "left", Sampling(1000)).leave()
        kept = sum(one.prompt == "left" for one in (*busy._new, *busy._going))
        for one in long:
            one.leave()
        return kept

    assert asyncio.run(scene()) == 0


def test_of_a_whole_text_that_was_left_there_is_what_was_made(slow: Slow, busy: Engine) -> None:
    async def scene() -> tuple[str, int, bool]:
        generation = busy.generate(slow, "a", Sampling(1000), streamed=False)
        await asyncio.sleep(0.1)
        generation.leave()
        return generation.text, generation.output_tokens, generation.cut_to_nothing

    text, tokens, cut = asyncio.run(scene())
    assert (text, cut) == ("a" * tokens, False)
    assert tokens > 3


def test_pieces_without_text_wake_nobody() -> None:
    class Silent(Slow):
        def generate(self, prompt: str, *, max_new_tokens: int, **how: Any) -> Generator[str, None, Generated]:
            yield ""
            yield "word"
            yield ""
            return Generated(1, 3, "stop")

    engine = Engine(lambda version: Silent())

    async def scene() -> list[str]:
        return [piece async for piece in engine.generate(Silent(), "a", Sampling(3))]

    assert asyncio.run(scene()) == ["word"]
    engine.close()


def test_the_event_loop_stays_free_while_the_model_works(engine: Engine) -> None:
    async def scene() -> int:
        await engine.ensure(["1"])
        model = engine.get("1")
        assert model is not None
        work = asyncio.create_task(engine.run(lambda: model.classify(["fix the vlan option"] * 512)))
        turns = 0
        while not work.done():
            turns += 1
            await asyncio.sleep(0)
        return turns

    assert asyncio.run(scene()) > 10


def test_more_waiting_requests_than_the_bound_are_refused_and_the_others_answered(engine: Engine) -> None:
    async def scene() -> list[object]:
        await engine.ensure(["1"])
        model = engine.get("1")
        assert model is not None
        gate = threading.Event()  # until it opens, the one worker frees no place
        held = asyncio.create_task(engine.run(gate.wait))
        asked = [asyncio.create_task(engine.classify(model, "fix the vlan option", None)) for _ in range(6)]
        await asyncio.wait(asked, return_when=asyncio.FIRST_COMPLETED)
        gate.set()
        await held
        return await asyncio.gather(*asked, return_exceptions=True)

    outcomes = asyncio.run(scene())
    assert [isinstance(outcome, Overloaded) for outcome in outcomes] == [False] * 3 + [True] * 3
    assert {outcome.label for outcome in outcomes[:3]} == {"net.switch"}  # type: ignore[attr-defined]


def test_a_version_that_cannot_be_loaded_leaves_the_loaded_ones(tiny_model_folder: Path, tmp_path: Path) -> None:
    engine = Engine(lambda version: from_pretrained(tiny_model_folder if version == "1" else tmp_path))

    async def scene() -> None:
        await engine.ensure(["1"])
        await engine.ensure(["1", "2"])

    with pytest.raises(BadInput, match="not a model folder"):
        asyncio.run(scene())
    assert engine.versions == ("1",)
    engine.close()


@pytest.mark.parametrize("cut", [True, False])
def test_only_the_clients_own_stop_string_cuts_a_text_to_nothing(cut: bool) -> None:
    class Blank(Slow):
        def generate(self, prompt: str, *, max_new_tokens: int, **how: Any) -> Generator[str, None, Generated]:
            yield "\n"
            return Generated(1, 1, "stop", cut)

    engine = Engine(lambda version: Blank())

    async def scene() -> bool:
        generation = engine.generate(Blank(), "a", Sampling(4, stop=("User:",)))
        assert await drained(generation) == "\n"
        return generation.cut_to_nothing

    assert asyncio.run(scene()) is cut
    engine.close()
