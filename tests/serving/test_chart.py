"""The picture of the confidence sequence: what lies where, and that nothing leaves it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from registry.analysis.looks import Look
from registry.book.audit import AuditRow
from serving.chart import HEIGHT, WIDTH, Chart, charts

AT = datetime(2025, 7, 1, tzinfo=UTC)


def looks(count: int) -> list[Look]:
    """Narrowing with the square root of the rewards, about a lift of 0.04."""
    return [
        Look(10 * n, AT, 0.04, max(-1.0, 0.04 - 1 / n**0.5), min(1.0, 0.04 + 1 / n**0.5), 1.0, 1.0)
        for n in range(1, count + 1)
    ]


def decided(action: str, share: float, **evidence: Any) -> AuditRow:
    return AuditRow(1, "june", 1, AT, "flow rollout", action, share, "", evidence, "", "")


def chart(looks: Sequence[Look], history: Sequence[AuditRow] = ()) -> Chart | None:
    """Of a lone challenger."""
    return charts({"challenger": looks}, history, {"challenger": "2"}).get("challenger")


def points(text: str) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, _, y in (one.partition(",") for one in text.split())]


def test_there_is_no_picture_before_the_second_look() -> None:
    assert chart([]) is None
    assert chart(looks(1)) is None


def test_the_axis_fits_the_later_looks_and_what_is_wider_is_cut_at_the_edge() -> None:
    picture = chart(looks(100))
    assert picture is not None
    assert [label.value for label in picture.lifts] == [0.2, 0.1, 0.0, -0.1, -0.2]
    assert all(0 <= x <= WIDTH and 0 <= y <= HEIGHT for x, y in points(picture.band) + points(picture.line))
    assert picture.zero == HEIGHT / 2
    assert points(picture.line)[-1] == (WIDTH, 120.0)  # a lift of 0.04 on an axis that ends at 0.2


def test_changes_of_the_share_are_marked_where_they_were_and_other_decisions_are_not() -> None:
    history = [
        decided("open", 0.05),
        decided("advance", 0.1, rewards_champion=200, rewards_challenger=50),
        decided("pause", 0.1, rewards_champion=210, rewards_challenger=50),
        decided("share", 0.3, rewards_champion=400, rewards_challenger=100),
        decided("share", 0.4),
    ]
    picture = chart(looks(100), history)
    assert picture is not None
    assert [(mark.percent, mark.value) for mark in picture.marks] == [(25.0, 0.1), (50.0, 0.3)]


def test_the_table_is_short_and_ends_with_the_last_look() -> None:
    for count in (2, 11, 12, 13, 60):
        picture = chart(looks(count))
        assert picture is not None
        assert len(picture.table) <= 12
        assert picture.table[-1].rewards == 10 * count
    alone = replace(looks(2)[0], rewards=0)
    assert chart([alone, looks(2)[1]]) is not None


def test_of_several_all_have_one_scale_and_each_its_own_marks() -> None:
    arms = {
        "2": {"rewards_champion": 200, "rewards_challenger": 50},
        "3": {"rewards_champion": 200, "rewards_challenger": 100},
    }
    history = [
        replace(decided("open", 0.1), shares={"2": 0.05, "3": 0.05}),
        replace(decided("shift", 0.3, arms=arms), shares={"2": 0.05, "3": 0.25}),
        replace(decided("drop", 0.25, arms=arms), shares={"2": 0.0, "3": 0.25}),
    ]
    seen = {"challenger:2": looks(10), "challenger:3": looks(100), "challenger:4": looks(1)}
    found = charts(seen, history, {"challenger:2": "2", "challenger:3": "3", "challenger:4": "4"})
    assert found.keys() == {"challenger:2", "challenger:3"}
    assert {one.lifts[0].value for one in found.values()} == {0.5}
    assert [(mark.percent, mark.value) for mark in found["challenger:2"].marks] == [(100.0, 0.0)]
    assert [(mark.percent, mark.value) for mark in found["challenger:3"].marks] == [(30.0, 0.25)]
