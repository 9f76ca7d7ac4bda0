"""Every way of writing a moment that we promise to read, and those we promise not to guess."""

from datetime import UTC, date, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.dates import parse_moment

MOMENT = datetime(2021, 3, 4, 5, 6, 7, tzinfo=UTC)
ZONES = st.integers(-14 * 60, 14 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes)))
YEARS = {"min_value": datetime(1974, 1, 1), "max_value": datetime(2199, 1, 1)}
IN_DOUBT = (1976, 2033, 2034, 2035, 2036)
"""Years of which an epoch, in milliseconds or in seconds, may be the digits of a date and a time: those are refused."""


@pytest.mark.parametrize(
    "written",
    [
        "2021-03-04T05:06:07Z",
        "2021-03-04 05:06:07",
        "2021-03-04 05:06:07 UTC",
        "2021-03-04T07:06:07+02:00",
        "20210304T050607",
        " 2021-03-04T05:06:07 ",
        "1614834367",
        "1614834367000",
        "1614834367.0",
        1614834367,
        1614834367.0,
        1614834367000,
        datetime(2021, 3, 4, 5, 6, 7),
        datetime(2021, 3, 4, 7, 6, 7, tzinfo=timezone(timedelta(hours=2))),
    ],
)
def test_one_moment_written_in_many_ways(written: object) -> None:
    assert parse_moment(written) == MOMENT


@pytest.mark.parametrize("written", ["2021-03-04", "20210304", 20210304, date(2021, 3, 4)])
def test_a_plain_date_is_its_midnight_in_utc(written: object) -> None:
    assert parse_moment(written) == datetime(2021, 3, 4, tzinfo=UTC)


@pytest.mark.parametrize(
    "written",
    [
        *(
            "",
            "  ",
            None,
            "03/04/2021",
            "yesterday",
            "2021-13-01",
            "2021-02-30",
            "nan",
            "inf",
            "-5",
            "2021-03-04T05:06:07\0",
        ),
        *(
            True,
            0,
            2021,
            "2021",
            202103,
            "20210304050607",
            202506011230,
            "2025060112",
            "2025-06-01-05:00",
            "2025-05-31+14:00",
            "2025-06-01112",
            -1614834367,
            float("nan"),
            float("inf"),
            1e300,
            10**400,
            [],
            {},
        ),
        *(
            "0001-01-01",
            "1970-01-01",
            "9999-12-31",
            "0001-01-01T00:00:00+14:00",
            "9999-12-31T23:59:59-14:00",
            "٢٠٢١-٠٣-٠٤",
            "x" * 100_000,
        ),
    ],
)
def test_what_would_have_to_be_guessed_is_refused_in_one_short_line(written: object) -> None:
    with pytest.raises(ValueError, match=r"date|number") as refusal:
        parse_moment(written)
    assert "\n" not in str(refusal.value)
    assert len(str(refusal.value)) < 160


@given(st.datetimes(timezones=ZONES, **YEARS))
def test_iso_8601_with_any_zone_reads_back(moment: datetime) -> None:
    assert parse_moment(moment.isoformat()) == moment
    assert parse_moment(moment.isoformat()).utcoffset() == timedelta(0)


@given(st.datetimes(**YEARS))
def test_epoch_seconds_and_milliseconds_read_back(moment: datetime) -> None:
    at = moment.replace(microsecond=0, tzinfo=UTC)
    seconds = int(at.timestamp())
    for written in (seconds, str(seconds), seconds * 1000, f"{seconds}000"):
        try:
            read: object = parse_moment(written)
        except ValueError as refusal:
            read = str(refusal)
        assert read == at or (moment.year in IN_DOUBT and "may be a date and a time" in str(read))


@given(
    st.one_of(
        st.text(), st.floats(), st.integers(), st.none(), st.booleans(), st.binary(), st.datetimes(timezones=ZONES)
    )
)
def test_anything_else_gives_a_moment_in_utc_or_a_value_error(written: object) -> None:
    try:
        moment = parse_moment(written)
    except ValueError:
        return
    assert moment.utcoffset() == timedelta(0)
