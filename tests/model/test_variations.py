"""What differs each time a lesson comes: joined texts and doubted labels, how often, and that a seed repeats it."""

from __future__ import annotations

import pytest
import torch

from evermoe.errors import BadInput
from model.batches import Lesson
from model.learn import bare
from model.mixture import Example
from model.tasks import Language
from model.variations import Doubting, Joining, drawn, opinions

LESSONS = [Lesson(Example(f"{label} {n}", label), is_new=n % 2 == 0) for label in ("net", "disk") for n in range(4)]
NET = [Example(f"the socket of port {n} is closed", "net") for n in range(20)]
DISK = [Example(f"the sector of volume {n} is torn", "disk") for n in range(20)]
ODD = Example("the socket of port 99 is closed", "disk")
CLEAR = [Lesson(example) for example in (*NET, *DISK, ODD)]


def joined(share: float, turns: int, seed: int = 1) -> list[list[str]]:
    torch.manual_seed(seed)
    joining = Joining(LESSONS, share)
    return [[lesson.example.text for lesson in joining(LESSONS)] for _ in range(turns)]


def test_a_joined_text_is_two_of_one_label_in_either_order_and_the_lesson_stays_itself() -> None:
    torch.manual_seed(1)
    joining, firsts, others = Joining(LESSONS, 1.0), set[bool](), set[str]()
    for _ in range(50):
        for before, after in zip(LESSONS, joining(LESSONS), strict=True):
            assert (after.example.label, after.is_new) == (before.example.label, before.is_new)
            text, own = after.example.text, before.example.text
            assert own in text
            assert set(text.split()) <= {before.example.label, *"0123"}
            firsts.add(text.startswith(own))
            others.add(text)
    assert firsts == {True, False}
    assert len(others) == 2 * 4 * 4


def test_as_many_are_joined_as_were_asked_for() -> None:
    turns = joined(0.3, 500)
    longer = sum(len(text.split()) == 4 for texts in turns for text in texts)
    assert longer == pytest.approx(0.3 * 500 * len(LESSONS), rel=0.1)
    assert joined(0.0, 1) == [[lesson.example.text for lesson in LESSONS]]


def test_every_turn_joins_others_and_a_seed_repeats_them() -> None:
    first, second = joined(0.5, 2)
    assert first != second
    assert joined(0.5, 2) == [first, second]
    assert joined(0.5, 2, seed=2) != [first, second]


def test_a_label_that_words_contradict_is_doubted_and_one_that_they_tell_is_not() -> None:
    torch.manual_seed(1)
    doubting = Doubting(CLEAR, 1.0, seed=1)
    turns = [doubting(CLEAR) for _ in range(50)]
    assert [lesson.example.text for lesson in turns[0]] == [lesson.example.text for lesson in CLEAR]
    right = [sum(turn[i].example.label == CLEAR[i].example.label for turn in turns) / 50 for i in range(len(CLEAR))]
    assert right[-1] < 0.3
    assert min(right[:-1]) > 0.5
    assert sum(right[:-1]) / len(right[:-1]) > 0.8


def test_as_many_are_doubted_as_were_asked_for_and_a_seed_repeats_them() -> None:
    def labels(share: float) -> list[list[str]]:
        torch.manual_seed(1)
        doubting = Doubting(CLEAR, share, seed=1)
        return [[lesson.example.label for lesson in doubting(CLEAR)] for _ in range(300)]

    assert labels(0.0)[0] == [lesson.example.label for lesson in CLEAR]
    assert labels(0.5) == labels(0.5)
    doubted = sum(turn[-1] == "net" for turn in labels(0.5)) / sum(turn[-1] == "net" for turn in labels(1.0))
    assert doubted == pytest.approx(0.5, abs=0.1)


def test_no_opinion_is_of_a_text_that_its_words_were_learned_from() -> None:
    alone = Example("unheard unseen unknown", "disk")
    told = opinions([*NET, *DISK, alone], seed=1)
    assert set(told) == {*NET, *DISK, alone}
    assert told[alone]["disk"] < 0.9
    assert all(sum(opinion.values()) == pytest.approx(1.0, abs=1e-3) for opinion in told.values())


def test_nor_of_one_that_differs_from_them_in_space_or_case_alone() -> None:
    again = [Example(text, "disk") for text in ("Quite odd", "quite odd", "quite  ODD", "quite odd ")]
    told = opinions([*NET, *DISK, *again], seed=1)
    assert max(told[example]["disk"] for example in again) < 0.9
    assert opinions(again * 5, seed=1) == {}


def test_of_too_few_to_part_there_is_no_opinion() -> None:
    few = [Lesson(Example("a b", "net")), Lesson(Example("c d", "disk"))]
    assert Doubting(few, 1.0, seed=1)(few) == few


@pytest.mark.parametrize(("draw", "label"), [(0.0, "a"), (0.19, "a"), (0.21, "b"), (0.999999, "b"), (1.0, "b")])
def test_a_label_is_drawn_as_often_as_it_is_likely(draw: float, label: str) -> None:
    assert drawn({"a": 0.2, "b": 0.8}, draw) == label


def test_a_text_without_a_label_is_left_alone() -> None:
    lessons = bare(["who knows what this is"])
    assert Joining(lessons, 1.0)(lessons) == lessons
    assert Doubting([*CLEAR, *lessons], 1.0, seed=1)(lessons) == lessons


@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan")])
def test_a_share_that_is_none_is_refused(share: float) -> None:
    with pytest.raises(BadInput, match=r"join_share .* is no share from 0 to 1"):
        Joining(LESSONS, share)
    with pytest.raises(BadInput, match=r"doubt_share .* is no share from 0 to 1"):
        Doubting(LESSONS, share, seed=1)


@pytest.mark.parametrize("smoothing", [-0.1, 1.0, float("nan")])
def test_a_smoothing_that_is_none_is_refused(smoothing: float) -> None:
    with pytest.raises(BadInput, match=r"label_smoothing .* is no share from 0 to below 1"):
        Language(smoothing)
