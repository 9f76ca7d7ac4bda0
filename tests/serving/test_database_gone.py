"""The database stops under load: what needs no write is answered, the rest is refused clearly, and all is well again by itself.

EVERMOE_OUTAGE_SECONDS says how long it is gone.
"""

from __future__ import annotations

import os
import sqlite3
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest
import sqlalchemy as sa

from monitoring.events import EventLog
from registry.book.ledger import Ledger
from registry.rollout import Decision
from serving import gateway
from tests.serving.conftest import Served, wait_for
from tests.serving.proxy import Proxy

OUTAGE = float(os.environ.get("EVERMOE_OUTAGE_SECONDS", "3"))
UNWRITTEN = ("/health", "/ready", "/v1/models", "/metrics", "/")
UNITS = [f"unit-{number}" for number in range(200)]
Start = Callable[..., Served]
pytestmark = pytest.mark.timeout(300 + 10 * OUTAGE)


@dataclass
class Seen:
    """What clients met: the ids they were acknowledged, and every status by path with whether it said when to come again."""

    ids: list[str] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    statuses: Counter[tuple[str, int, bool]] = field(default_factory=Counter)

    def count(self, path: str, status: int) -> int:
        return sum(many for (at, had, _), many in self.statuses.items() if (at, had) == (path, status))


@contextmanager
def under_load(served: Served) -> Iterator[Seen]:
    """Clients that ask, rate and look without a pause, for as long as the block takes."""
    seen, stop = Seen(), threading.Event()

    def note(answer: httpx.Response) -> httpx.Response:
        seen.statuses[answer.request.url.path, answer.status_code, "Retry-After" in answer.headers] += 1
        return answer

    def ask(client: int) -> None:
        with httpx.Client(base_url=served.url, timeout=60) as http:
            while not stop.is_set():
                answer = note(http.post("/v1/classify", json={"input": "fix the vlan option", "user": f"u{client}"}))
                if answer.status_code != 200:
                    continue
                seen.ids.append(answer.json()["id"])
                key = f"key-{seen.ids[-1]}"
                told = note(http.post("/v1/feedback", json={"id": seen.ids[-1], "key": key, "score": 1}))
                if told.status_code == 200:
                    seen.keys.append(key)

    def look() -> None:
        with httpx.Client(base_url=served.url, timeout=60) as http:
            while not stop.wait(0.05):
                for path in UNWRITTEN:
                    note(http.get(path))

    with ThreadPoolExecutor(4) as pool:
        clients = [pool.submit(ask, number) for number in range(3)] + [pool.submit(look)]
        try:
            wait_for(lambda: len(seen.keys) > 10, 60)
            yield seen
        finally:
            stop.set()
            for client in clients:
                client.result()


def was_refused_clearly_and_recovered(served: Served, seen: Seen, url: str) -> None:
    """Nothing but 200 where no write was needed, 503 with Retry-After elsewhere, and each acknowledged row once."""
    assert [key for key in seen.statuses if key[0] in UNWRITTEN and key[1] != 200] == []
    assert {status for _, status, _ in seen.statuses} == {200, 503}
    assert all(again for _, status, again in seen.statuses if status == 503)
    with EventLog(url) as log, log.engine.connect() as connection:
        requests = Counter(connection.scalars(sa.text("SELECT id FROM requests")))
        feedback = Counter(connection.scalars(sa.text("SELECT key FROM feedback")))
    assert [id for id in seen.ids if requests[id] != 1] == []
    assert [key for key in seen.keys if feedback[key] != 1] == []
    assert max(requests.values()) == 1
    assert served.router.problem is None


def goes_on(served: Served, seen: Seen) -> None:
    """Return once requests and feedback are acknowledged again and the gateway has nothing to complain of."""
    acknowledged = len(seen.keys) + 10
    wait_for(lambda: len(seen.keys) > acknowledged and served.router.problem is None, 60)


def arms(served: Served) -> list[str]:
    return [served.router.route("evermoe", unit).arm for unit in UNITS]


def test_a_postgresql_that_stops_is_told_while_every_unit_keeps_its_arm(start: Start, postgres_url: str) -> None:
    address = sa.make_url(postgres_url)
    proxy = Proxy(address.host or "127.0.0.1", address.port or 5432)
    behind = address.set(host="127.0.0.1", port=proxy.port).render_as_string(hide_password=False)
    served = start(database=behind)
    rollout = served.open_rollout(share=0.3)
    before = arms(served)
    with under_load(served) as seen:
        proxy.cut()
        wait_for(lambda: served.router.problem is not None and seen.count("/v1/classify", 503) > 3, 60)
        with Ledger(postgres_url) as ledger:  # another gateway of the same database still reaches it
            ledger.apply(rollout.id, Decision("share", 0.8, "meanwhile"), "ann", datetime.now(UTC))
        told = served.http.get("/ready").json()
        assert (told["ready"], told["share"]) == (True, 0.3)
        assert f"127.0.0.1:{proxy.port}" in told["problem"]
        assert "evermoe_plan_stale 1.0" in served.http.get("/metrics").text
        page = served.http.get("/").text
        assert 'role="alert"' in page
        assert "see that the server runs" in page
        time.sleep(OUTAGE)
        assert arms(served) == before
        proxy.mend()
        wait_for(lambda: served.http.get("/ready").json()["share"] == 0.8, 60)
        goes_on(served, seen)
    assert "evermoe_plan_stale 0.0" in served.http.get("/metrics").text
    was_refused_clearly_and_recovered(served, seen, postgres_url)
    proxy.close()


def test_a_database_that_is_there_and_does_not_answer_is_waited_for_no_longer_than_anyone_would(
    start: Start, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gateway, "CONFIRM_SECONDS", 1.0)
    address = sa.make_url(postgres_url)
    proxy = Proxy(address.host or "127.0.0.1", address.port or 5432)
    served = start(database=address.set(host="127.0.0.1", port=proxy.port).render_as_string(hide_password=False))
    served.open_rollout(share=0.3)
    question = {"input": "fix the vlan option", "user": "ann"}
    assert served.http.post("/v1/classify", json=question).status_code == 200
    proxy.freeze()
    refused = served.http.post("/v1/classify", json=question)
    assert (refused.status_code, "Retry-After" in refused.headers) == (503, True)
    assert "did not confirm within 1 s" in refused.json()["error"]["message"]
    listed = served.http.get("/v1/rollouts", timeout=30)
    assert (listed.status_code, "Retry-After" in listed.headers) == (503, True)
    assert "did not answer within 5 s" in listed.json()["error"]["message"]
    assert {served.http.get(path).status_code for path in ("/health", "/ready", "/metrics", "/v1/models")} == {200}
    page = served.http.get("/", timeout=30)
    assert (page.status_code, "The database did not answer within 5 s" in page.text) == (200, True)
    proxy.thaw()
    wait_for(lambda: served.http.post("/v1/classify", json=question).status_code == 200, 60)
    proxy.close()


def test_an_sqlite_file_that_another_holds_locked_is_told_and_reading_goes_on(start: Start) -> None:
    served = start()
    served.open_rollout(share=0.3)
    url = f"sqlite:///{served.database}"
    with under_load(served) as seen:
        holder = sqlite3.connect(served.database, timeout=60, isolation_level=None, check_same_thread=False)
        holder.execute("BEGIN IMMEDIATE")
        wait_for(lambda: seen.count("/v1/classify", 503) + seen.count("/v1/feedback", 503) > 3, 90)
        time.sleep(OUTAGE)
        holder.execute("ROLLBACK")
        holder.close()
        goes_on(served, seen)
    was_refused_clearly_and_recovered(served, seen, url)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of two megabytes, where root may mount one."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(place)], capture_output=True)
    if mounted.returncode != 0:
        pytest.skip("mounting a small disk takes root")
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


def test_a_disk_that_is_full_is_told_and_all_is_well_when_it_has_room(start: Start, small_disk: Path) -> None:
    url = f"sqlite:///{small_disk / 'events.db'}"
    served = start(database=url)
    served.open_rollout(share=0.3)
    with under_load(served) as seen:
        filler = small_disk / "filler"
        with filler.open("wb") as file:
            try:
                while True:
                    os.write(file.fileno(), b"x" * 4096)
            except OSError:
                pass
        wait_for(lambda: seen.count("/v1/classify", 503) > 3, 60)
        refused = served.http.post("/v1/classify", json={"input": "fix the vlan option"})
        if refused.status_code == 503:  # a page that the log freed itself may still take a row
            assert "disk is full; free some space and try again" in refused.json()["error"]["message"]
        time.sleep(OUTAGE)
        filler.unlink()
        goes_on(served, seen)
    was_refused_clearly_and_recovered(served, seen, url)
