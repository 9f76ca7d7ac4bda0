"""How the gateway's own pages are rendered and sent: templates, how they write figures, what a browser may do with them.

Knows no page.
"""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from fastapi import Request
from fastapi.responses import HTMLResponse
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from registry.book.audit import AuditRow
from serving import language as speech
from serving.language import TAGS
from serving.words import LANGUAGES, Language

POLICY = {
    # no script, nothing fetched, no form sent elsewhere, and not shown inside another site's page, where clicks are stolen
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; img-src data:; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'",
    "Cache-Control": "no-store",
    "Referrer-Policy": "same-origin",  # with no-referrer, browsers hide the origin of our own forms too
    "X-Content-Type-Options": "nosniff",
}
A_YEAR = 31_536_000


def send(request: Request, template: str, status: int, **values: object) -> HTMLResponse:
    """The page that `template` makes of `values`, in the language that the request asks for. One chosen is kept in a cookie."""
    language = speech.language_of(request)
    say = partial(speech.say, language)
    page = _TEMPLATES.get_template(template).render(
        values,
        t=say,
        named=partial(speech.named, language),
        lang=TAGS[language],
        languages=[(one, TAGS[one], one == language) for one in LANGUAGES],
        duration=partial(duration, language),
    )
    response = HTMLResponse(
        page, status, POLICY | {"Content-Language": TAGS[language], "Vary": "Accept-Language, Cookie"}
    )
    if speech.chosen(request) is not None:
        response.set_cookie(speech.COOKIE, language, max_age=A_YEAR, httponly=True, samesite="lax")
    return response


def duration(language: Language, seconds: float | None) -> str:
    """So long, in the largest unit of which there is one."""
    if seconds is None:
        return speech.say(language, "none")
    for unit, size in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= size:
            return speech.say(language, unit, n=f"{seconds / size:.1f}")
    return speech.say(language, "seconds", n=f"{seconds:.1f}" if seconds < 10 else f"{seconds:.0f}")


def evidence(e: float) -> str:
    """An e-value as one reads it."""
    if e < 0.01:
        return "0.00"
    return f"{e:.2f}" if e < 10 else f"{e:.0f}" if e < 1000 else f"{e:,.0f}" if e < 1e6 else f"{e:.0e}"


def towards(e: float, threshold: float) -> float:
    """How far an e-value is from 1 to its threshold, in percent, on a logarithmic scale."""
    return 100.0 * min(max(math.log(max(e, 1e-300)) / math.log(threshold), 0.0), 1.0)


def moment(at: datetime) -> str:
    """A time as the pages write it."""
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M} UTC"


def shares(row: AuditRow) -> str:
    """The share that a decision gave, or each one's where there are several challengers."""
    if len(row.shares) < 2:
        return f"{100 * row.share:.3g}%"
    return ", ".join(f"{version}: {100 * share:.3g}%" for version, share in row.shares.items())


def code(text: str) -> Markup:
    """Text as HTML, what stands between backticks as code."""
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text))))


def _environment() -> Environment:
    templates = Environment(
        loader=FileSystemLoader(Path(__file__).with_name("templates")),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    filters: dict[str, Any] = {
        "time": moment,
        "iso": lambda at: at.astimezone(UTC).isoformat(timespec="seconds"),
        "percent": lambda share: f"{100 * share:.3g}%",
        "shares": shares,
        "dealt": lambda rollout: ", ".join(f"{one.version}: {100 * one.share:.3g}%" for one in rollout.inside),
        "rate": lambda rate: f"{100 * rate:.2g}%" if rate < 0.995 else f"{100 * rate:.0f}%",
        "signed": lambda lift: f"{lift:+.3f}".replace("-", "−"),
        "axis": lambda lift: f"{lift:+.3g}".replace("-", "−") if lift else "0",
        "evidence": evidence,
        "three": lambda mean: "" if mean is None else f"{mean:.3f}",
        "ms": lambda latency: "" if latency is None else f"{latency:,.0f} ms",
        "count": lambda number: f"{number:,}",
        "code": code,
        "capital": lambda text: text[:1].upper() + text[1:],
    }
    templates.filters |= filters
    templates.globals["towards"] = towards
    return templates


_TEMPLATES = _environment()
