"""Which months a demo replays, and what it says of a stream that has none."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

import pytest

from commands.demo_plan import Plan, choose_months
from evermoe.errors import BadInput
from evermoe.settings import StreamParams
from streams.record import Record


def records(*months: str, each: int = 10) -> list[Record]:
    """So many records in each of these months."""
    return [
        Record(
            datetime(int(month[:4]), int(month[5:]), 1 + day, tzinfo=UTC), f"text {day}", "ab"[day % 2], None, "test"
        )
        for month in months
        for day in range(each)
    ]


def year(count: int = 12) -> list[Record]:
    return records(*(f"2024-{month:02d}" for month in range(1, count + 1)))


def chosen(found: Sequence[Record], start: str | None = None, count: int = 6, **more: StreamParams) -> Plan:
    return choose_months(found, start, count, more.get("default"))


def test_a_given_start_parts_what_the_base_learns_from_what_is_replayed() -> None:
    plan = chosen(year(), "2024-05", 3)
    assert list(plan.months) == ["2024-05", "2024-06", "2024-07"]
    assert len(plan.before) == 40
    assert max(record.at for record in plan.before) < min(record.at for record in plan.months["2024-05"])


def test_without_a_start_the_last_months_are_replayed() -> None:
    assert list(chosen(year(), count=6).months) == [f"2024-{month:02d}" for month in range(7, 13)]


def test_without_a_start_the_base_keeps_two_fifths_of_the_records() -> None:
    plan = chosen(year(), count=11)
    assert plan.start == "2024-06"
    assert len(plan.before) >= 0.4 * 120


def test_the_start_of_the_parameters_is_taken_for_their_stream() -> None:
    default = StreamParams(name="ansible", until="2024-03")
    assert chosen(year(), count=2, default=default).start == "2024-03"


def test_a_month_without_records_is_replayed_as_one_in_which_nobody_asked() -> None:
    plan = chosen(records("2024-01", "2024-02", "2024-04"), "2024-02", 3)
    assert [len(found) for found in plan.months.values()] == [10, 0, 10]


def test_the_plan_ends_where_the_stream_ends() -> None:
    assert list(chosen(year(), "2024-11", 6).months) == ["2024-11", "2024-12"]


@pytest.mark.parametrize(
    ("found", "start", "why"),
    [
        ([], None, "no month at all"),
        (records("2024-01"), None, "only 2024-01"),
        (year(), "2025-06", "no records from 2025-06 on; it spans 2024-01 to 2024-12"),
        (year(), "2024-01", "no records before 2024-01"),
        (year(), "June", "is not a month; write YYYY-MM"),
    ],
)
def test_a_stream_that_cannot_be_replayed_is_refused_in_one_line(found: list[Record], start: str, why: str) -> None:
    with pytest.raises(BadInput, match=why) as error:
        chosen(found, start)
    assert "\n" not in str(error.value)
