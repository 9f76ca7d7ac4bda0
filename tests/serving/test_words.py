"""Two languages that say the same, and the one a browser gets."""

from __future__ import annotations

import re
from pathlib import Path
from string import Formatter

import pytest

import serving
from serving.language import preferred
from serving.words import LANGUAGES, WORDS
from tests.serving.conftest import Served

TEMPLATES = Path(serving.__file__ or "").with_name("templates")


def fields(text: str) -> set[str]:
    return {name for _, name, _, _ in Formatter().parse(text) if name}


def test_both_languages_have_the_same_strings_with_the_same_values() -> None:
    assert set(LANGUAGES) == set(WORDS) == {"en", "zh"}
    assert WORDS["en"].keys() == WORDS["zh"].keys()
    for key, english in WORDS["en"].items():
        chinese = WORDS["zh"][key]
        assert fields(english) == fields(chinese), key
        assert english.strip(), key
        assert chinese.strip(), key


def test_every_string_a_template_names_is_there_and_no_template_has_words_of_its_own() -> None:
    for file in TEMPLATES.glob("*.html"):
        if file.name == "style.html":
            continue
        page = file.read_text()
        assert set(re.findall(r't\("([a-z_0-9]+)"[,)]', page)) <= WORDS["en"].keys(), file.name
        visible = re.sub(r"\{%.*?%\}|\{\{.*?\}\}|\{#.*?#\}|<code>.*?</code>|<[^>]*>", " ", page, flags=re.DOTALL)
        assert set(re.findall(r"[A-Za-z]{2,}", visible)) <= {"Evermoe"}, file.name


@pytest.mark.parametrize(
    ("header", "language"),
    [
        ("", "en"),
        ("zh-CN,zh;q=0.9,en;q=0.8", "zh"),
        ("zh-Hant-TW", "zh"),
        ("en-GB,en;q=0.9,zh;q=0.8", "en"),
        ("de-DE,de;q=0.9,zh;q=0.5,en;q=0.4", "zh"),
        ("zh;q=0,en;q=0.1", "en"),
        ("zh;q=nonsense", "en"),
        ("fr,*", "en"),
        (",;q=,;;", "en"),
    ],
)
def test_a_browser_gets_the_language_it_prefers_of_ours(header: str, language: str) -> None:
    assert preferred(header) == language


def test_a_language_that_was_chosen_is_kept_whatever_the_browser_prefers(served: Served) -> None:
    first = served.http.get("/", headers={"Accept-Language": "en"})
    assert '<html lang="en">' in first.text
    assert "set-cookie" not in first.headers
    chosen = served.http.get("/?lang=zh", headers={"Accept-Language": "en"})
    assert "HttpOnly" in chosen.headers["set-cookie"]
    assert '<html lang="zh-Hans">' in chosen.text
    again = served.http.get("/", headers={"Accept-Language": "en"})
    assert "版本 1 应答所有用户" in again.text
    assert again.headers["content-language"] == "zh-Hans"
    assert '<html lang="zh-Hans">' in served.http.get("/?lang=klingon").text


def test_the_sign_in_speaks_both_languages_too(served: Served) -> None:
    served.as_("operator")
    page = served.http.get("/?lang=zh", headers={"Accept": "text/html"})
    assert page.status_code == 401
    assert "登录" in page.text
    assert '<html lang="zh-Hans">' in page.text
    assert "set-cookie" in page.headers
