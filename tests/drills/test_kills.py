"""kill -9 at random moments of the log's writer, of controllers and of gateways: nothing acknowledged is lost or there twice,
the audit's chain holds, one controller steers, and no unit meets a share that nobody decided.

EVERMOE_KILLS says how many kills there are in all, over the six drills; each is a real SIGKILL of a real process.
"""

from __future__ import annotations

import random
import signal
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest
from sqlalchemy import select

from benchmarks.gateway_targets import serve_gateway
from monitoring.events import Counts, EventLog
from monitoring.schema import feedback, requests
from registry.book.ledger import Ledger
from registry.rollout import Decision, Policy, Rollout, new_rollout
from tests.drills.appending import append_for_ever
from tests.drills.controlling import steer_for_ever
from tests.drills.killed import Say, Victim, at_a_random_moment, kills
from tests.monitoring.rows_for_tests import a_feedback, a_request
from tests.serving.conftest import wait_for
from tests.serving.test_kill import kill_and_restart

pytestmark = pytest.mark.timeout(7200)
SEED = 5
WRITERS = CONTROLLERS = 0.225
GATEWAYS = 0.05
"""Each drill's share of the kills, on one database; a gateway takes longest to start."""


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database of each kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'events.db'}"
    address: str = request.getfixturevalue("postgres_url")
    return address


def test_a_killed_writer_loses_no_acknowledged_row_and_repeats_none(url: str) -> None:
    draw = random.Random(SEED)
    said: dict[str, set[str]] = {"?": set(), "!": set()}

    def note(lines: list[str]) -> None:
        for line in lines:
            said[line[0]].add(line[2:])

    for number in range(kills(WRITERS)):
        victim = Victim(append_for_ever, url, f"run{number}")
        for lines in at_a_random_moment(draw, [victim], 200):
            note(lines)
        note(victim.kill())
    tried, acknowledged = said["?"], said["!"]
    assert len(acknowledged) >= kills(WRITERS)
    with EventLog(url) as log:
        with log.engine.connect() as connection:
            stored = list(connection.scalars(select(requests.c.id)))
            answered = list(connection.scalars(select(feedback.c.response_id).where(feedback.c.counted)))
        assert acknowledged <= set(stored) <= tried
        assert acknowledged <= set(answered) <= tried
        assert (len(stored), len(answered)) == (len(set(stored)), len(set(answered)))
        for identifier in tried - acknowledged:  # their clients never heard back, and try again
            log.record(a_request(identifier))
            log.record(a_feedback(f"k-{identifier}", identifier))
        assert log.counts() == Counts(requests=len(tried), feedback=len(tried))
        assert len(log.rewards("2025-06")) == len(tried)


def test_of_controllers_that_race_and_die_one_steers_at_a_time(url: str) -> None:
    draw = random.Random(SEED)
    said: list[list[str]] = []
    with Ledger(url) as ledger, ExitStack() as stack:
        ledger.open(june(), by="monthly")
        seen = stack.enter_context(watching(ledger))
        victims = [Victim(steer_for_ever, url, f"c{number}", number) for number in range(2)]
        for number in range(kills(CONTROLLERS)):
            for lines in at_a_random_moment(draw, victims, 40):
                said += [line.split() for line in lines]
            which = draw.randrange(2)
            said += [line.split() for line in victims[which].kill()]
            victims[which] = Victim(steer_for_ever, url, f"c{number + 2}", number + 2)
        for victim in victims:
            said += [line.split() for line in victim.kill()]
        rows = ledger.history("june")[1:]
        assert ledger.verify().ok
        assert ledger.get("june").share == rows[-1].share
        assert ledger.get("june").revision == len(rows)
    tokens = [int(row.reason) for row in rows]
    assert tokens == sorted(set(tokens))  # who once lost the lease has never written after
    tried = {(int(words[1]), float(words[2])) for words in said if words[0] == "try"}
    done = {(int(words[1]), float(words[2])) for words in said if words[0] == "done"}
    fenced = {int(words[1]) for words in said if words[0] == "fenced"}
    assert done <= {(int(row.reason), row.share) for row in rows} <= tried
    assert fenced.isdisjoint(tokens)
    assert len({row.by for row in rows}) > 1
    assert seen <= {0.05} | {share for _, share in tried}


def test_killed_gateways_keep_what_they_acknowledged_and_route_as_it_was_decided(url: str, tmp_path: Path) -> None:
    decided = {0.5}
    with Ledger(url) as ledger, ExitStack() as stack, socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        probe.close()

        def launch(database: str) -> Gateway:
            gateway = Gateway(port, database, tmp_path)
            stack.callback(gateway.victim.process.kill)
            share = round(0.05 + len(decided) % 90 / 100, 2)  # and a person sets another share meanwhile
            decided.add(share)
            ledger.apply("bench", Decision("share", share, "a drill"), "ann", datetime.now(UTC))
            return gateway

        kill_and_restart(launch, rounds=kills(GATEWAYS), database=url, seed=SEED)
        assert ledger.verify().ok
    with EventLog(url) as log, log.engine.connect() as connection:
        met = connection.execute(select(requests.c.arm, requests.c.propensity).distinct()).all()
    shares = {round(row.propensity if row.arm == "challenger" else 1 - row.propensity, 9) for row in met}
    assert shares <= decided
    assert len(met) > 2


class Gateway:
    """A gateway with a model that answers at once, in the middle of a rollout, to be killed."""

    def __init__(self, port: int, database: str, home: Path) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.victim = Victim(serve, port, database, str(home))
        wait_for(self._ready, 90)

    def signal(self, number: int) -> None:
        """End it, at once or in order."""
        if number == signal.SIGKILL:
            self.victim.kill()
        else:
            self.victim.process.terminate()

    def wait(self) -> int | None:
        """Its exit status."""
        self.victim.process.join(60)
        return self.victim.process.exitcode

    def _ready(self) -> bool:
        assert self.victim.process.exitcode is None, "the gateway ended by itself"
        try:
            return httpx.get(f"{self.url}/ready", timeout=5).status_code == 200
        except httpx.TransportError:
            return False


def serve(_: Say, port: int, database: str, home: str) -> None:
    """The gateway of the benchmark, which is `evermoe serve` with another model."""
    serve_gateway(port, database, home)


def june() -> Rollout:
    return new_rollout("june", "2025-06", "1", "2", "salt-june", Policy(), datetime.now(UTC))


@contextmanager
def watching(ledger: Ledger) -> Iterator[set[float]]:
    """The shares that a gateway would follow, as long as the block takes."""
    seen, stop = set[float](), threading.Event()

    def watch() -> None:
        while not stop.wait(0.005):
            plan = ledger.plan()
            assert plan is not None
            seen.add(plan.share)

    with ThreadPoolExecutor(1) as pool:
        watched = pool.submit(watch)
        try:
            yield seen
        finally:
            stop.set()
            watched.result()
