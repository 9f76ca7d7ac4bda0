"""What an update learns from, what it is examined on, and how certain its challenger is."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime

import pytest

from evermoe.settings import load_params
from flows.learning.update import compose, update
from model import from_pretrained
from model.calibration import temperature_for
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


def test_the_challenger_sees_more_of_the_past_than_the_new_model_and_no_row_often() -> None:
    params = load_params().update.model_copy(update={"epochs": 2, "distil_epochs": 4, "unit_share": 1.0})
    fresh = [SnapshotRow(f"new {n}", "b", None, datetime(2025, 1, 1, tzinfo=UTC), "stream-1") for n in range(30)]
    material = compose(fresh, KNOWN, params, 60)
    shares = [len(one.domain) / (len(one.domain) + len(one.past)) for one in (material.train, material.distil)]
    assert shares == pytest.approx([params.domain_share, params.distil_domain_share], abs=0.01)
    assert [len(one.domain) / len(material.domain) for one in (material.train, material.distil)] == [2, 4]
    assert max(Counter(material.replayed).values()) <= 2


def test_the_challenger_is_as_certain_as_would_have_suited_its_parent_in_this_month(tiny_model_folder) -> None:
    champion = from_pretrained(tiny_model_folder)
    surprising = [("fix the row", "net.switch"), ("rename the table", "net.switch"), ("fix the port", "db.sql")] * 20
    fresh = [SnapshotRow(text, label, None, datetime(2025, 1, 1, tzinfo=UTC), "s") for text, label in surprising]
    params = load_params().update.model_copy(update={"unit_share": 1.0})
    material = compose(fresh, [], params, 60)
    challenger = update(champion, material, params, lambda name, training: champion.copy()).challenger
    assert challenger.temperature == temperature_for(champion, material.domain) > 1.2
