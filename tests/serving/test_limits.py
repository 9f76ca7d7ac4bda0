"""What one caller may ask in a while, and what the next one still may."""

from __future__ import annotations

from collections.abc import Callable

import httpx
from hypothesis import given
from hypothesis import strategies as st

from commands.serve import limits_of
from evermoe.settings import PUBLIC_RATE, Settings
from serving.limits import MOST_CALLERS, Limits
from serving.server import listen
from tests.serving.conftest import Served


def test_a_burst_is_let_through_and_then_one_in_each_interval() -> None:
    limits = Limits(per_second=2, burst=3)
    assert [limits.wait("ann", 10.0) for _ in range(3)] == [0, 0, 0]
    assert limits.wait("ann", 10.0) == 0.5
    assert limits.wait("ann", 10.4) > 0
    assert limits.wait("ann", 10.5) == 0
    assert limits.wait("ann", 10.5) == 0.5
    assert limits.wait("bob", 10.5) == 0


@given(
    st.floats(0.1, 100),
    st.integers(1, 20),
    st.lists(st.floats(0, 1), min_size=1, max_size=200),
)
def test_no_timing_gets_more_than_the_burst_and_the_rate(rate: float, burst: int, gaps: list[float]) -> None:
    limits, now, taken = Limits(rate, burst), 100.0, []
    for gap in gaps:
        now += gap
        wait = limits.wait("ann", now)
        if wait == 0:
            taken.append(now)
        else:
            assert wait <= 1 / rate + 1e-6
            assert Limits(rate, burst, limits._full_at.copy()).wait("ann", now + wait) == 0  # as it was told
    for first in range(len(taken)):
        for last in range(first, len(taken)):
            assert last - first + 1 <= burst + rate * (taken[last] - taken[first]) + 1e-6


def test_callers_without_number_take_memory_with_a_bound() -> None:
    limits = Limits(1, 1)
    for number in range(MOST_CALLERS + 50):
        limits.wait(f"address {number}", 0.0)
    assert len(limits._full_at) == MOST_CALLERS
    assert limits.wait(f"address {MOST_CALLERS}", 0.0) > 0


def test_a_key_beyond_its_limit_is_told_when_to_come_again_and_others_are_answered(
    start: Callable[..., Served],
) -> None:
    served = start(limits=Limits(0.5, 3))
    client, reviewer = served.as_("client", "reviewer")
    answers = [client.get("/v1/models") for _ in range(4)]
    assert [answer.status_code for answer in answers] == [200, 200, 200, 429]
    assert answers[-1].headers["retry-after"] in ("1", "2")
    assert answers[-1].json()["error"]["code"] == "rate_limit_exceeded"
    assert reviewer.get("/v1/models").status_code == 200
    assert served.http.get("/health").status_code == 200


def test_who_shows_no_key_or_a_wrong_one_is_limited_by_address(start: Callable[..., Served]) -> None:
    served = start(limits=Limits(0.01, 4))
    [client] = served.as_("client")
    wrong = [httpx.get(f"{served.url}/v1/models", headers={"Authorization": f"Bearer {n}"}) for n in range(2)]
    bare = [served.http.get("/v1/models"), served.http.post("/login", data={"key": "x"})]
    assert [answer.status_code for answer in wrong + bare] == [401] * 4
    assert served.http.get("/v1/models").status_code == 429
    assert served.http.post("/login", data={"key": "x"}).status_code == 429
    assert client.get("/v1/models").status_code == 200


def test_an_open_gateway_limits_each_address(start: Callable[..., Served]) -> None:
    served = start(limits=Limits(0.01, 2))
    assert [served.http.get("/v1/models").status_code for _ in range(3)] == [200, 200, 429]
    assert served.http.get("/ready").status_code == 200


def test_there_is_no_limit_on_loopback_unless_it_is_asked_for() -> None:
    with listen("127.0.0.1", 0) as here, listen("0.0.0.0", 0) as everywhere:
        assert limits_of(Settings(), here) is None
        assert limits_of(Settings(), everywhere) == Limits(PUBLIC_RATE, 100)
        assert limits_of(Settings(requests_per_second=2, requests_burst=5), here) == Limits(2, 5)
        assert limits_of(Settings(requests_per_second=0), everywhere) is None
