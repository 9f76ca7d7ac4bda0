"""Evermoe's own endpoints, and what the edge does with input that is wrong, too large, or cannot be stored."""

from __future__ import annotations

import asyncio
import json
import math
import socket
import sqlite3
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from model import LanguageModel
from model.language import Classification
from monitoring.events import Counts
from monitoring.rows import CLIENT_LEFT, CUT_TO_NOTHING
from tests.serving.conftest import Served, wait_for

OTHER = "the model 'other' is not served here; ask for one of evermoe, evermoe:1"
SURROGATE = "'input' holds half of a surrogate pair, which is not valid Unicode; remove it"
NOTE = {"input": "fix the vlan option", "user": "ann"}


def error_of(response: httpx.Response) -> dict[str, str]:
    """The error object, after checking that it has OpenAI's shape and is one line."""
    error: dict[str, str] = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert "\n" not in error["message"]
    return error


def test_classify_answers_with_a_label_and_scores_that_sum_to_one(served: Served) -> None:
    answer = served.http.post("/v1/classify", json=NOTE).json()
    assert (answer["label"], answer["model"]) == ("net.switch", "evermoe:1")
    assert sum(answer["scores"].values()) == pytest.approx(1.0, abs=1e-5)
    row = served.events.request(answer["id"])
    assert (row.output, row.unit, row.unit_given, row.scores) == ("net.switch", "ann", True, answer["scores"])
    assert row.experts
    assert row.latency_ms > 0
    assert row.prompt_tokens > 0


def test_classify_chooses_among_the_labels_it_is_given(served: Served) -> None:
    answer = served.http.post("/v1/classify", json=NOTE | {"labels": ["cloud.vm", "db.sql"]}).json()
    assert set(answer["scores"]) == {"cloud.vm", "db.sql"}


def test_the_unit_may_come_by_header_and_the_body_wins(served: Served) -> None:
    header = {"X-Evermoe-Unit": "team-7"}
    by_header = served.http.post("/v1/classify", json={"input": "a note"}, headers=header).json()["id"]
    by_body = served.http.post("/v1/classify", json=NOTE, headers=header).json()["id"]
    assert served.events.request(by_header).unit == "team-7"
    assert served.events.request(by_body).unit == "ann"


def test_a_name_is_one_unit_by_whichever_way_it_comes(served: Served) -> None:
    asked = [
        served.http.post("/v1/classify", json={"input": "a note", **body}, headers=[(b"X-Evermoe-Unit", header)]).json()
        for body, header in (
            ({"user": "张三"}, b"team-7"),
            ({"user": " "}, "张三".encode()),
            ({}, "张三".encode()),
            ({}, "Zoë".encode("latin-1")),
            ({"user": "Zoe\u0308"}, b"team-7"),  # the same name, its accent by itself
        )
    ]
    assert [served.events.request(one["id"]).unit for one in asked] == ["张三", "张三", "张三", "Zoë", "Zoë"]


def test_the_right_label_is_right_with_space_around_it_and_nothing_is_no_label(served: Served) -> None:
    answer = served.http.post("/v1/classify", json=NOTE).json()
    told = {"id": answer["id"], "key": "k1", "label": f" {answer['label']}\n"}
    assert served.http.post("/v1/feedback", json=told).json()["reward"] == 1.0
    assert served.http.post("/v1/feedback", json=told | {"key": "k2", "label": "  "}).status_code == 400


@pytest.mark.parametrize("label", ["cafe\u0301", " net.switch "])
def test_the_label_that_was_answered_is_right_however_it_was_spelled_when_asked_for(served: Served, label: str) -> None:
    answer = served.http.post("/v1/classify", json={**NOTE, "labels": [label]}).json()
    told = {"id": answer["id"], "key": "k1", "label": label}
    assert served.http.post("/v1/feedback", json=told).json()["reward"] == 1.0


def test_feedback_counts_once_per_key_and_once_per_response(served: Served) -> None:
    response = served.http.post("/v1/classify", json=NOTE).json()["id"]
    given = {"id": response, "key": "k1", "label": "net.switch"}
    receipts = [served.http.post("/v1/feedback", json=body).json() for body in (given, given, given | {"key": "k2"})]
    assert receipts == [
        {"counted": True, "reward": 1.0, "reason": "counted"},
        {"counted": False, "reward": None, "reason": "duplicate"},
        {"counted": False, "reward": None, "reason": "response already has feedback"},
    ]
    assert served.events.counts() == Counts(requests=1, feedback=2)


def test_a_label_no_version_knows_is_accepted_with_a_note(served: Served) -> None:
    response = served.http.post("/v1/classify", json=NOTE).json()["id"]
    receipt = served.http.post("/v1/feedback", json={"id": response, "key": "k", "label": "cloud.vm"}).json()
    assert (receipt["counted"], receipt["reward"]) == (True, 0.0)
    assert receipt["note"] == "no serving version knows the label 'cloud.vm'; kept, so the next update can learn it"


def test_feedback_for_an_unknown_response_is_not_found(served: Served) -> None:
    refused = served.http.post("/v1/feedback", json={"id": "clsf-none", "key": "k", "score": 1})
    assert refused.status_code == 404
    assert error_of(refused)["message"].startswith("no response has the id clsf-none")
    assert served.events.counts().feedback == 0


@pytest.mark.parametrize(
    ("path", "body", "status", "line"),
    [
        ("/v1/classify", b"", 400, "the body is empty; send a JSON object"),
        ("/v1/classify", b"[1]", 400, "the body must be a JSON object, not an array"),
        ("/v1/classify", b'{"input": ', 400, "the body is not valid JSON: Expecting value (line 1, column 11)"),
        ("/v1/classify", b'{"input": "\xff"}', 400, "the body is not valid UTF-8 (byte 11); encode it as UTF-8"),
        ("/v1/classify", b'{"input": "\\ud800"}', 400, SURROGATE),
        ("/v1/classify", b"[" * 200_000, 400, "the body is not usable JSON: a number is too long or the nesting too deep"),
        ("/v1/classify", b'{"input": "  "}', 400, "'input' is empty"),
        ("/v1/classify", b'{"input": "a", "model": "other"}', 404, OTHER),
        ("/v1/feedback", b'{"id": "x", "key": "k"}', 400, "'score' (0 to 1) or 'label' is missing"),
        ("/v1/chat/completions", b'{"model": "evermoe"}', 400, "'messages' is missing"),
        ("/v1/completions", b'{"model": "evermoe", "prompt": 5}', 400, "'prompt' must be a string, not 5"),
        ("/v1/embeddings", b"{}", 404, "there is nothing at /v1/embeddings"),
    ],
)  # fmt: skip
def test_bad_input_is_refused_in_one_line_and_leaves_no_row(
    served: Served, path: str, body: bytes, status: int, line: str
) -> None:
    refused = served.http.post(path, content=body)
    assert (refused.status_code, error_of(refused)["message"]) == (status, line)
    assert served.events.counts() == Counts(0, 0)


def test_a_body_of_10_mb_is_refused_whether_announced_or_in_chunks(served: Served) -> None:
    large = json.dumps({"input": "x" * 10_000_000}).encode()

    def in_chunks() -> Iterator[bytes]:
        for start in range(0, len(large), 65_536):
            yield large[start : start + 65_536]

    for content in (large, in_chunks()):
        refused = served.http.post("/v1/classify", content=content)
        assert refused.status_code == 413
        assert error_of(refused)["message"] == "the body is longer than 1,000,000 bytes; send shorter text"
    assert served.http.post("/v1/classify", json=NOTE).status_code == 200


def test_a_chunked_body_without_end_is_refused_after_the_limit(served: Served) -> None:
    chunk = b"10000\r\n" + b"x" * 65_536 + b"\r\n"
    with socket.create_connection(("127.0.0.1", httpx.URL(served.url).port or 0), timeout=20) as connection:
        connection.sendall(b"POST /v1/classify HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        for _ in range(20):
            connection.sendall(chunk)
        assert connection.recv(64).startswith(b"HTTP/1.1 413")


def test_a_wrong_method_is_refused_in_the_same_shape(served: Served) -> None:
    refused = served.http.get("/v1/classify")
    assert (refused.status_code, refused.headers["allow"]) == (405, "POST")
    assert error_of(refused)["message"] == "/v1/classify does not take GET"


def test_without_replay_the_time_header_is_ignored(served: Served) -> None:
    answer = served.http.post("/v1/classify", json=NOTE, headers={"X-Evermoe-At": "2021-05-01T00:00:00Z"}).json()
    assert served.events.request(answer["id"]).at.year >= 2025


def test_in_replay_requests_and_feedback_happen_when_their_header_says(start: Callable[..., Served]) -> None:
    served = start(replay=True)
    asked, told = "2021-05-01T12:00:00+02:00", "2021-05-03T12:00:00+02:00"
    answer = served.http.post("/v1/classify", json=NOTE, headers={"X-Evermoe-At": asked}).json()
    feedback = {"id": answer["id"], "key": "k", "score": 1}
    served.http.post("/v1/feedback", json=feedback, headers={"X-Evermoe-At": told}).raise_for_status()
    assert served.events.request(answer["id"]).at == datetime(2021, 5, 1, 10, tzinfo=UTC)
    far = datetime(2100, 1, 1, tzinfo=UTC)
    [row] = served.events.answered(datetime(2021, 1, 1, tzinfo=UTC), far, far)
    assert row.feedback_at == datetime(2021, 5, 3, 10, tzinfo=UTC)
    for wrong in ("yesterday", "2021-05-01T12:00:00", "0001-01-01T00:00:00Z"):
        refused = served.http.post("/v1/classify", json=NOTE, headers={"X-Evermoe-At": wrong})
        assert refused.status_code == 400
        assert error_of(refused)["message"].startswith("X-Evermoe-At:")


def test_what_cannot_be_stored_is_not_acknowledged(served: Served) -> None:
    served.events.close()  # the log refuses from here on, as it does with a full disk
    refused = served.http.post("/v1/classify", json=NOTE)
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "2")
    assert "nothing was stored" in error_of(refused)["message"]
    body = {"model": "evermoe", "messages": [{"role": "user", "content": "hi"}], "stream": True, "max_tokens": 4}
    streamed = served.http.post("/v1/chat/completions", json=body).text
    assert "[DONE]" not in streamed
    assert 'finish_reason":"' not in streamed
    last = json.loads(streamed.strip().split("\n\n")[-1].removeprefix("data: "))
    assert last["error"]["code"] == "unavailable"


def test_a_client_that_leaves_a_stream_leaves_a_row_that_says_so(served: Served) -> None:
    body = {"model": "evermoe", "messages": [{"role": "user", "content": "hi"}], "stream": True}
    gate = threading.Event()
    with held_worker(served, gate):
        with httpx.stream("POST", f"{served.url}/v1/chat/completions", json=body) as response:
            role = next(response.iter_lines())
        wait_for(lambda: served.events.counts().requests == 1)
    row = served.events.request(json.loads(role.removeprefix("data: "))["id"])
    assert (row.output, row.error) == ("", CLIENT_LEFT)


def test_a_client_that_gives_up_on_a_whole_answer_frees_the_model_and_leaves_a_row_that_says_so(served: Served) -> None:
    gate = threading.Event()
    with held_worker(served, gate):
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(f"{served.url}/v1/completions", json={"model": "evermoe", "prompt": "hi"}, timeout=0.5)
        wait_for(lambda: served.events.counts().requests == 1)
        assert served.engine.waiting == 1  # the one that holds the worker
    with sqlite3.connect(served.database) as database:
        assert database.execute("SELECT output, error FROM requests").fetchall() == [("", CLIENT_LEFT)]


def test_a_text_of_which_the_clients_own_stop_leaves_nothing_is_no_empty_answer_of_its_arm(served: Served) -> None:
    body = {"model": "evermoe", "prompt": "fix the", "max_tokens": 4}
    free = served.http.post("/v1/completions", json=body).json()["choices"][0]["text"]
    assert free.strip()
    for stop, error in (([free.strip()[0]], CUT_TO_NOTHING), (["no such words"], None)):
        answer = served.http.post("/v1/completions", json=body | {"stop": stop}).json()
        row = served.events.request(answer["id"])
        assert (row.output.strip() == "", row.error) == (error is not None, error)


@pytest.mark.parametrize("dice", [{"seed": 2**64 - 1}, {"seed": -(2**63)}, {"temperature": 1e-60, "seed": 1}])
def test_every_seed_and_temperature_that_is_accepted_is_answered(served: Served, dice: dict[str, float]) -> None:
    body = {"model": "evermoe", "prompt": "fix the", "max_tokens": 2, "temperature": 1.0}
    assert served.http.post("/v1/completions", json=body | dice).status_code == 200


def test_a_text_that_fills_the_window_ends_for_its_length_and_counts_what_was_read(served: Served) -> None:
    model = served.engine.get("1")
    assert isinstance(model, LanguageModel)
    model.network.config.max_position_embeddings = 8
    body = {"model": "evermoe", "prompt": "fix the vlan option of the port, the", "max_tokens": 12}
    answer = served.http.post("/v1/completions", json=body).json()
    assert answer["choices"][0]["finish_reason"] == "length"
    assert answer["usage"] == {"prompt_tokens": 7, "completion_tokens": 1, "total_tokens": 8}
    row = served.events.request(answer["id"])
    assert (row.prompt_tokens, row.output_tokens) == (7, 1)


def test_a_model_that_fails_is_an_error_in_one_line_and_a_row_with_its_reason(served: Served) -> None:
    model = served.engine.get("1")
    assert isinstance(model, LanguageModel)
    model.network = None  # type: ignore[assignment]
    chat = {"model": "evermoe", "messages": [{"role": "user", "content": "hi"}]}
    for path, body in (("/v1/chat/completions", chat), ("/v1/classify", NOTE)):
        answer = served.http.post(path, json=body)
        assert (answer.status_code, error_of(answer)["type"]) == (500, "server_error")
    streamed = served.http.post("/v1/chat/completions", json=chat | {"stream": True}).text
    assert "the model failed; the gateway's log has the details" in streamed
    assert "[DONE]" not in streamed
    far = datetime(2100, 1, 1, tzinfo=UTC)
    rows = [row.request for row in served.events.answered(datetime(2020, 1, 1, tzinfo=UTC), far, far)]
    assert [row.kind for row in rows] == ["chat", "classify", "chat"]
    assert all(row.error is not None and row.error.startswith("AttributeError: ") for row in rows)


def test_scores_that_are_no_numbers_are_a_failure_of_the_model(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    answer = LanguageModel.classify

    def broken(model: LanguageModel, texts: list[str], labels: list[str] | None = None) -> list[Classification]:
        return [replace(one, scores=dict.fromkeys(one.scores, math.nan)) for one in answer(model, texts, labels)]

    monkeypatch.setattr(LanguageModel, "classify", broken)
    assert served.http.post("/v1/classify", json=NOTE).status_code == 500
    far = datetime(2100, 1, 1, tzinfo=UTC)
    (first,) = served.events.first_requests_of_version("1", datetime(2020, 1, 1, tzinfo=UTC), far, slow_ms=9e9)
    assert first.failed


def test_requests_beyond_the_bound_are_told_to_come_again_and_health_still_answers(
    start: Callable[..., Served],
) -> None:
    served, gate = start(waiting=2), threading.Event()
    with held_worker(served, gate):
        with ThreadPoolExecutor(1) as client:
            waits = client.submit(served.http.post, "/v1/classify", json=NOTE)
            wait_for(lambda: served.engine.waiting == 2)
            refused = httpx.post(f"{served.url}/v1/classify", json=NOTE)
            assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
            assert error_of(refused)["message"] == "2 requests wait for the model already; try again in a second"
            assert httpx.get(f"{served.url}/health").status_code == 200
            gate.set()
            assert waits.result().status_code == 200


@contextmanager
def held_worker(served: Served, gate: threading.Event) -> Iterator[None]:
    """The engine's one worker does nothing until `gate` opens, at the latest when this ends."""
    holding = threading.Thread(target=lambda: asyncio.run(served.engine.run(gate.wait)))
    holding.start()
    wait_for(lambda: served.engine.waiting == 1)
    try:
        yield
    finally:
        gate.set()
        holding.join()


def test_health_and_ready_tell_apart_a_live_process_and_a_loaded_model(start: Callable[..., Served]) -> None:
    served = start()
    assert served.http.get("/health").json() == {"status": "ok"}
    ready = served.http.get("/ready")
    assert ready.status_code == 200
    assert ready.json() == {
        "ready": True,
        "champion": "1",
        "challenger": None,
        "share": 0.0,
        "arms": {"champion": 1.0},
        "revision": None,
        "problem": None,
    }


def test_metrics_count_requests_by_arm_and_say_when_the_plan_is_stale(served: Served) -> None:
    served.open_rollout(share=0.25)
    arms = Counter[str]()
    for unit in range(8):
        answer = served.http.post("/v1/classify", json=NOTE | {"user": str(unit)}).json()
        arms[served.events.request(answer["id"]).arm] += 1
    served.http.post("/v1/feedback", json={"id": answer["id"], "key": "k", "score": 1})
    served.http.get("/v1/nothing-here")

    def figures() -> dict[tuple[str, ...], float]:
        text = served.http.get("/metrics").text
        return {
            (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }

    found = figures()
    for arm, count in arms.items():
        assert found["evermoe_requests_total", arm, "/v1/classify", "200", "1" if arm == "champion" else "2"] == count
    assert found["evermoe_arm_share", "challenger"] == 0.25
    assert found["evermoe_feedback_total", "counted"] == 1
    assert found["evermoe_requests_total", "", "none", "404", ""] == 1
    assert found["evermoe_plan_stale",] == 0
    with sqlite3.connect(served.database) as database:
        database.execute("ALTER TABLE rollouts RENAME TO lost")
    served.follow(lambda: figures()["evermoe_plan_stale",] == 1)
