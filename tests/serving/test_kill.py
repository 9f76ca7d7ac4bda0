"""kill -9 under load: what was acknowledged is in the log once, and nothing is there twice."""

from __future__ import annotations

import random
import signal
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest
import sqlalchemy as sa

from tests.serving.conftest import GatewayProcess, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]  # tests/drills/test_kills.py kills fewer, always
CLIENTS = 6
Launch = Callable[[str], GatewayProcess]


@dataclass
class Acknowledged:
    """What clients were told is kept: response ids, feedback keys; and the keys for which they were told it counted."""

    responses: list[str] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    counted: list[str] = field(default_factory=list)


def load(url: str, client: int, stop: threading.Event, acknowledged: Acknowledged) -> None:
    """Ask and rate without a pause until told to stop. Whatever the gateway does not acknowledge is the client's loss; a
    feedback is sent again with its key until it is acknowledged."""
    limits = httpx.Timeout(10, connect=0.2)
    with httpx.Client(base_url=url, timeout=limits) as http:
        number = 0
        while not stop.is_set():
            number += 1
            try:
                response = ask(http, number, f"unit-{client}")
            except httpx.TransportError:
                stop.wait(0.02)
                continue
            if response is None:
                continue
            acknowledged.responses.append(response)
            while not stop.is_set():
                try:
                    receipt = http.post("/v1/feedback", json={"id": response, "key": f"key-{response}", "score": 1})
                except httpx.TransportError:
                    stop.wait(0.02)
                    continue
                assert receipt.status_code == 200, receipt.text
                acknowledged.keys.append(f"key-{response}")
                if receipt.json()["counted"]:
                    acknowledged.counted.append(f"key-{response}")
                break


def ask(http: httpx.Client, number: int, unit: str) -> str | None:
    """One request, every third a stream. Its id once it is acknowledged: by a whole body, or by the end mark of a stream."""
    if number % 3:
        answer = http.post("/v1/classify", json={"input": f"fix the vlan option {number}", "user": unit})
        return str(answer.json()["id"]) if answer.status_code == 200 else None
    body = {"model": "evermoe", "prompt": "fix the", "max_tokens": 4, "stream": True, "user": unit}
    with http.stream("POST", "/v1/completions", json=body) as answer:
        lines = [line for line in answer.iter_lines() if line]
    if not lines or lines[-1] != "data: [DONE]":
        return None
    return lines[0].split('"id":"')[1].split('"')[0]


def kill_and_restart(launch: Launch, rounds: int, database: str, seed: int) -> None:
    generator = random.Random(seed)
    acknowledged, stop = Acknowledged(), threading.Event()
    gateway = launch(database)
    with ThreadPoolExecutor(CLIENTS) as pool:
        clients = [pool.submit(load, gateway.url, client, stop, acknowledged) for client in range(CLIENTS)]
        try:
            for _ in range(rounds):
                # A random number of acknowledgements from now, so the kill falls anywhere in a request's life.
                enough = len(acknowledged.responses) + generator.randint(20, 60)
                wait_for(
                    lambda enough=enough: len(acknowledged.responses) >= enough or any(c.done() for c in clients), 60
                )
                gateway.signal(signal.SIGKILL)
                gateway.wait()
                gateway = launch(database)
            enough = len(acknowledged.keys) + CLIENTS
            reached(acknowledged.keys, enough, clients)
        finally:
            stop.set()
        for client in clients:
            client.result()
    gateway.signal(signal.SIGTERM)
    assert gateway.wait() == 0

    engine = sa.create_engine(database)
    with engine.connect() as connection:
        requests = Counter(connection.scalars(sa.text("SELECT id FROM requests")))
        feedback = Counter(connection.scalars(sa.text("SELECT key FROM feedback")))
        counted = Counter(connection.scalars(sa.text("SELECT response_id FROM feedback WHERE counted")))
    engine.dispose()
    assert len(acknowledged.responses) >= 20 * rounds
    assert [id for id in acknowledged.responses if requests[id] != 1] == []
    assert [key for key in acknowledged.keys if feedback[key] != 1] == []
    assert max(requests.values()) == max(feedback.values()) == max(counted.values()) == 1
    assert set(feedback) <= {f"key-{id}" for id in acknowledged.responses}
    assert len(set(acknowledged.counted)) == len(acknowledged.counted)


def reached(entries: list[str], count: int, clients: list[Future[None]]) -> None:
    """Return once there are so many entries, or a client has ended (it failed; its result will say how)."""
    wait_for(lambda: len(entries) >= count or any(client.done() for client in clients), 60)


def test_ten_kills_lose_nothing_that_was_acknowledged_on_sqlite(launch: Launch, home: Path) -> None:
    kill_and_restart(launch, rounds=10, database=f"sqlite:///{home / 'events.db'}", seed=3)


def test_ten_kills_lose_nothing_that_was_acknowledged_on_postgresql(launch: Launch, postgres_url: str) -> None:
    kill_and_restart(launch, rounds=10, database=postgres_url, seed=4)
