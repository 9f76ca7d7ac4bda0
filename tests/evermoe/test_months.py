"""Months by name, in UTC."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest

from evermoe.errors import BadInput
from evermoe.months import after, before, end_of, month_of, period_of, start_of


def test_a_year_ends_and_begins() -> None:
    assert (after("2024-12"), before("2025-01")) == ("2025-01", "2024-12")
    assert (after("2024-01"), after("2024-02")) == ("2024-02", "2024-03")


def test_an_instant_lies_in_the_month_it_has_in_utc() -> None:
    assert month_of(datetime(2025, 7, 1, 1, tzinfo=timezone(timedelta(hours=2)))) == "2025-06"


def test_a_month_ends_where_the_next_begins() -> None:
    assert end_of("2025-06") == start_of("2025-07") == datetime(2025, 7, 1, tzinfo=UTC)


def test_a_month_that_is_not_over_is_known_up_to_a_day() -> None:
    assert period_of("2025-06", datetime(2025, 6, 14, 5, tzinfo=UTC)) == "2025-06-14"
    assert period_of("2025-06", datetime(2025, 7, 1, tzinfo=UTC)) == "2025-06"


@pytest.mark.parametrize("text", ["2025", "2025-13", "2025-6", "June", "", "2025-06-01", "0000-01", "9999-12"])
def test_what_is_no_month_is_refused(text: str) -> None:
    with pytest.raises(BadInput, match="is not a month"):
        start_of(text)
