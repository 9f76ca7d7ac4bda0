"""What our tools are told before they are imported leaves alone what the user has set."""

from __future__ import annotations

import os

import pytest

from evermoe.quiet import silence


@pytest.mark.parametrize(
    ("set_before", "expected"),
    [
        (None, "127.0.0.1,localhost,::1"),
        ("intra.example", "intra.example,127.0.0.1,localhost,::1"),
        ("localhost,intra.example", "localhost,intra.example,127.0.0.1,::1"),
    ],
)
def test_what_runs_on_this_machine_is_asked_without_a_proxy(
    monkeypatch: pytest.MonkeyPatch, set_before: str | None, expected: str
) -> None:
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, set_before or "")
    silence()
    assert (os.environ["NO_PROXY"], os.environ["no_proxy"]) == (expected, expected)


def test_a_value_that_the_user_has_set_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TQDM_DISABLE", "0")
    silence()
    assert os.environ["TQDM_DISABLE"] == "0"
