"""The record and its months."""

from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest

from evermoe.errors import BadInput, NotFound
from streams import Columns, Record, months, open_stream
from streams.record import LoadedStream

NOON = datetime(2021, 3, 4, 12, tzinfo=UTC)


def record(at: datetime, text: str = "a note") -> Record:
    return Record(at, text, None, None, "test")


@pytest.mark.parametrize("at", [NOON.replace(tzinfo=None), NOON.astimezone(timezone(timedelta(hours=2)))])
def test_a_time_that_is_not_in_utc_is_refused(at: datetime) -> None:
    with pytest.raises(BadInput, match="UTC"):
        record(at)


@pytest.mark.parametrize("text", ["", " \n\t"])
def test_a_record_without_text_is_refused(text: str) -> None:
    with pytest.raises(BadInput, match="no text"):
        record(NOON, text)


def test_months_are_in_order_and_keep_the_order_of_their_records() -> None:
    late, first, second = (
        record(datetime(2021, 12, 31, 23, 59, tzinfo=UTC)),
        record(NOON, "first"),
        record(NOON, "second"),
    )
    assert months([late, first, second]) == {"2021-03": [first, second], "2021-12": [late]}


def test_records_come_by_time_and_those_of_one_instant_in_the_order_of_their_source() -> None:
    later, first, second = record(NOON + timedelta(seconds=1)), record(NOON, "first"), record(NOON, "second")
    assert LoadedStream("test", "f", (later, first, second)).records() == [first, second, later]


def test_an_unknown_stream_is_answered_with_those_there_are(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="ansible, git, files"):
        open_stream("kafka", path=None, cache=tmp_path)


@pytest.mark.parametrize("name", ["git", "files"])
def test_a_stream_that_needs_a_path_says_so(name: str, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="needs --path"):
        open_stream(name, path=None, cache=tmp_path)


def test_ansible_refuses_a_path_and_git_refuses_columns_instead_of_ignoring_them(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="not read from a path"):
        open_stream("ansible", path=tmp_path, cache=tmp_path)
    with pytest.raises(BadInput, match="columns"):
        open_stream("git", path=tmp_path, cache=tmp_path, columns=Columns(text="subject"))
