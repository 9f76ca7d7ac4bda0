"""Steering a rollout by hand, switching versions under load, and the console that shows it."""

from __future__ import annotations

import re
import sqlite3
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from html.parser import HTMLParser

import httpx
import pytest

from registry.assignment import Apart
from registry.rollout import Policy
from serving.rollouts import Rollouts
from serving.router import Deployment
from tests.serving.conftest import Served

WHO = {"by": "ann", "reason": "reviewed the answers"}


def test_rollouts_are_listed_newest_first_with_the_verdict_of_the_open_one(served: Served) -> None:
    rollout = served.open_rollout()
    for unit in range(6):
        body = {"model": "evermoe", "prompt": "fix the", "max_tokens": 2, "user": str(unit)}
        answer = served.http.post("/v1/completions", json=body).json()
        served.http.post("/v1/feedback", json={"id": answer["id"], "key": str(unit), "score": 1})
    [shown] = served.http.get("/v1/rollouts").json()["data"]
    assert (shown["id"], shown["status"], shown["champion"], shown["challenger"]) == (rollout.id, "running", "1", "2")
    assert sum(shown["verdict"]["rewards"].values()) == 6
    assert shown["verdict"]["decision"] == "continue"


def test_during_a_rollout_the_other_arm_is_asked_too_and_answers_alike_prove_nothing(served: Served) -> None:
    body = {"input": "fix the vlan option", "user": "ann"}
    alone = served.http.post("/v1/classify", json=body).json()
    assert served.events.request(alone["id"]).shadow is None
    rollout = served.open_rollout()
    for number in range(4):
        answer = served.http.post("/v1/classify", json=body | {"user": str(number)}).json()
        assert served.events.request(answer["id"]).shadow == answer["label"]  # both versions are the same weights
        served.http.post("/v1/feedback", json={"id": answer["id"], "key": str(number), "score": 1})
    assert [reward.agreed for reward in served.events.rewards(rollout.id)] == [True] * 4
    [shown] = served.http.get("/v1/rollouts").json()["data"]
    assert (sum(shown["verdict"]["rewards"].values()), shown["verdict"]["agreed"]) == (0, 4)


def test_an_arm_that_fails_in_the_shadow_fails_nobody(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    rollout = served.open_rollout(share=0.5)
    challenger = served.engine.get(rollout.challenger)

    def broken(texts: object, labels: object = None) -> None:
        raise RuntimeError("no answer today")

    monkeypatch.setattr(challenger, "classify", broken)
    answers = [
        served.http.post("/v1/classify", json={"input": "fix the vlan option", "user": str(unit)}) for unit in range(20)
    ]
    met_champion = [answer.json()["id"] for answer in answers if answer.status_code == 200]
    assert 0 < len(met_champion) < 20
    assert {served.events.request(id).shadow for id in met_champion} == {None}


def test_pause_resume_and_share_change_the_rollout_and_are_written_to_the_audit(served: Served) -> None:
    rollout = served.open_rollout(share=0.05)
    steps = [("pause", {}), ("resume", {}), ("share", {"share": 0.25})]
    for action, more in steps:
        served.http.post(f"/v1/rollouts/{rollout.id}/{action}", json=WHO | more).raise_for_status()
    assert served.http.get("/ready").json()["share"] == 0.25
    rows = served.ledger.history(rollout.id)[1:]
    assert [(row.action, row.by, row.reason) for row in rows] == [
        (action, "ann", "reviewed the answers") for action, _ in steps
    ]


def test_a_raised_share_only_adds_units_to_the_challenger(served: Served) -> None:
    rollout = served.open_rollout(share=0.2)

    def arms() -> dict[str, str]:
        answers = {
            unit: served.http.post("/v1/classify", json={"input": "fix the port option", "user": unit}).json()["id"]
            for unit in map(str, range(40))
        }
        return {unit: served.events.request(id).arm for unit, id in answers.items()}

    before = arms()
    served.http.post(f"/v1/rollouts/{rollout.id}/share", json=WHO | {"share": 0.6}).raise_for_status()
    after = arms()
    moved = {unit for unit in before if before[unit] != after[unit]}
    assert moved
    assert {after[unit] for unit in moved} == {"challenger"}


def test_abort_sends_all_units_back(served: Served) -> None:
    rollout = served.open_rollout()
    after = served.http.post(f"/v1/rollouts/{rollout.id}/abort", json=WHO).json()
    assert (after["status"], after["share"]) == ("aborted", 0.0)
    assert served.router.versions == ("1",)


@pytest.mark.parametrize(
    ("action", "body", "status", "line"),
    [
        ("share", WHO, 400, "'share' is missing"),
        ("share", WHO | {"share": 1.5}, 400, "'share' must be less than 1"),
        ("pause", {"by": "ann"}, 400, "'reason' is missing"),
        ("pause", WHO | {"by": "  "}, 400, "'by' is empty"),
        ("resume", WHO, 409, "cannot resume rollout 2025-06-2: it is running"),
        ("explode", WHO, 400, "'explode' is nothing one can do to a rollout; use one of pause, resume"),
    ],
)
def test_a_step_that_makes_no_sense_is_refused_in_one_line(
    served: Served, action: str, body: dict[str, object], status: int, line: str
) -> None:
    rollout = served.open_rollout()
    refused = served.http.post(f"/v1/rollouts/{rollout.id}/{action}", json=body)
    assert refused.status_code == status
    assert refused.json()["error"]["message"].startswith(line)
    assert served.ledger.get(rollout.id) == rollout


def test_a_closed_or_unknown_rollout_cannot_be_steered(served: Served) -> None:
    rollout = served.open_rollout()
    served.http.post(f"/v1/rollouts/{rollout.id}/abort", json=WHO).raise_for_status()
    assert served.http.post(f"/v1/rollouts/{rollout.id}/promote", json=WHO).status_code == 409
    assert served.http.post("/v1/rollouts/none/promote", json=WHO).status_code == 404


def test_promoting_under_load_switches_versions_without_a_failed_request(served: Served) -> None:
    rollout = served.open_rollout(share=0.3)
    promoted, stop = threading.Event(), threading.Event()

    def client(number: int) -> list[tuple[int, str, bool]]:
        seen = []
        with httpx.Client(base_url=served.url, timeout=30) as http:
            while not stop.is_set():
                was_promoted = promoted.is_set()
                if number % 2:
                    body = {"model": "evermoe", "prompt": "fix the", "max_tokens": 6, "user": f"u{number}"}
                    answer = http.post("/v1/completions", json=body)
                else:
                    answer = http.post("/v1/classify", json={"input": "fix the vlan option", "user": f"u{number}"})
                seen.append((answer.status_code, answer.json().get("model", ""), was_promoted))
        return seen

    with ThreadPoolExecutor(6) as pool:
        clients = [pool.submit(client, number) for number in range(6)]
        try:
            served.follow(lambda: served.events.counts().requests > 30)
            served.http.post(f"/v1/rollouts/{rollout.id}/promote", json=WHO).raise_for_status()
            promoted.set()
            more = served.events.counts().requests + 30
            served.follow(lambda: served.events.counts().requests > more)
        finally:
            stop.set()
        seen = [entry for done in clients for entry in done.result()]
    assert Counter(status for status, _, _ in seen) == {200: len(seen)}
    assert {model for _, model, after in seen if not after} >= {"evermoe:1"}
    assert {model for _, model, after in seen if after} == {"evermoe:2"}
    assert served.router.versions == ("2",)
    assert served.events.counts().requests == len(seen)


@pytest.mark.parametrize(("action", "serves"), [("abort", "1"), ("promote", "2")])
def test_a_rollout_closed_while_mlflow_is_down_takes_effect_and_stays_so_after(
    served: Served, action: str, serves: str
) -> None:
    rollout, rollouts = served.open_rollout(), Rollouts(served.controls, served.events, Policy())
    assert rollouts.deployment().versions == ("1", "2")
    mlflow = served.database.with_name("mlflow.db")
    with sqlite3.connect(mlflow) as database:
        database.execute("ALTER TABLE registered_model_aliases RENAME TO lost")
    served.http.post(f"/v1/rollouts/{rollout.id}/{action}", json=WHO).raise_for_status()
    assert served.router.versions == (serves,)
    answer = served.http.post("/v1/classify", json={"input": "fix the vlan option", "user": "ann"}).json()
    assert answer["model"] == f"evermoe:{serves}"
    assert rollouts.deployment() == Deployment(serves)
    with sqlite3.connect(mlflow) as database:
        database.execute("ALTER TABLE lost RENAME TO registered_model_aliases")
    assert rollouts.deployment() == Deployment(serves)


def test_the_salt_that_draws_the_units_is_shown_to_nobody(served: Served) -> None:
    rollout = served.open_rollout()
    listed = served.http.get("/v1/rollouts").text
    paused = served.http.post(f"/v1/rollouts/{rollout.id}/pause", json=WHO).text
    page = served.http.get("/").text
    assert all(rollout.id in text for text in (listed, paused, page))
    assert not any("salt" in text for text in (listed, paused, page))


ODD_NAMES = ["%00", "a%00b", "%0A%0D", "%FF", "%ED%A0%80", "%F0%9F%92%A5", "'; --", "x" * 9000]


@pytest.mark.parametrize("id", ODD_NAMES)
def test_a_rollout_with_an_odd_name_is_not_found_by_program_or_form(served: Served, id: str) -> None:
    not_found(served, id)


@pytest.mark.parametrize("id", ODD_NAMES)
def test_a_rollout_with_an_odd_name_is_not_found_on_postgresql(
    postgres_url: str, start: Callable[..., Served], id: str
) -> None:
    not_found(start(database=postgres_url), id)


def not_found(served: Served, id: str) -> None:
    """Assert that steering this rollout answers 404 in one line, to a program and in the console."""
    refused = served.http.post(f"/v1/rollouts/{id}/abort", json=WHO)
    assert refused.status_code == 404
    assert refused.json()["error"]["message"].startswith("no rollout ")
    form = served.http.post(f"/v1/rollouts/{id}/abort", data=WHO)
    assert form.status_code == 404
    assert "No rollout " in Text(form.text).said


class Text(HTMLParser):
    """The words of a page, and what it would fetch."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.words: list[str] = []
        self.fetched: list[str] = []
        self.feed(page)

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        given = dict(attributes)
        for name in ("src",) if tag != "link" else ("href",):
            if given.get(name):
                self.fetched.append(str(given[name]))

    @property
    def said(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.words))


def test_the_console_shows_the_rollout_its_arms_and_its_decisions(served: Served) -> None:
    rollout = served.open_rollout(share=0.3)
    answer = served.http.post("/v1/classify", json={"input": "fix the vlan option", "user": "u"}).json()
    served.http.post("/v1/feedback", json={"id": answer["id"], "key": "k", "score": 1})
    served.http.post(f"/v1/rollouts/{rollout.id}/pause", json=WHO | {"reason": "<b>odd</b> answers"})
    page = Text(served.http.get("/").text)
    for words in ("Rollout 2025-06-2 paused", "Version 2 meets 30% of the users", "It is paused", "<b>odd</b> answers"):
        assert words in page.said
    assert "Resume" in page.said
    assert page.fetched == ["data:,"]


def test_the_console_says_which_share_is_held_out_where_one_is(start: Callable[..., Served]) -> None:
    served = start(apart=Apart(holdout=0.1))
    served.open_rollout(share=0.3)
    said = Text(served.http.get("/").text).said
    assert "Version 2 meets 30% of the users" in said
    assert "10% of all users are held out of rollouts: they meet version 1" in said


def test_a_client_that_sends_no_units_is_no_crowd_and_the_console_says_so(start: Callable[..., Served]) -> None:
    served = start(policy=Policy(unnamed_per_key=2))
    rollout = served.open_rollout(share=0.5)
    client, reviewer = served.as_("client", "reviewer")
    for vote, user in enumerate((None, None, None, "ann", None, None)):
        body = {"model": "evermoe", "prompt": "fix the", "max_tokens": 2} | ({"user": user} if user else {})
        answer = client.post("/v1/completions", json=body).json()
        told = {"id": answer["id"], "key": f"{vote}", "score": 1}
        assert client.post("/v1/feedback", json=told).status_code == 200
    proof = Rollouts(served.controls, served.events, Policy(unnamed_per_key=2)).proof(rollout, datetime.now(UTC))
    assert (sum(proof.weighed.verdict.rewards.values()), proof.weighed.left_out) == (3, 3)
    assert reviewer.get("/v1/rollouts").json()["data"][0]["left_out"] == 3
    served.follow(lambda: "3 rewards on requests without a unit are left out" in Text(reviewer.get("/").text).said)


def test_the_console_without_a_rollout_says_so(served: Served) -> None:
    page = served.http.get("/").text
    assert "Version 1 answers everyone" in page
    assert "Start a rollout" in page


def test_a_form_of_the_console_steers_and_returns_to_it(served: Served) -> None:
    rollout = served.open_rollout(share=0.3)
    form = {"by": "ann", "reason": "more traffic", "share": "0.4"}
    done = served.http.post(f"/v1/rollouts/{rollout.id}/share", data=form, headers={"Origin": served.url})
    assert (done.status_code, done.headers["location"]) == (303, "/?done=share")
    assert served.ledger.get(rollout.id).share == 0.4
    wrong = served.http.post(f"/v1/rollouts/{rollout.id}/share", data=form | {"share": "much"})
    assert wrong.status_code == 400
    assert "is a number above 0 and below 1" in wrong.text


def test_a_form_that_promotes_or_aborts_is_asked_once_more(served: Served) -> None:
    rollout = served.open_rollout(share=0.3)
    asked = served.http.post(f"/v1/rollouts/{rollout.id}/abort", data=WHO, headers={"Origin": served.url})
    assert asked.status_code == 200
    assert 'name="confirmed"' in asked.text
    assert WHO["reason"] in asked.text
    assert served.ledger.get(rollout.id).open
    served.http.post(f"/v1/rollouts/{rollout.id}/abort", data=WHO | {"confirmed": "yes"})
    assert served.ledger.get(rollout.id).status == "aborted"
    again = served.http.post(f"/v1/rollouts/{rollout.id}/promote", data=WHO)
    assert again.status_code == 409


def test_what_was_decided_on_a_page_that_is_old_by_now_is_not_done(served: Served) -> None:
    rollout = served.open_rollout(share=0.3)
    served.http.post(f"/v1/rollouts/{rollout.id}/share", json=WHO | {"share": 0.4}).raise_for_status()
    form = WHO | {"revision": str(rollout.revision), "confirmed": "yes"}
    refused = served.http.post(f"/v1/rollouts/{rollout.id}/promote", data=form)
    assert refused.status_code == 409
    assert "changed while you looked: it is running, with a share of 0.4" in Text(refused.text).said
    stale = served.http.post(f"/v1/rollouts/{rollout.id}/pause", json=WHO | {"revision": rollout.revision})
    assert stale.status_code == 409
    assert served.ledger.get(rollout.id).status == "running"


def test_a_version_is_put_on_trial_by_program_and_by_form(served: Served) -> None:
    refused = served.http.post("/v1/rollouts", json={"version": "2", "by": "ann"})
    assert refused.status_code == 400
    assert refused.json()["error"]["message"] == "'reason' is missing"
    assert served.http.post("/v1/rollouts", json=WHO | {"version": "9"}).status_code == 404
    assert served.http.post("/v1/rollouts", json=WHO | {"version": "1"}).status_code == 400
    opened = served.http.post("/v1/rollouts", json=WHO | {"version": "2"}).json()
    assert (opened["status"], opened["challenger"], opened["share"]) == ("running", "2", 0.05)
    assert "salt" not in opened
    assert served.router.versions == ("1", "2")
    [row] = served.ledger.history()
    assert (row.action, row.by, row.reason) == ("open", "ann", "reviewed the answers")
    done = served.http.post("/v1/rollouts", data=WHO | {"version": "2"}, headers={"Origin": served.url})
    assert (done.status_code, done.headers["location"]) == (303, "/?done=start")


def test_a_share_may_be_typed_as_a_percentage(served: Served) -> None:
    rollout = served.open_rollout(share=0.3)
    served.http.post(f"/v1/rollouts/{rollout.id}/share", data=WHO | {"share": "12.5 %"})
    assert served.ledger.get(rollout.id).share == 0.125


def test_a_page_of_another_site_cannot_steer(served: Served) -> None:
    rollout = served.open_rollout()
    refused = served.http.post(
        f"/v1/rollouts/{rollout.id}/promote",
        data=WHO | {"confirmed": "yes"},
        headers={"Origin": "https://elsewhere.example"},
    )
    assert refused.status_code == 403
    odd = served.http.post(
        f"/v1/rollouts/{rollout.id}/promote", data=WHO | {"confirmed": "yes"}, headers={"Origin": "http://["}
    )
    assert odd.status_code == 403
    assert served.ledger.get(rollout.id).status == "running"


def test_when_the_ledger_is_gone_the_last_plan_serves_and_every_page_says_so(served: Served) -> None:
    served.open_rollout()
    with sqlite3.connect(served.database) as database:
        database.execute("ALTER TABLE rollouts RENAME TO lost")
    served.follow(lambda: served.router.problem is not None)
    assert served.http.post("/v1/classify", json={"input": "fix the vlan option"}).status_code == 200
    ready = served.http.get("/ready")
    assert (ready.status_code, ready.json()["challenger"]) == (200, "2")
    assert "ledger" in ready.json()["problem"]
    assert "ledger" in Text(served.http.get("/").text).said
    with sqlite3.connect(served.database) as database:
        database.execute("ALTER TABLE lost RENAME TO rollouts")
    served.follow(lambda: served.router.problem is None)
