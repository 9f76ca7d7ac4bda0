"""What the gateway costs: picking an arm, and each request, with every row durable before its answer is sent.

    python -m benchmarks.gateway [--quick] [--postgres URL] [--rival PYTHON] [--json]

Requests come open-loop at 50, 200 and 1,000 a second (`benchmarks/gateway_load.py`). Every repeat asks each server in turn,
in an order of its own, for a chat completion that is ready at once; what a server *adds* is its percentile less that of the
bare HTTP server in the same repeat. Told are the median over the repeats and the range. `--rival` names the Python of an
environment that has `litellm[proxy]`; without it, and without `--postgres` or EVERMOE_TEST_POSTGRES_URL, those rows are left
out. `benchmarks/gateway_targets.py` says what each server is.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import socket
import sys
import tempfile
import threading
import time
import timeit
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from queue import SimpleQueue
from statistics import median

import sqlalchemy as sa

from benchmarks.gateway_load import Load, offer
from benchmarks.gateway_targets import Target, echo_command, gateway_command, litellm_command, running
from evermoe.quiet import silence
from monitoring.database import connect, writing
from registry.assignment import CHALLENGER, assign

SECONDS = {50: 10.0, 200: 5.0, 1000: 4.0}
"""How long each rate is offered, in one repeat to one server."""
WARM_UP = 1.0
BARE = "bare HTTP server"


@dataclass(frozen=True)
class Spread:
    """A figure over the repeats."""

    median: float
    least: float
    most: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        return cls(median(values), min(values), max(values))

    def __str__(self) -> str:
        return f"{self.median:8.2f} ({self.least:.2f} to {self.most:.2f})"


@dataclass(frozen=True)
class Row:
    """One server at one rate, in milliseconds: what its clients saw, how much of that the bare server did not need, and how
    long its process kept a processor for each request, which other work on the machine changes least."""

    server: str
    rate: int
    p50_ms: Spread
    p99_ms: Spread
    added_p50_ms: Spread
    added_p99_ms: Spread
    ratio_p50: Spread
    processor_ms: Spread
    failed: int


@dataclass(frozen=True)
class Measured:
    """One load on one server, and the processor's time for each of its requests."""

    load: Load
    processor_ms: float


@dataclass(frozen=True)
class Result:
    """The whole benchmark."""

    assign_us: Spread
    commit_p50_ms: Spread
    commit_p99_ms: Spread
    handover_p50_ms: Spread
    handover_p99_ms: Spread
    repeats: int
    rows: tuple[Row, ...]


def assignment_us(calls: int = 100_000, repeats: int = 7) -> Spread:
    """Microseconds of the processor for the arm of a unit, as each request picks it."""
    units, shares = [f"unit-{number}" for number in range(1000)], {CHALLENGER: 0.25}

    def pick() -> None:
        for unit in units:
            assign("a salt of a rollout", unit, shares)

    rounds = calls // len(units)
    return Spread.of(
        [took / calls * 1e6 for took in timeit.repeat(pick, timer=time.thread_time, number=rounds, repeat=repeats)]
    )


def commit_ms(folder: Path, commits: int = 500, repeats: int = 5) -> tuple[Spread, Spread]:
    """Milliseconds for one durable commit of one row on this disk, 50th and 99th percentile: the least that a logged answer can
    cost, one after the other with nobody beside it."""
    engine = connect(f"sqlite:///{folder / 'commit.db'}")
    with writing(engine) as connection:
        connection.execute(sa.text("CREATE TABLE rows (value TEXT)"))

    def commit() -> float:
        with engine.connect().execution_options(evermoe_writes=True) as connection:
            transaction = connection.begin()
            connection.execute(sa.text("INSERT INTO rows VALUES (:value)"), {"value": "x" * 500})
            began = time.perf_counter()
            transaction.commit()
            return (time.perf_counter() - began) * 1000

    found = percentiles(commit, commits, repeats)
    engine.dispose()
    return found


def handover_ms(times: int = 300, repeats: int = 5, pause: float = 1 / 200) -> tuple[Spread, Spread]:
    """Milliseconds to hand something to a thread that sleeps and to have it back, 50th and 99th percentile, at 200 a second with
    nothing else to do. A request needs two: the model's thread and the log's."""
    there, back = SimpleQueue[bool](), SimpleQueue[bool]()

    def answer() -> None:
        while there.get():
            back.put(True)

    def handover() -> float:
        time.sleep(pause)
        began = time.perf_counter()
        there.put(True)
        back.get()
        return (time.perf_counter() - began) * 1000

    thread = threading.Thread(target=answer)
    thread.start()
    found = percentiles(handover, times, repeats)
    there.put(False)
    thread.join()
    return found


def percentiles(one: Callable[[], float], times: int, repeats: int) -> tuple[Spread, Spread]:
    """The 50th and the 99th of what `one` gives so many times, over the repeats."""
    ranked = [sorted(one() for _ in range(times)) for _ in range(repeats)]
    return Spread.of([median(took) for took in ranked]), Spread.of([took[times * 99 // 100] for took in ranked])


@contextmanager
def schema_of(server: str) -> Iterator[str]:
    """The address of a new, empty schema, dropped afterwards."""
    address = sa.make_url(server).set(drivername="postgresql+psycopg")
    name = f"bench_{uuid.uuid4().hex}"
    engine = sa.create_engine(address, isolation_level="AUTOCOMMIT")
    with engine.connect() as database:
        database.execute(sa.text(f"CREATE SCHEMA {name}"))
    try:
        yield address.update_query_dict({"options": f"-csearch_path={name}"}).render_as_string(hide_password=False)
    finally:
        with engine.connect() as database:
            database.execute(sa.text(f"DROP SCHEMA {name} CASCADE"))
        engine.dispose()


def free_port() -> int:
    """A port that nobody listens on at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def start_all(stack: ExitStack, folder: Path, postgres: str | None, rival: Path | None) -> list[Target]:
    """Every server that can be had here, the bare one first."""
    port = free_port()
    bare = stack.enter_context(running(BARE, port, "echo", folder, echo_command(port)))
    targets, urls = [bare], {"gateway, SQLite": f"sqlite:///{folder / 'events.db'}"}
    if postgres:
        urls["gateway, PostgreSQL"] = stack.enter_context(schema_of(postgres))
    for number, (name, url) in enumerate(urls.items()):
        port, place = free_port(), folder / f"gateway-{number}"
        place.mkdir()
        command = gateway_command(port, url, place)
        targets.append(stack.enter_context(running(name, port, "evermoe", folder, command)))
    if rival:
        port = free_port()
        command = litellm_command(rival, port, bare.port, folder)
        targets.append(stack.enter_context(running("LiteLLM's proxy, no log", port, "echo", folder, command)))
    return targets


def measure(targets: Sequence[Target], repeats: int, seconds: dict[int, float]) -> tuple[Row, ...]:
    """Offer every rate to every server, again and again."""
    loads: dict[tuple[str, int], list[Measured]] = {}
    draw = random.Random(1)
    for repeat in range(repeats):
        for rate, lasting in seconds.items():
            for target in draw.sample(list(targets), len(targets)):
                before = target.processor_seconds()
                load = offer(
                    target.port,
                    target.request,
                    rate=rate,
                    seconds=lasting,
                    warm_up=WARM_UP,
                    seed=repeat * 10_000 + rate,
                )
                used = (target.processor_seconds() - before) / (rate * (lasting + WARM_UP)) * 1000
                loads.setdefault((target.name, rate), []).append(Measured(load, used))
                print(
                    f"repeat {repeat + 1}/{repeats}  {rate:>5}/s  {target.name:<24}"
                    f" p50 {load.percentile(50):7.2f} ms  p99 {load.percentile(99):7.2f} ms  failed {load.failed}",
                    file=sys.stderr,
                )
    return tuple(row_of(target.name, rate, loads) for rate in seconds for target in targets)


def row_of(server: str, rate: int, loads: dict[tuple[str, int], list[Measured]]) -> Row:
    """The figures of one server at one rate, each repeat against the bare server's of that repeat."""
    mine, bare = ([one.load for one in loads[name, rate]] for name in (server, BARE))
    ours = {percent: [load.percentile(percent) for load in mine] for percent in (50, 99)}
    theirs = {percent: [load.percentile(percent) for load in bare] for percent in (50, 99)}

    def added(percent: int) -> Spread:
        return Spread.of([one - other for one, other in zip(ours[percent], theirs[percent], strict=True)])

    return Row(
        server=server,
        rate=rate,
        p50_ms=Spread.of(ours[50]),
        p99_ms=Spread.of(ours[99]),
        added_p50_ms=added(50),
        added_p99_ms=added(99),
        ratio_p50=Spread.of([one / other for one, other in zip(ours[50], theirs[50], strict=True)]),
        processor_ms=Spread.of([one.processor_ms for one in loads[server, rate]]),
        failed=sum(load.failed for load in mine),
    )


def show(result: Result) -> None:
    """The table."""
    print(
        f"picking an arm: {result.assign_us} µs; one durable SQLite commit: "
        f"p50 {result.commit_p50_ms} ms, p99 {result.commit_p99_ms} ms\n"
        f"to a thread that sleeps and back, of which a request needs two: p50 {result.handover_p50_ms} ms, "
        f"p99 {result.handover_p99_ms} ms"
    )
    print(
        f"{'a second':>8}  {'server':<25}{'p50 added, ms':>26}{'p99 added, ms':>28}{'p99 seen, ms':>28}"
        f"{'processor, ms':>26}  failed"
    )
    for row in result.rows:
        print(
            f"{row.rate:>8}  {row.server:<25}{row.added_p50_ms!s:>26}{row.added_p99_ms!s:>28}{row.p99_ms!s:>28}"
            f"{row.processor_ms!s:>26}{row.failed:>8}"
        )


def main() -> None:
    """Measure and tell."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="two repeats of a second each: does it run, not how fast")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--postgres", default=os.environ.get("EVERMOE_TEST_POSTGRES_URL"), help="a server to log to")
    parser.add_argument("--rival", type=Path, help="the Python of an environment that has litellm[proxy]")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    if options.repeats < 1:
        parser.error(f"--repeats {options.repeats}: give 1 or more")
    if options.rival and not (options.rival.parent / "litellm").is_file():
        parser.error(
            f"--rival {options.rival}: there is no litellm beside it; install litellm[proxy] into an environment"
        )
    silence()
    repeats, seconds = (2, dict.fromkeys(SECONDS, 1.0)) if options.quick else (options.repeats, SECONDS)
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        spared = 10_000 if options.quick else 100_000
        assigning, committing = assignment_us(spared), commit_ms(folder, 20 if options.quick else 500)
        handing = handover_ms(20 if options.quick else 300)
        targets = start_all(stack, folder, options.postgres, options.rival)
        result = Result(assigning, *committing, *handing, repeats, measure(targets, repeats, seconds))
    if options.json:  # JSON has no infinity: a percentile of requests that were not answered is null
        print(json.dumps(json.loads(json.dumps(asdict(result)), parse_constant=lambda _: None)))
    else:
        show(result)


if __name__ == "__main__":
    main()
