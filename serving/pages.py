"""How the gateway's own pages are rendered and sent: templates, how they write figures, what a browser may do with them.

Knows no page.
"""

from __future__ import annotations

from datetime import UTC
from pathlib import Path

from fastapi.responses import HTMLResponse
from jinja2 import Environment, FileSystemLoader, StrictUndefined

POLICY = {
    # no script, nothing fetched, no form sent elsewhere, and not shown inside another site's page, where clicks are stolen
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; img-src data:; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'",
    "Cache-Control": "no-store",
    "Referrer-Policy": "same-origin",  # with no-referrer, browsers hide the origin of our own forms too
    "X-Content-Type-Options": "nosniff",
}


def send(template: str, status: int, **values: object) -> HTMLResponse:
    """The page that `template` makes of `values`."""
    return HTMLResponse(_TEMPLATES.get_template(template).render(values), status, POLICY)


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return "none yet"
    for unit, size in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.1f} s"


def _environment() -> Environment:
    templates = Environment(
        loader=FileSystemLoader(Path(__file__).with_name("templates")), autoescape=True, undefined=StrictUndefined
    )
    templates.filters |= {
        "time": lambda at: f"{at.astimezone(UTC):%Y-%m-%d %H:%M} UTC",
        "percent": lambda share: f"{100 * share:.3g}%",
        "signed": lambda lift: f"{lift:+.3f}",
        "evidence": lambda e: f"{e:.2f}" if e < 10 else f"{e:,.0f}" if e < 1e6 else f"{e:.1e}",
        "three": lambda mean: "none" if mean is None else f"{mean:.3f}",
        "ms": lambda latency: "none" if latency is None else f"{latency:.0f} ms",
        "duration": _duration,
    }
    return templates


_TEMPLATES = _environment()
