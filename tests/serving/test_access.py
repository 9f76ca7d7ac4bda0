"""Who may do what over HTTP: roles, refusals, whose feedback, who stands in the audit."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import openai
import pytest
from sqlalchemy import delete

from monitoring.schema import api_keys
from serving.access import Access
from serving.openapi import document
from tests.serving.conftest import Served

NOTE = {"input": "fix the vlan option", "user": "ann"}
CHAT = {"model": "evermoe", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 2}
PROMPT = {"model": "evermoe", "prompt": "fix the", "max_tokens": 2}
OPEN = {("get", "/health"), ("get", "/ready"), ("post", "/login"), ("post", "/logout")}

ROUTES: list[tuple[str, str, Any, set[str]]] = [
    ("get", "/", None, {"reviewer", "operator"}),
    ("get", "/openapi.json", None, {"client", "reviewer", "operator"}),
    ("get", "/metrics", None, {"reviewer", "operator"}),
    ("get", "/v1/models", None, {"client", "reviewer", "operator"}),
    ("get", "/v1/models/evermoe", None, {"client", "reviewer", "operator"}),
    ("get", "/v1/rollouts", None, {"reviewer", "operator"}),
    ("post", "/v1/classify", NOTE, {"client"}),
    ("post", "/v1/completions", PROMPT, {"client"}),
    ("post", "/v1/chat/completions", CHAT, {"client"}),
    ("post", "/v1/feedback", {"id": "none", "key": "k", "score": 1}, {"client"}),
    ("post", "/v1/rollouts/none/pause", {"reason": "r"}, {"operator"}),
    ("post", "/v1/rollouts", {"version": "none", "reason": "r"}, {"operator"}),
]


@pytest.fixture(params=["sqlite", "postgresql"])
def served(request: pytest.FixtureRequest, start: Callable[..., Served]) -> Served:
    """A gateway on each database."""
    return start(database=request.getfixturevalue("postgres_url") if request.param == "postgresql" else None)


def error_of(response: httpx.Response) -> dict[str, str]:
    """The error object, after checking that it has OpenAI's shape and is one line."""
    error: dict[str, str] = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert "\n" not in error["message"]
    return error


def test_every_role_may_do_its_part_and_nothing_else(served: Served) -> None:
    for role, http in zip(
        ("client", "reviewer", "operator"), served.as_("client", "reviewer", "operator"), strict=True
    ):
        for method, path, body, allowed in ROUTES:
            answer = http.request(method, path, json=body)
            if role in allowed:
                assert answer.status_code in (200, 404), (role, path, answer.text)  # 404: the thing is not there
            else:
                assert (answer.status_code, error_of(answer)["code"]) == (403, "forbidden"), (role, path)
                assert role in error_of(answer)["message"]


def test_once_a_key_exists_every_route_but_the_open_ones_needs_one(served: Served) -> None:
    served.as_("client")
    paths = document(served.app)["paths"]
    documented = {(method, path) for path, methods in paths.items() for method in methods}
    assert {("get", "/health"), ("post", "/v1/feedback"), ("post", "/v1/rollouts/{id}/{action}")} <= documented
    for method, path in documented - OPEN:
        answer = served.http.request(method, path.format(id="x", action="abort", name="evermoe"), json={})
        assert answer.status_code == 401, path
        assert (error_of(answer)["code"], answer.headers["www-authenticate"]) == ("invalid_api_key", "Bearer")


@pytest.mark.parametrize("header", ["", "Bearer", "Bearer x", "Basic {key}", "{key}", "Bearer {key}x", "Bearer \xe9"])
def test_what_is_no_key_is_refused(start: Callable[..., Served], header: str) -> None:
    served = start()
    [client] = served.as_("client")
    key = client.headers["authorization"].removeprefix("Bearer ")
    given = {"Authorization": header.format(key=key).encode("latin-1")}
    assert served.http.post("/v1/classify", json=NOTE, headers=given).status_code == 401  # type: ignore[arg-type]
    assert served.events.counts().requests == 0


def test_the_openai_client_works_with_its_api_key_and_names_its_refusals(served: Served) -> None:
    client, reviewer = served.as_("client", "reviewer")

    def openai_client(key: str) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{served.url}/v1", api_key=key, max_retries=0)

    asking = openai_client(client.headers["authorization"].removeprefix("Bearer "))
    assert asking.completions.create(model="evermoe", prompt="fix the", max_tokens=2).model == "evermoe:1"
    with pytest.raises(openai.AuthenticationError):
        openai_client("unused").models.list()
    with pytest.raises(openai.PermissionDeniedError):
        openai_client(reviewer.headers["authorization"].removeprefix("Bearer ")).completions.create(**PROMPT)


def test_health_and_ready_answer_anyone_and_only_a_reader_is_told_who_serves(served: Served) -> None:
    client, reviewer = served.as_("client", "reviewer")
    assert served.http.get("/health").json() == {"status": "ok"}
    assert [served.http.head(path).status_code for path in ("/health", "/ready")] == [200, 200]
    assert served.http.get("/ready").json() == client.get("/ready").json() == {"ready": True}
    assert reviewer.get("/ready").json()["champion"] == "1"


def test_a_revoked_key_is_refused_within_a_second_in_every_gateway(
    start: Callable[..., Served], postgres_url: str
) -> None:
    one, two = start(database=postgres_url), start(database=postgres_url)
    [here] = one.as_("client")
    there = httpx.Client(base_url=two.url, headers=here.headers, timeout=30)
    two.follow(lambda: there.get("/v1/models").status_code == 200)
    access: Access = one.app.state.access
    access.keys.revoke("client", datetime.now(UTC))
    began = time.monotonic()
    one.follow(lambda: here.get("/v1/models").status_code == 401)
    two.follow(lambda: there.get("/v1/models").status_code == 401)
    assert time.monotonic() - began < 1.0
    assert one.http.get("/v1/models").status_code == 401  # the last key is gone, and the door stays shut


def test_an_emptied_table_does_not_open_the_door(served: Served) -> None:
    [client] = served.as_("client")
    with served.events.engine.begin() as connection:
        connection.execute(delete(api_keys))
    served.follow(lambda: client.get("/v1/models").status_code == 401)
    assert served.http.get("/v1/models").status_code == 401


def test_where_the_keys_cannot_be_read_those_known_last_stay_and_a_new_gateway_lets_nobody_in(
    start: Callable[..., Served], monkeypatch: pytest.MonkeyPatch
) -> None:
    served = start()
    client, reviewer = served.as_("client", "reviewer")
    access: Access = served.app.state.access

    def lost() -> None:
        raise RuntimeError("no database today")

    monkeypatch.setattr(access.keys, "all", lost)
    monkeypatch.setattr(access, "_patience", 0.7)
    served.follow(lambda: access.problem is not None)
    assert reviewer.get("/ready").json()["problem"].startswith("the API keys could not be read for ")
    assert "The API keys could not be read" in reviewer.get("/").text
    assert client.get("/v1/models").status_code == 200
    assert served.http.get("/v1/models").status_code == 401
    monkeypatch.setattr(access, "_known", None)  # as before the first read
    refused = client.get("/v1/models")
    assert (refused.status_code, error_of(refused)["code"]) == (503, "unavailable")
    assert served.http.get("/health").status_code == 200


def test_feedback_is_taken_from_the_key_that_asked_and_others_learn_nothing(served: Served) -> None:
    ann, bob = served.as_("client"), None
    access: Access = served.app.state.access
    text = access.keys.create("bob", "client", datetime.now(UTC)).text
    served.follow(lambda: access.holder(text) is not None)
    bob = httpx.Client(base_url=served.url, headers={"Authorization": f"Bearer {text}"}, timeout=30)
    response = ann[0].post("/v1/classify", json=NOTE).json()["id"]
    stranger = bob.post("/v1/feedback", json={"id": response, "key": "k", "score": 0})
    nothing = bob.post("/v1/feedback", json={"id": response[:-1] + "z", "key": "k", "score": 0})
    assert (stranger.status_code, nothing.status_code) == (404, 404)
    assert error_of(stranger)["message"].replace(response, "ID") == (
        error_of(nothing)["message"].replace(response[:-1] + "z", "ID")
    )
    vote = {"id": response, "key": "k", "score": 1}
    receipts = [ann[0].post("/v1/feedback", json=body).json() for body in (vote, vote, vote | {"key": "k2"})]
    assert [receipt["counted"] for receipt in receipts] == [True, False, False]
    mine = bob.post("/v1/classify", json=NOTE).json()["id"]
    assert bob.post("/v1/feedback", json=vote | {"id": mine}).json()["counted"]  # the idempotency key is bob's own
    assert served.events.request(response).api_key != served.events.request(mine).api_key


def test_a_response_from_before_the_first_key_takes_feedback_from_any_client(served: Served) -> None:
    response = served.http.post("/v1/classify", json=NOTE).json()["id"]
    [client] = served.as_("client")
    assert client.post("/v1/feedback", json={"id": response, "key": "k", "score": 1}).json()["counted"]


def test_feedback_after_its_window_is_gone(start: Callable[..., Served]) -> None:
    served = start(replay=True, feedback_window=timedelta(days=90))
    at = {"X-Evermoe-At": "2025-03-01T00:00:00Z"}
    response = served.http.post("/v1/classify", json=NOTE, headers=at).json()["id"]
    late = {"X-Evermoe-At": "2025-05-30T00:00:01Z"}
    refused = served.http.post("/v1/feedback", json={"id": response, "key": "k", "score": 1}, headers=late)
    assert (refused.status_code, error_of(refused)["code"]) == (410, "expired")
    assert error_of(refused)["message"] == f"response {response} is from 2025-03-01; feedback is taken for 90 days"


def test_the_audit_names_the_key_that_moved_a_rollout_whatever_the_body_says(served: Served) -> None:
    rollout = served.open_rollout(share=0.05)
    reviewer, operator = served.as_("reviewer", "operator")
    refused = reviewer.post(f"/v1/rollouts/{rollout.id}/promote", json={"by": "ann", "reason": "I like it"})
    assert refused.status_code == 403
    for action, more in (("pause", {}), ("resume", {"by": "mallory"}), ("share", {"share": 0.25}), ("abort", {})):
        body = {"reason": "looked at it"} | more
        operator.post(f"/v1/rollouts/{rollout.id}/{action}", json=body).raise_for_status()
    [key] = [key for key in served.app.state.access.keys.all() if key.name == "operator"]
    rows = served.ledger.history(rollout.id)[1:]
    assert [(row.action, row.by) for row in rows] == [
        (action, f"operator (key {key.id})") for action in ("pause", "resume", "share", "abort")
    ]
    assert served.ledger.verify().ok


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8000", "127.0.0.1.evil.example", "a.b.", "localhost.evil.io"]
)
def test_an_open_gateway_does_not_answer_to_a_public_name(start: Callable[..., Served], host: str) -> None:
    served = start()
    for path in ("/", "/v1/rollouts", "/v1/models"):
        refused = served.http.get(path, headers={"Host": host})
        assert (refused.status_code, error_of(refused)["code"]) == (403, "forbidden")
    [reviewer] = served.as_("reviewer")
    assert reviewer.get("/v1/rollouts", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST:80", "127.0.0.1:1", "[::1]:8000", "[::1]", "gateway", "a.localhost"]
)
def test_an_open_gateway_answers_to_the_names_of_this_machine(start: Callable[..., Served], host: str) -> None:
    assert start().http.get("/v1/models", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize("path", ["/v1/classify", "/v1/feedback", "/v1/rollouts/x/abort", "/login", "/logout"])
def test_a_page_of_another_site_cannot_use_an_open_gateway(start: Callable[..., Served], path: str) -> None:
    served = start()
    for origin in ("https://elsewhere.example", "null", "http://127.0.0.1:1"):
        assert served.http.post(path, content=b"{}", headers={"Origin": origin}).status_code == 403
    assert served.events.counts().requests == 0
