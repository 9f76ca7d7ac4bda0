"""The console for a person with a key: a form, a session, and no way in for another site's page."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import httpx
import pytest

from evermoe.errors import StorageUnavailable
from serving.access import COOKIE, Access
from tests.serving.conftest import Served

BROWSER = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}


@pytest.fixture
def served(start: Callable[..., Served]) -> Served:
    """A gateway with a key of each role, and no cookie yet; `http` is a browser."""
    served = start()
    served.http.headers.update(BROWSER | {"Origin": served.url})
    return served


def key_of(http: httpx.Client) -> str:
    return http.headers["authorization"].removeprefix("Bearer ")


def test_a_person_without_a_session_sees_the_form_and_nothing_of_the_console(served: Served) -> None:
    served.open_rollout()
    served.as_("operator")
    page = served.http.get("/")
    assert page.status_code == 401
    assert 'action="/login"' in page.text
    assert 'role="alert"' not in page.text
    assert "2025-06" not in page.text


def test_a_key_opens_a_session_whose_cookie_is_for_no_script_and_no_other_site(served: Served) -> None:
    [operator] = served.as_("operator")
    done = served.http.post("/login", data={"key": f" {key_of(operator)} "})
    assert (done.status_code, done.headers["location"]) == (303, "/")
    cookie = done.headers["set-cookie"]
    assert all(word in cookie for word in ("HttpOnly", "SameSite=strict", "Path=/", "Max-Age=43200"))
    assert key_of(operator)[:24] not in cookie
    page = served.http.get("/", headers={"Authorization": "Basic YTpi"})  # as a proxy may ask for besides
    assert page.status_code == 200
    assert "operator, operator" in page.text
    assert "frame-ancestors 'none'" in page.headers["content-security-policy"]
    assert page.headers["cache-control"] == "no-store"


def test_over_https_the_cookie_is_for_https_alone(served: Served) -> None:
    [operator] = served.as_("operator")
    proxied = {"X-Forwarded-Proto": "https", "Origin": served.url.replace("http:", "https:")}
    assert "Secure" in served.http.post("/login", data={"key": key_of(operator)}, headers=proxied).headers["set-cookie"]


def test_an_operator_steers_from_the_console_and_the_audit_has_the_keys_name(served: Served) -> None:
    rollout = served.open_rollout(share=0.3)
    [operator] = served.as_("operator")
    served.http.post("/login", data={"key": key_of(operator)})
    page = served.http.get("/").text
    assert "Set the share" in page
    assert "Your name" not in page
    done = served.http.post(f"/v1/rollouts/{rollout.id}/share", data={"reason": "more traffic", "share": "0.4"})
    assert (done.status_code, served.ledger.get(rollout.id).share) == (303, 0.4)
    assert served.ledger.history(rollout.id)[-1].by.startswith("operator (key ")


def test_a_reviewer_sees_the_rollout_and_has_no_buttons(served: Served) -> None:
    rollout = served.open_rollout(share=0.3)
    [reviewer] = served.as_("reviewer")
    served.http.post("/login", data={"key": key_of(reviewer)})
    page = served.http.get("/").text
    assert "Rollout 2025-06-2" in page
    assert "Set the share" not in page
    refused = served.http.post(f"/v1/rollouts/{rollout.id}/abort", data={"reason": "r", "confirmed": "yes"})
    assert refused.status_code == 403
    assert "is of the role reviewer" in refused.text
    assert served.ledger.get(rollout.id).open


@pytest.mark.parametrize(("given", "status"), [("nonsense", 401), ("", 401), ("client", 403), ("revoked", 401)])
def test_a_key_that_is_none_or_not_for_the_console_gets_the_form_again_and_why(
    served: Served, given: str, status: int
) -> None:
    client, operator = served.as_("client", "operator")
    access: Access = served.app.state.access
    access.keys.revoke("operator", datetime.now(UTC))
    served.follow(lambda: access.holder(key_of(operator)) is None)
    text = {"client": key_of(client), "revoked": key_of(operator)}.get(given, given)
    refused = served.http.post("/login", data={"key": text})
    assert refused.status_code == status
    assert 'role="alert"' in refused.text
    assert "set-cookie" not in refused.headers
    assert not text or text not in refused.text


def test_another_sites_page_can_neither_sign_in_nor_steer_with_a_persons_session(served: Served) -> None:
    rollout = served.open_rollout(share=0.3)
    [operator] = served.as_("operator")
    served.http.post("/login", data={"key": key_of(operator)})
    cookie = {"Cookie": f"{COOKIE}={served.http.cookies[COOKIE]}"}
    for origin in ({"Origin": "https://elsewhere.example"}, {"Origin": "http://127.0.0.1:1"}, {"Origin": "null"}, {}):
        with httpx.Client(base_url=served.url, headers=cookie | origin) as other:
            for body in ({"data": {"reason": "r", "confirmed": "yes"}}, {"json": {"reason": "r"}}):
                assert other.post(f"/v1/rollouts/{rollout.id}/promote", **body).status_code == 403  # type: ignore[arg-type]
            if origin:
                assert other.post("/login", data={"key": key_of(operator)}).status_code == 403
                assert other.post("/logout").status_code == 403
    assert served.ledger.get(rollout.id).status == "running"
    assert served.http.get("/").status_code == 200


def test_a_session_is_over_after_sign_out_with_its_key_and_after_twelve_hours(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    [operator] = served.as_("operator")
    access: Access = served.app.state.access

    def session() -> dict[str, str]:
        served.http.cookies.clear()
        served.http.post("/login", data={"key": key_of(operator)})
        return {"Cookie": f"{COOKIE}={served.http.cookies[COOKIE]}"}

    def status(cookie: dict[str, str]) -> int:
        return httpx.get(served.url, headers=BROWSER | cookie).status_code

    signed_out, timed_out, revoked = session(), session(), session()
    assert [status(one) for one in (signed_out, timed_out, revoked)] == [200, 200, 200]
    done = httpx.post(f"{served.url}/logout", headers=signed_out | {"Origin": served.url})
    assert (done.status_code, status(signed_out)) == (303, 401)
    with monkeypatch.context() as later:
        later.setattr(access, "clock", lambda: datetime.now(UTC) + timedelta(hours=12, seconds=1))
        assert status(timed_out) == 401
    assert status(revoked) == 200
    access.keys.revoke("operator", datetime.now(UTC))
    assert status(revoked) == 401
    assert "session is over" in httpx.get(served.url, headers=BROWSER | revoked).text


def test_while_the_database_is_gone_a_session_seen_lately_goes_on_and_no_other(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    [operator] = served.as_("operator")
    access: Access = served.app.state.access

    def gone(token: str, now: datetime) -> None:
        raise StorageUnavailable("the database is gone")

    served.http.post("/login", data={"key": key_of(operator)})
    seen = {"Cookie": f"{COOKIE}={served.http.cookies[COOKIE]}"}
    assert httpx.get(served.url, headers=BROWSER | seen).status_code == 200
    monkeypatch.setattr(access.keys, "key_of_session", gone)
    assert httpx.get(served.url, headers=BROWSER | seen).status_code == 200
    assert httpx.get(served.url, headers=BROWSER | {"Cookie": f"{COOKIE}=x"}).status_code == 503
    access.keys.revoke("operator", datetime.now(UTC))
    served.follow(lambda: httpx.get(served.url, headers=BROWSER | seen).status_code == 503)


def test_signed_out_is_signed_out_while_the_database_is_gone(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    [operator] = served.as_("operator")
    access: Access = served.app.state.access
    served.http.post("/login", data={"key": key_of(operator)})
    session = {"Cookie": f"{COOKIE}={served.http.cookies[COOKIE]}"}
    assert httpx.get(served.url, headers=BROWSER | session).status_code == 200
    assert httpx.post(f"{served.url}/logout", headers=session | {"Origin": served.url}).status_code == 303

    def gone(token: str, now: datetime) -> None:
        raise StorageUnavailable("the database is gone")

    monkeypatch.setattr(access.keys, "key_of_session", gone)
    assert httpx.get(served.url, headers=BROWSER | session).status_code == 503


def test_on_an_open_gateway_there_is_nothing_to_sign_in_to(served: Served) -> None:
    assert served.http.post("/login", data={"key": "x"}).headers["location"] == "/"
    assert "Sign out" not in served.http.get("/").text


@pytest.mark.parametrize("body", [b"", b"key", b"key=%FF%00&key=x", b"\xff\xfe", b"&" * 50, b"key=" + b"x" * 100_000])
def test_an_odd_form_is_refused_and_breaks_nothing(served: Served, body: bytes) -> None:
    served.as_("operator")
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    assert served.http.post("/login", content=body, headers=form).status_code in (400, 401)
