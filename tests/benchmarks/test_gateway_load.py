"""The open-loop load: every request is sent when it is due and counted once, and a server that stalls is charged for it."""

from __future__ import annotations

import http.server
import itertools
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from benchmarks.gateway_load import Load, offer

REQUEST = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nhi"
Serve = Callable[[Callable[[int], int]], int]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Starts an HTTP server whose n-th answer has the status that a function of n gives; returns its port."""
    servers = []

    def start(status_of: Callable[[int], int]) -> int:
        numbers = itertools.count()

        class Answer(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["Content-Length"]))
                self.send_response(status_of(next(numbers)))
                self.send_header("Content-Length", "2")
                self.end_headers()
                self.wfile.write(b"ok")

            def log_message(self, *_: object) -> None:
                pass

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return int(server.server_address[1])

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def test_every_request_is_answered_or_counted_as_failed(serve: Serve) -> None:
    port = serve(lambda number: 503 if number % 4 == 0 else 200)
    load = offer(port, REQUEST, rate=100, seconds=1, warm_up=0, seed=1)
    assert 50 < len(load.latencies_ms) + load.failed < 150
    assert load.failed == -(-(len(load.latencies_ms) + load.failed) // 4)


def test_requests_that_wait_behind_a_stall_are_charged_for_it(serve: Serve) -> None:
    gate = threading.Lock()

    def stall(number: int) -> int:
        with gate:  # one at a time, and the tenth takes half a second: the others wait behind it
            time.sleep(0.5 if number == 10 else 0)
        return 200

    load = offer(serve(stall), REQUEST, rate=100, seconds=1, warm_up=0, seed=1)
    assert load.failed == 0
    assert sum(latency > 100 for latency in load.latencies_ms) >= 10  # of about 50 that came meanwhile


def test_a_failed_request_is_slower_than_any() -> None:
    load = Load(tuple(float(number) for number in range(1, 99)), failed=2)
    assert (load.percentile(50), load.percentile(98)) == (50.0, 98.0)
    assert load.percentile(99) == float("inf")
