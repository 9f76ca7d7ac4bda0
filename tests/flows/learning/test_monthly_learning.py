"""What an update is examined on: every past month, within a bound."""

from __future__ import annotations

from datetime import UTC, datetime

from evermoe.settings import load_params
from flows.learning.update import compose
from registry.snapshots import SnapshotRow

KNOWN = [
    SnapshotRow(f"text {year} {month} {n}", "a", None, datetime(year, month, 1, tzinfo=UTC), "stream-1")
    for year in (2020, 2021, 2022, 2023, 2024)
    for month in range(1, 13)
    for n in range(70)
]


def test_every_past_month_examines_however_many_there_are() -> None:
    material = compose([], KNOWN, load_params().update, 60)
    assert len(material.past_exam) == 60
    assert min(map(len, material.past_exam.values())) > 2


def test_where_the_months_are_many_each_examines_with_fewer() -> None:
    material = compose([], KNOWN, load_params().update, 60, 240)
    assert len(material.past_exam) == 60
    assert 180 < sum(map(len, material.past_exam.values())) <= 240
