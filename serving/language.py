"""Which language a browser gets, and how a string is said in it.

Knows requests. The strings are in `words.py`.
"""

from __future__ import annotations

from fastapi import Request

from serving.words import LANGUAGES, WORDS, Language

COOKIE = "evermoe_language"
TAGS: dict[Language, str] = {"en": "en", "zh": "zh-Hans"}
"""What the `lang` attribute says."""


def chosen(request: Request) -> Language | None:
    """The language that the address asks for, to be kept from now on; None where it asks for none."""
    return _known(request.query_params.get("lang", ""))


def language_of(request: Request) -> Language:
    """What the address asks for, else what was chosen before, else what the browser prefers, else English."""
    kept = chosen(request) or _known(request.cookies.get(COOKIE, ""))
    return kept or preferred(request.headers.get("accept-language", ""))


def preferred(header: str) -> Language:
    """The first of our languages by the weights of an Accept-Language header (RFC 9110, 12.5.4)."""
    wanted: list[tuple[float, int, Language]] = []
    for part in header.split(","):
        tag, _, weight = part.strip().partition(";")
        language = _known(tag.strip().lower().partition("-")[0])
        try:
            quality = float(weight.strip().removeprefix("q=") or 1)
        except ValueError:
            quality = 0.0
        if language is not None and quality > 0:
            wanted.append((-quality, len(wanted), language))
    return min(wanted)[2] if wanted else "en"


def say(language: Language, key: str, **values: object) -> str:
    """A string, with its values filled in."""
    return WORDS[language][key].format(**values)


def named(language: Language, group: str, name: str) -> str:
    """The string of a name that comes from below, or the name itself where we have none for it."""
    return WORDS[language].get(f"{group}{name}", name)


def _known(name: str) -> Language | None:
    return next((language for language in LANGUAGES if language == name), None)
