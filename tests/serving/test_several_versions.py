"""Several versions on trial at once, through the real gateway: assigned, logged, weighed, steered by name, and shown."""

from __future__ import annotations

import json
from collections import Counter
from datetime import UTC, datetime

import pytest

from registry.analysis.outlook import outlook, weighed
from registry.analysis.watching import watch
from registry.assignment import Apart, assign
from registry.rollout import Policy, Rollout
from tests.serving.conftest import Served

WHO = {"by": "ann", "reason": "three candidates"}


pytestmark = pytest.mark.usefixtures("four_versions")


def on_trial(served: Served) -> Rollout:
    answer = served.http.post("/v1/rollouts", json=WHO | {"versions": ["2", "3", "4"]})
    assert answer.status_code == 200, answer.text
    shown = answer.json()
    assert [(one["version"], one["share"], one["out"]) for one in shown["challengers"]] == [
        ("2", 0.05, ""),
        ("3", 0.05, ""),
        ("4", 0.05, ""),
    ]
    served.follow(lambda: served.router.versions == ("1", "2", "3", "4"))
    return served.ledger.get(shown["id"])


def ask(served: Served, unit: str, liked: float | None = None) -> str:
    answer = served.http.post("/v1/classify", json={"input": "fix the vlan option", "user": unit}).json()
    if liked is not None:
        body = {"id": answer["id"], "key": unit, "score": liked}
        served.http.post("/v1/feedback", json=body).raise_for_status()
    return str(answer["id"])


def steer(served: Served, rollout: Rollout, action: str, **body: object) -> dict[str, object]:
    answer = served.http.post(f"/v1/rollouts/{rollout.id}/{action}", json=WHO | body)
    assert answer.status_code == 200, answer.text
    shown: dict[str, object] = answer.json()
    return shown


def test_every_request_meets_its_arm_and_is_logged_with_the_shares_that_were_in_force(served: Served) -> None:
    rollout = on_trial(served)
    for version in ("2", "3", "4"):
        steer(served, rollout, "share", share=0.25, version=version)
    met: Counter[str] = Counter()
    shares = served.ledger.get(rollout.id).shares
    for number in range(60):
        row = served.events.request(ask(served, f"u{number}"))
        assert (row.arm, row.propensity) == assign(rollout.salt, f"u{number}", shares)
        assert row.shares == {"champion": 0.25, **shares}
        assert row.version == (row.arm.partition(":")[2] or "1")
        assert row.shadow is None
        met[row.version] += 1
    assert min(met[version] for version in ("1", "2", "3", "4")) >= 5
    seen = watch(served.events, served.ledger.get(rollout.id), Policy(), datetime.now(UTC))
    assert (seen.crossed, seen.alarm) == ("", "")
    assert {one.arm for one in seen.guardrails} == set(shares)
    ready = served.http.get("/ready").json()
    assert ready["arms"] == {"champion": 0.25, **shares}


def test_rewards_are_weighed_by_pairs_and_a_second_look_from_scratch_sees_the_same(served: Served) -> None:
    rollout = on_trial(served)
    for version in ("2", "3", "4"):
        steer(served, rollout, "share", share=0.25, version=version)
    for number in range(40):
        ask(served, f"u{number}", liked=float(number % 3 > 0))
    [shown] = served.http.get("/v1/rollouts").json()["data"]
    assert set(shown["verdicts"]) == {"2", "3", "4"}
    counted = [one["rewards"] for one in shown["verdicts"].values()]
    assert counted[0]["champion"] + sum(one["challenger"] for one in counted) == 40
    now, standing = datetime.now(UTC), served.ledger.get(rollout.id)
    looks = [
        outlook(standing, weighed(standing, served.events.rewards(rollout.id), Policy(), now), Policy(), now)
        for _ in range(2)
    ]
    assert looks[0] == looks[1]
    assert looks[0].next.action == "shift" or looks[0].next.cause == "settled"


def test_a_version_is_named_to_be_sent_home_or_promoted_and_stays_out(served: Served) -> None:
    rollout = on_trial(served)
    refused = served.http.post(f"/v1/rollouts/{rollout.id}/promote", json=WHO)
    assert refused.status_code == 400
    assert "3 versions are on trial; say which to promote: 2, 3 or 4" in refused.json()["error"]["message"]
    shown = steer(served, rollout, "abort", version="3", reason="odd answers")
    assert shown["status"] == "running"
    served.follow(lambda: served.router.versions == ("1", "2", "4"))
    assert {served.events.request(ask(served, f"u{number}")).version for number in range(40)} <= {"1", "2", "4"}
    assert steer(served, rollout, "promote", version="4")["challenger"] == "4"
    served.follow(lambda: served.router.versions == ("4",))
    champion = served.controls.versions.champion()
    assert champion is not None
    assert champion.version == "4"
    rows = served.ledger.history(rollout.id)
    assert [(row.action, row.shares["3"]) for row in rows] == [("open", 0.05), ("drop", 0.0), ("promote", 0.0)]
    assert served.ledger.verify().ok
    tags = {one.version: one.tags.get("evermoe.trial") for one in served.controls.versions.all()}
    assert (tags["2"], tags["3"], tags["4"]) == ("aborted", "aborted", "promoted")


def test_an_override_may_name_a_version_and_meets_the_champion_where_that_is_not_served(served: Served) -> None:
    rollout = on_trial(served)
    served.router._apart = Apart(0.0, {"ann": "3", "bob": "9", "cat": "challenger"})
    rows = [served.events.request(ask(served, unit)) for unit in ("ann", "bob", "cat")]
    assert [(row.arm, row.version, row.rollout) for row in rows] == [
        ("apart", "3", None),
        ("apart", "1", None),
        ("apart", "2", None),
    ]
    assert served.events.rewards(rollout.id) == []


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_console_shows_every_arm_and_who_is_out_and_why(served: Served, language: str) -> None:
    rollout = on_trial(served)
    for number in range(12):
        ask(served, f"u{number}", liked=1.0)
    steer(served, rollout, "abort", version="3", reason="odd answers about VLANs")

    def shown() -> str:
        return served.http.get("/", headers={"Accept-Language": language}).text

    served.follow(lambda: 'class="spanned"' in shown())
    page = shown()
    assert ("Versions 2, 4 meet 10% of the users" if language == "en" else "版本 2, 4 共应答 10% 的用户") in page
    assert "odd answers about VLANs" in page
    assert ("Version 3 is out:" if language == "en" else "版本 3 已撤下：") in page
    assert '<option value="4">4 · 5%</option>' in page
    assert "2: 5%, 3: 0%, 4: 5%" in page


def test_a_form_sends_one_version_home_after_it_was_asked_once_more(served: Served) -> None:
    form = {"Origin": served.url}
    done = served.http.post("/v1/rollouts", data=WHO | {"version": "2", "versions": ["2", "4"]}, headers=form)
    assert done.status_code == 303
    rollout = served.ledger.running()
    assert rollout is not None
    assert [one.version for one in rollout.challengers] == ["2", "4"]
    body = WHO | {"version": "4", "revision": "0"}
    asked = served.http.post(f"/v1/rollouts/{rollout.id}/abort", data=body, headers=form)
    assert "Send version 4 home?" in asked.text
    assert served.ledger.get(rollout.id) == rollout
    served.http.post(f"/v1/rollouts/{rollout.id}/abort", data=body | {"confirmed": "yes"}, headers=form)
    assert [one.version for one in served.ledger.get(rollout.id).inside] == ["2"]
    assert json.loads(served.http.get("/ready").text)["challenger"] == "2"
