"""Months as `YYYY-MM`, in UTC. Pure.

Here because records, the event log and the updates are all parted by them.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

from evermoe.errors import BadInput

MOST_DAYS = 36_500
"""A century is for ever, and more than a calendar can subtract fails."""


def start_of(month: str) -> datetime:
    """The month's first instant. Raises `BadInput` when `month` is not YYYY-MM."""
    if not re.fullmatch("[12][0-9]{3}-(0[1-9]|1[0-2])", month):
        raise BadInput(f"{month!r} is not a month; write YYYY-MM, 2025-06 say")
    return datetime(int(month[:4]), int(month[5:]), 1, tzinfo=UTC)


def month_of(at: datetime) -> str:
    """The month an instant lies in."""
    return at.astimezone(UTC).strftime("%Y-%m")


def after(month: str) -> str:
    """The next month."""
    return month_of(start_of(month) + timedelta(days=31))


def before(month: str) -> str:
    """The month before."""
    return month_of(start_of(month) - timedelta(days=1))


def end_of(month: str) -> datetime:
    """The first instant after the month."""
    return start_of(after(month))


def period_of(month: str, now: datetime) -> str:
    """The name of what is known of a month at `now`: the month when it is over, else the month up to a day (2025-06-14)."""
    return month if now >= end_of(month) else f"{month}-{now.astimezone(UTC).day:02d}"
