"""Reads the ways people write a moment down: ISO 8601, plain dates, epoch seconds and milliseconds.

Refuses what it would have to guess: day and month in an order it cannot know, numbers that are no plausible epoch or may be digits
of a date and a time.
"""

from __future__ import annotations

import re
from datetime import UTC, date, datetime

EPOCH_SECONDS = (
    1e8,
    7.26e9,
)  # 1973 to 2200; below lie years and compact dates, which as an epoch would all fall in 1970
EPOCH_MILLISECONDS = (1e11, 7.26e12)
PLAUSIBLE_YEARS = range(1971, 2201)  # others stand for "unknown" (1970-01-01, 0001-01-01) or "never" (9999-12-31)
COMPACT_YEARS = range(1990, 2101)
COMPACT_DATE = re.compile(r"[12][0-9]{7}")  # 20210304
NUMBER = re.compile(r"[0-9]+(\.[0-9]+)?")
DAY = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}|[0-9]{8}|[0-9]{4}-?[Ww][0-9]{2}(-?[1-7])?")
TIME = re.compile(r"[Tt ].*")
"""What may follow a day: `fromisoformat` takes any character between the two, so the sign of 2025-06-01-05:00 as well."""
ISO_CHARACTERS = re.compile(r"[0-9TtWwZz:.,+ -]+")
UTC_WORD = re.compile(r"\s*(UTC|GMT)$", re.IGNORECASE)


def parse_moment(value: object) -> datetime:
    """The moment `value` names, in UTC; a time without a zone is taken as UTC. Raises `ValueError` with the reason.

    Takes `datetime` and `date` (as Parquet gives them), numbers (epoch seconds from 1973 to 2200, or milliseconds of the same
    years), and text that holds either of those or ISO 8601.
    """
    if isinstance(value, datetime):
        moment = value
    elif isinstance(value, date):
        moment = datetime(value.year, value.month, value.day)
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        return _from_number(value)
    elif isinstance(value, str):
        text = value.strip()
        if not text:
            raise ValueError("no date")
        if NUMBER.fullmatch(text) and not COMPACT_DATE.fullmatch(text):
            return _from_number(float(text))
        bare, named = UTC_WORD.subn("", text)
        text = f"{bare}+00:00" if named and not DAY.fullmatch(bare) else bare
        day = DAY.match(text)
        try:
            if day is None or not (TIME.fullmatch(text, day.end()) or day.end() == len(text)):
                raise ValueError
            if not ISO_CHARACTERS.fullmatch(text):  # fromisoformat stops at a NUL byte and takes what stood before it
                raise ValueError
            moment = datetime.fromisoformat(text)
        except ValueError:
            raise ValueError(f"cannot read the date {shortened(text)}; write it as ISO 8601 or epoch seconds") from None
    elif value is None:
        raise ValueError("no date")
    else:
        raise ValueError(f"cannot read the date {shortened(str(value))}; write it as ISO 8601 or epoch seconds")
    try:
        moment = moment.replace(tzinfo=UTC) if moment.utcoffset() is None else moment.astimezone(UTC)
    except OverflowError:
        raise ValueError(f"the date {shortened(str(value))} is out of range") from None
    if moment.year not in PLAUSIBLE_YEARS:
        raise ValueError(
            f"the date {shortened(str(value))} is not between {PLAUSIBLE_YEARS[0]} and {PLAUSIBLE_YEARS[-1]}"
        )
    return moment


def _from_number(number: int | float) -> datetime:
    if isinstance(number, int) and COMPACT_DATE.fullmatch(str(number) if number < 1e9 else ""):
        return parse_moment(str(number))
    for (first, last), scale in ((EPOCH_SECONDS, 1), (EPOCH_MILLISECONDS, 1000)):
        if first <= number < last:
            if _is_compact_time(number):
                raise ValueError(
                    f"the number {shortened(str(number))} may be a date and a time or an epoch; write it as ISO 8601"
                )
            return datetime.fromtimestamp(number / scale, UTC)
    raise ValueError(f"the number {shortened(str(number))} is neither epoch seconds nor milliseconds")


def _is_compact_time(number: int | float) -> bool:
    """Whether the digits are a day, an hour and perhaps a minute of these times: 202506011230."""
    digits = str(int(number))
    for form, length in (("%Y%m%d%H", 10), ("%Y%m%d%H%M", 12)):
        try:
            if len(digits) == length and number == int(number):
                return datetime.strptime(digits, form).year in COMPACT_YEARS
        except ValueError:
            return False
    return False


def shortened(text: str) -> str:
    """`text` quoted, and cut to what fits in one line of an error."""
    return repr(text if len(text) <= 40 else text[:37] + "...")
