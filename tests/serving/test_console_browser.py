"""The console in a real Chromium: with a keyboard alone, without scripts, on a phone, in dark and light, in two languages.

With EVERMOE_SCREENSHOTS=FOLDER the pages are kept there as pictures.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from registry.rollout import Rollout
from serving.access import COOKIE
from tests.browser import PATIENCE_SECONDS, Browser, keep
from tests.monitoring.rows_for_tests import a_feedback, a_request
from tests.serving.conftest import Served

PHONE = {"viewport": {"width": 360, "height": 740}}
LOOKS = [
    pytest.param(scheme, locale, id=f"{scheme}-{locale}")
    for scheme in ("light", "dark")
    for locale in ("en-US", "zh-CN")
]


def key_of(http: httpx.Client) -> str:
    return http.headers["authorization"].removeprefix("Bearer ")


def lived(served: Served, rewards: int = 150) -> Rollout:
    """An open rollout with a history, requests, and feedback that tells its arms and its experts apart."""
    rollout, generator = served.open_rollout(share=0.3), random.Random(1)
    now = datetime.now(UTC)
    for number in range(rewards):
        challenger = generator.random() < 0.3
        experts = tuple(generator.sample(range(8), 2))
        row = (
            {"arm": "challenger", "version": "2", "propensity": 0.3}
            if challenger
            else {"version": "1", "propensity": 0.7}
        )
        at = now - timedelta(minutes=rewards - number)
        served.events.append(
            a_request(f"r{number}", at=at, unit=f"u{number}", rollout=rollout.id, experts=experts, **row)
        )
        liked = generator.random() < (0.2 if 3 in experts else 0.8)
        served.events.append(a_feedback(f"k{number}", f"r{number}", at=at, score=float(liked), label=None))
    served.follow(lambda: served.events.counts().feedback == rewards)
    for action, more in (("pause", {}), ("resume", {}), ("share", {"share": 0.4})):
        body = {"by": "ann", "reason": f"{action}, because Mondays are odd"} | more
        served.http.post(f"/v1/rollouts/{rollout.id}/{action}", json=body).raise_for_status()
    return rollout


def opened(page: Any, address: str, css: str) -> None:
    """Load a page until it shows what `css` finds: what takes long is read aside, and shown the next time."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        page.goto(address)
        if page.locator(css).count():
            return
        page.wait_for_timeout(300)
    raise AssertionError(f"{address} never showed {css}; it shows: {page.inner_text('body')[:2000]}")


def tab_to(page: Any, css: str) -> None:
    """Press Tab until the focus is on what `css` finds, and can be seen there."""
    for _ in range(80):
        page.keyboard.press("Tab")
        if page.evaluate("css => document.activeElement.matches(css)", css):
            outline = page.evaluate("() => getComputedStyle(document.activeElement).outlineStyle")
            assert outline != "none", f"the focus on {css} cannot be seen"
            return
    raise AssertionError(f"Tab never reaches {css}")


def faultless(page: Any, name: str, language: str) -> None:
    """Fail where axe finds a serious fault, or the page must be scrolled sideways, folded or not."""
    from axe_playwright_python.sync_playwright import Axe

    assert page.evaluate("() => document.documentElement.lang") == language
    assert page.evaluate("() => document.documentElement.scrollWidth <= innerWidth"), name
    for one in page.locator("details").all():  # what is folded is examined too
        one.evaluate("one => { one.removeAttribute('name'); one.open = true }")
    assert page.evaluate("() => document.documentElement.scrollWidth <= innerWidth"), name
    found = Axe().run(page).response["violations"]
    serious = [one for one in found if one["impact"] in ("serious", "critical")]
    assert not serious, [(one["id"], [node["html"][:200] for node in one["nodes"]]) for one in serious]


def lived_with_several(served: Served) -> Rollout:
    """An open rollout of three versions with feedback, one of which was sent home."""
    who = {"by": "ann", "reason": "three candidates for the autumn"}
    answer = served.http.post("/v1/rollouts", json=who | {"versions": ["2", "3", "4"]}).json()
    generator, now = random.Random(1), datetime.now(UTC)
    shares = {"champion": 0.4, "challenger:2": 0.3, "challenger:3": 0.1, "challenger:4": 0.2}
    for number in range(240):
        arm = generator.choices(list(shares), list(shares.values()))[0]
        version = arm.partition(":")[2] or "1"
        row = {"arm": arm, "version": version, "propensity": shares[arm], "shares": shares, "rollout": answer["id"]}
        at = now - timedelta(minutes=240 - number)
        served.events.append(a_request(f"r{number}", at=at, unit=f"u{number}", **row))
        liked = generator.random() < (0.9 if version == "2" else 0.6)
        served.events.append(a_feedback(f"k{number}", f"r{number}", at=at, score=float(liked), label=None))
    served.follow(lambda: served.events.counts().feedback == 240)
    home = who | {"version": "3", "reason": "odd answers about VLANs"}
    served.http.post(f"/v1/rollouts/{answer['id']}/abort", json=home).raise_for_status()
    return served.ledger.get(answer["id"])


@pytest.mark.usefixtures("four_versions")
@pytest.mark.parametrize(("scheme", "locale"), [LOOKS[0], LOOKS[-1]])
def test_several_versions_are_shown_without_a_serious_fault_on_a_desk_and_on_a_phone(
    served: Served, browser: Browser, scheme: str, locale: str
) -> None:
    lived_with_several(served)
    language = {"en-US": "en", "zh-CN": "zh-Hans"}[locale]

    def play(page: Any) -> None:
        opened(page, served.url, ".span i")
        keep(page, f"several-{scheme}-{language}-{page.viewport_size['width']}", whole=True)
        assert page.locator(".span i").count() == 3
        assert page.locator(".multiples .plot svg").count() == 3
        of_version = {"en": "Version 2: The interval after each look", "zh-Hans": "版本 2: 每次查看后的区间"}[language]
        assert page.get_by_role("img", name=of_version).count() == 1
        faultless(page, "console", language)

    look = {"color_scheme": scheme, "locale": locale}
    browser.play(play, **look)
    browser.play(play, **look, **PHONE)


@pytest.mark.usefixtures("four_versions")
def test_with_a_keyboard_alone_a_person_starts_several_versions_and_sends_one_home(
    served: Served, browser: Browser
) -> None:
    def play(page: Any) -> None:
        def fill(css: str, text: str) -> None:
            tab_to(page, css)
            page.keyboard.type(text)

        opened(page, served.url, "#version")
        tab_to(page, "details:has(fieldset) > summary")
        page.keyboard.press("Enter")
        for version in ("4", "3", "2"):
            tab_to(page, f"input[type=checkbox][value='{version}']")
            page.keyboard.press("Space")
        fill("#by-start", "ann")
        fill("#reason-start", "three candidates")
        with page.expect_navigation():
            page.keyboard.press("Enter")
        assert "meet 15% of the users" in page.inner_text("h1")
        tab_to(page, "details:has(#reason-abort) > summary")
        page.keyboard.press("Enter")
        tab_to(page, "#version-abort")
        page.keyboard.type("3")
        fill("#by-abort", "ann")
        fill("#reason-abort", "odd answers about VLANs")
        with page.expect_navigation():
            page.keyboard.press("Enter")
        assert page.inner_text("h1") == "Send version 3 home?"
        tab_to(page, "button.danger")
        with page.expect_navigation():
            page.keyboard.press("Enter")
        assert page.get_by_role("status").inner_text().startswith("Done: ")

    browser.play(play)
    open_now = served.ledger.running()
    assert open_now is not None
    assert sorted(one.version for one in open_now.inside) == ["2", "4"]


def test_with_a_keyboard_alone_a_person_starts_a_rollout_moves_its_share_aborts_it_and_is_found_in_the_history(
    served: Served, browser: Browser
) -> None:
    def play(page: Any) -> str:
        def fill(css: str, text: str) -> None:
            tab_to(page, css)
            page.keyboard.press("Control+A")
            page.keyboard.type(text)

        opened(page, served.url, "#version")
        fill("#by-start", "ann")
        fill("#reason-start", "the flow was down last night")
        tab_to(page, "button.primary")
        with page.expect_navigation():
            page.keyboard.press("Enter")
        assert page.get_by_role("status").inner_text().startswith("Done: started")
        assert "Version 2 meets 5% of the users" in page.inner_text("h1")

        opened(page, served.url, ".why:has-text('0 of 8 rewards have come')")
        tab_to(page, "details:has(#share) > summary")
        page.keyboard.press("Enter")
        fill("#share", "20%")
        fill("#by-share", "ann")
        fill("#reason-share", "more traffic before the weekend")
        page.keyboard.press("Enter")
        page.wait_for_url("**/?done=share")
        assert "Version 2 meets 20% of the users" in page.inner_text("h1")

        tab_to(page, "details:has(#reason-abort) > summary")
        page.keyboard.press("Enter")
        fill("#by-abort", "ann")
        fill("#reason-abort", "odd answers about VLANs")
        with page.expect_navigation():
            page.keyboard.press("Enter")
        assert page.inner_text("h1") == "Abort the trial of version 2?"
        assert "odd answers about VLANs" in page.inner_text("main")
        keep(page, "console-confirm")
        tab_to(page, "button.danger")
        with page.expect_navigation():
            page.keyboard.press("Enter")
        assert page.inner_text("h1") == "Version 1 answers everyone"
        keep(page, "console-aborted", whole=True)
        return str(page.inner_text("section:has(#history) tbody"))

    history = browser.play(play)
    lines = [line for line in history.splitlines() if line.strip()]
    for words in (
        "aborted",
        "odd answers about VLANs",
        "share set",
        "20%",
        "more traffic before the weekend",
        "started",
    ):
        assert any(words in line for line in lines), history
    assert [row.by for row in served.ledger.history()] == ["ann"] * 3
    assert served.router.versions == ("1",)


def test_in_a_browser_without_scripts_a_person_signs_in_steers_and_signs_out(served: Served, browser: Browser) -> None:
    rollout = served.open_rollout(share=0.3)
    [operator] = served.as_("operator")

    def play(page: Any) -> None:
        page.goto(served.url)
        keep(page, "sign-in")
        page.get_by_label("API key").fill(key_of(operator))
        page.get_by_role("button", name="Sign in").click()
        assert "operator, operator" in page.inner_text("header")
        [cookie] = page.context.cookies()
        assert (cookie["name"], cookie["httpOnly"], cookie["sameSite"]) == (COOKIE, True, "Strict")
        page.get_by_text("Set the share").first.click()
        page.get_by_label("Share of the users").fill("40%")
        form = page.locator("form[action$='/share']")
        form.get_by_label("Reason").fill("more traffic")
        form.get_by_role("button").click()
        assert "more traffic" in page.inner_text("section:has(#history)")
        assert "operator (key " in page.inner_text("section:has(#history)")
        page.get_by_role("button", name="Sign out").click()
        assert page.inner_text("h1") == "Sign in"
        assert page.context.cookies() == []

    browser.play(play, java_script_enabled=False)
    assert served.ledger.get(rollout.id).share == 0.4


@pytest.mark.parametrize(("scheme", "locale"), LOOKS)
def test_axe_finds_no_serious_fault_and_a_phone_needs_no_scrolling_sideways(
    served: Served, browser: Browser, scheme: str, locale: str
) -> None:
    lived(served)
    language = {"en-US": "en", "zh-CN": "zh-Hans"}[locale]

    def play(page: Any) -> None:
        opened(page, served.url, ".plot svg")
        keep(page, f"console-{scheme}-{language}-{page.viewport_size['width']}", whole=True)
        faultless(page, "console", language)

    def question(page: Any) -> None:
        page.goto(served.url)
        form = page.locator("form[action$='/abort']")
        page.locator("details:has(#reason-abort) > summary").click()
        page.locator("#by-abort").fill("ann")
        page.locator("#reason-abort").fill("r")
        form.get_by_role("button").click()
        faultless(page, "question", language)

    def sign_in(page: Any) -> None:
        page.goto(served.url)
        assert page.locator("#key").count() == 1
        faultless(page, "sign-in", language)

    look = {"color_scheme": scheme, "locale": locale}
    browser.play(play, **look)
    browser.play(play, **look, **PHONE)
    browser.play(question, **look, **PHONE)
    served.as_("operator")
    browser.play(sign_in, **look)
    browser.play(sign_in, **look, **PHONE)


def test_the_picture_has_words_and_a_table_for_who_does_not_see_it(served: Served, browser: Browser) -> None:
    lived(served, rewards=400)

    def play(page: Any) -> None:
        opened(page, served.url, ".plot svg")
        picture = page.get_by_role("img", name="The interval after each look")
        assert "to 400 counted rewards" in picture.get_attribute("aria-label")
        page.get_by_text("The same as a table").click()
        assert 6 <= page.locator(".chart ~ details tbody tr").count() <= 12
        opened(page, served.url, "section:has(#guardrails) tbody")
        guardrails = page.inner_text("section:has(#guardrails) tbody").splitlines()
        assert [line.split("\t")[0] for line in guardrails] == [
            "errors",
            "slow answers",
            "empty answers",
            "sample ratio",
            "crossed units",
        ]
        assert all("within" in line for line in guardrails)
        experts = page.inner_text("section:has(#experts)")
        assert "8 experts compared" in experts
        assert any(line.startswith("3") and line.rstrip().endswith("sure") for line in experts.splitlines())

    browser.play(play)


def test_the_language_is_switched_on_the_page_and_stays(served: Served, browser: Browser) -> None:
    served.open_rollout()

    def play(page: Any) -> None:
        page.goto(served.url)
        page.get_by_role("link", name="中文").click()
        assert page.evaluate("() => document.documentElement.lang") == "zh-Hans"
        page.goto(served.url)
        assert "版本 2 应答 50% 的用户" in page.inner_text("h1")
        page.get_by_role("link", name="English").click()
        page.goto(served.url)
        assert "Version 2 meets 50% of the users" in page.inner_text("h1")

    browser.play(play, java_script_enabled=True)


def test_the_skip_link_is_the_first_stop_and_leads_past_the_header(served: Served, browser: Browser) -> None:
    def play(page: Any) -> None:
        page.goto(served.url)
        tab_to(page, ".skip")
        page.keyboard.press("Enter")
        assert page.evaluate("() => document.activeElement.id") == "content"

    browser.play(play)


def test_what_a_user_or_an_operator_wrote_is_text_on_the_page(start: Callable[..., Served], browser: Browser) -> None:
    served = start()
    rollout = served.open_rollout(share=0.3)
    hostile = "<img src=x onerror=\"document.title='owned'\">"
    body = {"by": hostile, "reason": hostile}
    served.http.post(f"/v1/rollouts/{rollout.id}/pause", json=body).raise_for_status()

    def play(page: Any) -> None:
        page.goto(served.url)
        assert hostile in page.inner_text("section:has(#history)")
        page.goto(f"{served.url}/?done={hostile}&lang={hostile}")
        assert page.locator("img:not([role])").count() == 0

    browser.play(play)
    assert "owned" not in browser.title
