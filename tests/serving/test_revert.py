"""A promotion is taken back by hand: by program and by form, and users meet the champion before it at once."""

from __future__ import annotations

import sqlite3
from typing import Any

import httpx
import pytest

from registry.rollout import Policy, Rollout
from serving.rollouts import Rollouts
from serving.router import Deployment
from tests.browser import Browser, keep
from tests.serving.conftest import Served
from tests.serving.test_console_browser import faultless, opened, tab_to

WHO = {"by": "ann", "reason": "it answers oddly about VLANs"}
PHONE = {"viewport": {"width": 360, "height": 740}}


def promoted(served: Served) -> Rollout:
    rollout = served.open_rollout()
    served.http.post(f"/v1/rollouts/{rollout.id}/promote", json=WHO).raise_for_status()
    assert served.router.versions == ("2",)
    return served.ledger.get(rollout.id)


def revert(served: Served, rollout: Rollout, **more: object) -> httpx.Response:
    return served.http.post(f"/v1/rollouts/{rollout.id}/revert", json=WHO | more)


def test_all_users_meet_the_champion_before_it_at_once_and_the_audit_says_who_and_why(served: Served) -> None:
    rollout = promoted(served)
    after = revert(served, rollout).json()
    assert (after["status"], after["share"]) == ("reverted", 0.0)
    assert served.router.versions == ("1",)
    champion = served.controls.versions.champion()
    assert champion is not None
    assert champion.version == "1"
    row = served.ledger.history()[-1]
    assert (row.action, row.by, row.reason) == ("revert", "ann", WHO["reason"])
    assert revert(served, rollout).status_code == 409


def test_what_is_not_promoted_or_has_changed_since_is_not_taken_back(served: Served) -> None:
    rollout = served.open_rollout()
    refused = revert(served, rollout)
    assert refused.status_code == 409
    assert refused.json()["error"]["message"] == f"cannot revert rollout {rollout.id}: it is running, not promoted"
    served.http.post(f"/v1/rollouts/{rollout.id}/promote", json=WHO).raise_for_status()
    assert revert(served, rollout, revision=rollout.revision).status_code == 409
    assert served.router.versions == ("2",)


def test_where_a_person_moved_the_alias_since_there_is_nothing_to_take_back(served: Served) -> None:
    rollout = promoted(served)
    served.controls.versions.set_alias("champion", "1")
    refused = revert(served, rollout)
    assert refused.status_code == 409
    assert "the champion is version 1 by now" in refused.json()["error"]["message"]


def test_decided_while_mlflow_is_down_it_takes_effect_as_soon_as_the_version_can_be_loaded(served: Served) -> None:
    rollout, other = promoted(served), Rollouts(served.controls, served.events, Policy())
    assert other.deployment() == Deployment("2")
    mlflow = served.database.with_name("mlflow.db")
    with sqlite3.connect(mlflow) as database:
        database.execute("ALTER TABLE registered_model_aliases RENAME TO lost")
    revert(served, rollout).raise_for_status()
    assert "version 1 cannot be loaded" in (served.router.problem or "")
    assert served.router.versions == ("2",)
    assert other.deployment() == Deployment("1")  # another gateway's, which had heeded the promotion
    with sqlite3.connect(mlflow) as database:
        database.execute("ALTER TABLE lost RENAME TO registered_model_aliases")
    restarted = Rollouts(served.controls, served.events, Policy())
    assert [one.deployment() for one in (other, restarted)] == [
        Deployment("1")
    ] * 2  # the alias says 2 until it is settled
    served.follow(lambda: served.router.versions == ("1",))
    served.controls.settle()
    assert other.deployment() == Deployment("1")
    served.controls.versions.set_alias("champion", "2")
    assert other.deployment() == Deployment("2")  # from then on the alias is a person's to move


def test_only_an_operator_may(served: Served) -> None:
    rollout = promoted(served)
    reviewer, operator = served.as_("reviewer", "operator")
    assert reviewer.post(f"/v1/rollouts/{rollout.id}/revert", json=WHO).status_code == 403
    assert "/revert" not in reviewer.get("/").text
    assert "/revert" in operator.get("/").text
    assert operator.post(f"/v1/rollouts/{rollout.id}/revert", json=WHO).status_code == 200


def test_the_button_is_there_as_long_as_there_is_something_to_take_back(served: Served) -> None:
    assert "/revert" not in served.http.get("/").text
    rollout = promoted(served)
    assert f"/v1/rollouts/{rollout.id}/revert" in served.http.get("/").text
    revert(served, rollout)
    assert "/revert" not in served.http.get("/").text


@pytest.mark.parametrize(("scheme", "locale"), [("light", "en-US"), ("dark", "zh-CN")])
def test_with_a_keyboard_alone_a_person_takes_a_promotion_back(
    served: Served, browser: Browser, scheme: str, locale: str
) -> None:
    rollout, language = promoted(served), {"en-US": "en", "zh-CN": "zh-Hans"}[locale]

    def play(page: Any) -> None:
        opened(page, served.url, "#reason-revert")
        faultless(page, "console", language)
        opened(page, served.url, "#reason-revert")
        tab_to(page, "details:has(#reason-revert) > summary")
        page.keyboard.press("Enter")
        for css, text in (("#by-revert", "ann"), ("#reason-revert", "odd answers about VLANs")):
            tab_to(page, css)
            page.keyboard.type(text)
        keep(page, f"revert-{scheme}-{language}", whole=True)
        with page.expect_navigation():
            page.keyboard.press("Enter")
        asked = {"en": "Go back from version 2 to version 1?", "zh-Hans": "从版本 2 回到版本 1？"}[language]
        assert page.inner_text("h1") == asked
        faultless(page, "question", language)
        tab_to(page, "button.danger")
        with page.expect_navigation():
            page.keyboard.press("Enter")
        serves = {"en": "Version 1 answers everyone", "zh-Hans": "版本 1 应答所有用户"}[language]
        assert page.inner_text("h1") == serves

    browser.play(play, color_scheme=scheme, locale=locale, **PHONE)
    assert served.ledger.get(rollout.id).status == "reverted"
