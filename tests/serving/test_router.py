"""The plan is followed by loading first and switching after; when it cannot be, the last one stands."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from evermoe.errors import NotFound, NotReady, ServiceUnreachable
from model import LanguageModel, from_pretrained
from registry.assignment import Apart, assign
from registry.book.ledger import Plan
from registry.rollout import Challenger
from serving.engine import Engine
from serving.router import Deployment, Router

ALONE = Deployment("1")
ROLLOUT = Deployment("1", Plan("r1", "1", (Challenger("2", "challenger", 0.3),), "salt", 1))
PROMOTED = Deployment("2")


@dataclass
class Source:
    """Where the router reads its plan: what a test puts here, or what it makes fail."""

    plan: Deployment = ALONE
    fault: Exception | None = None
    broken: set[str] = field(default_factory=set)

    def read(self) -> Deployment:
        if self.fault:
            raise self.fault
        return self.plan


@pytest.fixture
def source() -> Source:
    return Source()


@pytest.fixture
def build(source: Source, tiny_model_folder: Path, tmp_path: Path) -> Iterator[Callable[..., Router]]:
    def load(version: str) -> LanguageModel:
        return from_pretrained(tmp_path if version in source.broken else tiny_model_folder)

    engine = Engine(load, threads=1)
    yield lambda **more: Router(source.read, engine, reload_after=0.0, **more)
    engine.close()


def test_without_a_rollout_the_champion_answers_everyone_with_propensity_one(build: Callable[[], Router]) -> None:
    async def scene() -> None:
        router = build()
        await router.refresh()
        route = router.route("evermoe", "ann")
        assert (route.version, route.arm, route.propensity, route.rollout) == ("1", "champion", 1.0, None)

    asyncio.run(scene())


def test_in_a_rollout_units_meet_the_arm_the_assignment_gives_them(build: Callable[[], Router], source: Source) -> None:
    async def scene() -> None:
        source.plan = ROLLOUT
        router = build()
        await router.refresh()
        met = set()
        for unit in map(str, range(200)):
            route = router.route("evermoe", unit)
            assert (route.arm, route.propensity) == assign("salt", unit, {"challenger": 0.3})
            assert route.version == ("2" if route.arm == "challenger" else "1")
            assert route.rollout == "r1"
            met.add(route.arm)
        assert met == {"champion", "challenger"}

    asyncio.run(scene())


def test_a_pinned_version_takes_no_part_in_the_rollout(build: Callable[[], Router], source: Source) -> None:
    async def scene() -> None:
        source.plan = ROLLOUT
        router = build()
        await router.refresh()
        route = router.route("evermoe:2", "ann")
        assert (route.version, route.arm, route.propensity, route.rollout) == ("2", "pinned", 1.0, None)
        for unknown in ("evermoe:3", "gpt-4o", "2", "evermoe:"):
            with pytest.raises(NotFound, match=r"ask for one of evermoe, evermoe:1, evermoe:2$"):
                router.route(unknown, "ann")

    asyncio.run(scene())


def test_units_apart_meet_their_arm_outside_the_rollout(build: Callable[..., Router], source: Source) -> None:
    async def scene() -> None:
        source.plan = ROLLOUT
        router = build(apart=Apart(0.0, {"ann": "challenger", "bob": "champion"}))
        await router.refresh()
        for unit, version in (("ann", "2"), ("bob", "1")):
            route = router.route("evermoe", unit)
            assert (route.version, route.arm, route.propensity, route.rollout) == (version, "apart", 1.0, None)
        assert router.route("evermoe", "eve").rollout == "r1"

    asyncio.run(scene())


def test_a_promotion_switches_all_and_drops_the_old_champion(build: Callable[[], Router], source: Source) -> None:
    async def scene() -> None:
        source.plan = ROLLOUT
        router = build()
        await router.refresh()
        before = router.route("evermoe:1", "ann")
        source.plan = PROMOTED
        await router.refresh()
        assert router.versions == ("2",)
        assert router.route("evermoe", "ann").version == "2"
        assert before.model.classify(["fix the vlan option"])[0].label == "net.switch"

    asyncio.run(scene())


def test_when_the_plan_cannot_be_read_the_last_one_stands_and_the_reason_is_told(
    build: Callable[[], Router], source: Source
) -> None:
    async def scene() -> None:
        router = build()
        await router.refresh()
        source.fault = ServiceUnreachable("MLflow does not answer at http://127.0.0.1:5000; start it")
        await router.refresh()
        assert router.route("evermoe", "ann").version == "1"
        assert router.problem == "MLflow does not answer at http://127.0.0.1:5000; start it"
        source.fault = None
        await router.refresh()
        assert router.problem is None

    asyncio.run(scene())


def test_a_challenger_that_cannot_be_loaded_meets_nobody(build: Callable[[], Router], source: Source) -> None:
    async def scene() -> None:
        source.plan, source.broken = ROLLOUT, {"2"}
        router = build()
        await router.refresh()
        routes = [router.route("evermoe", str(unit)) for unit in range(50)]
        assert {(route.version, route.arm, route.propensity, route.rollout) for route in routes} == {
            ("1", "champion", 1.0, None)
        }
        assert router.problem is not None
        assert router.problem.startswith("version 2 cannot be loaded")
        source.broken = set()
        await router.refresh()
        assert router.versions == ("1", "2")
        assert router.problem is None

    asyncio.run(scene())


def test_a_new_champion_that_cannot_be_loaded_leaves_the_old_one_serving(
    build: Callable[[], Router], source: Source
) -> None:
    async def scene() -> None:
        router = build()
        await router.refresh()
        source.plan, source.broken = PROMOTED, {"2"}
        await router.refresh()
        assert router.route("evermoe", "ann").version == "1"
        assert router.problem is not None
        assert router.problem.endswith("version 1 goes on serving")

    asyncio.run(scene())


def test_before_the_first_plan_requests_are_told_to_wait(build: Callable[[], Router], source: Source) -> None:
    async def scene() -> None:
        source.fault = NotReady("no champion yet; run `evermoe demo`")
        router = build()
        await router.refresh()
        with pytest.raises(NotReady, match="run `evermoe demo`"):
            router.route("evermoe", "ann")

    asyncio.run(scene())
