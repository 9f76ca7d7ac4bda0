"""A run is short and easy first, then everything, then what users liked, and no example loses its turn."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from model import Example
from model.batches import groups, steps_of
from model.curriculum import Stage, curriculum, easy, one_stage

EXAMPLES = [Example("word " * (1 + i % 10), "often" if i % 5 else f"rare{i}") for i in range(100)]


def shown(stages: tuple[Stage, ...], steps: int, batch_size: int) -> list[list[int]]:
    """The indices that each stage shows in a run of so many steps."""
    order, lengths = random.Random(0), [len(e.text) for e in EXAMPLES]
    found = []
    for stage in stages:
        drawn = groups(stage.passes, lengths, batch_size, order)
        found.append([index for _ in stage.steps(steps) for index in next(drawn)])
    return found


def test_easy_examples_are_short_and_of_frequent_labels() -> None:
    chosen = easy(EXAMPLES, short=0.5, frequent=0.8)
    assert {EXAMPLES[i].label for i in chosen} == {"often"}
    assert max(len(EXAMPLES[i].text) for i in chosen) == 25
    assert chosen == tuple(sorted(chosen))


@pytest.mark.parametrize("count", [1, 2, 3, 7, 50])
def test_there_is_always_something_short_and_easy(count: int) -> None:
    all_rare = [Example("x" * i, str(i)) for i in range(count)]
    assert len(easy(all_rare)) >= max(1, 0.4 * count)


def test_stages_switch_at_a_fifth_and_at_seven_tenths_of_the_steps() -> None:
    stages = curriculum(EXAMPLES, 3, thumbs=10)
    assert [stage.name for stage in stages] == ["foundation", "expansion", "alignment"]
    assert [stage.steps(200) for stage in stages] == [range(0, 40), range(40, 140), range(140, 200)]


def test_without_thumbs_the_second_stage_goes_on_to_the_end() -> None:
    assert [(stage.name, stage.stop) for stage in curriculum(EXAMPLES, 3)] == [("foundation", 0.2), ("expansion", 1.0)]


def test_every_step_of_a_run_has_just_one_stage() -> None:
    for steps in range(1, 60):
        numbers = [number for stage in curriculum(EXAMPLES, 3, thumbs=5) for number in stage.steps(steps)]
        assert numbers == list(range(steps))


def test_over_a_run_each_example_is_shown_as_often_as_without_a_curriculum() -> None:
    epochs, batch_size = 5, 4
    steps = steps_of(len(EXAMPLES), batch_size, epochs)
    stages = curriculum(EXAMPLES, epochs)
    first, then = shown(stages, steps, batch_size)
    assert set(first) == set(easy(EXAMPLES))
    assert set(then) == set(range(len(EXAMPLES)))
    counts = Counter(first + then)
    assert min(counts.values()) >= epochs - 2
    assert max(counts.values()) <= epochs + 1
    hard = set(range(len(EXAMPLES))) - set(easy(EXAMPLES))
    assert sum(counts[i] for i in hard) / len(hard) == pytest.approx(epochs, rel=0.1)


def test_one_stage_shows_everything_once_an_epoch() -> None:
    (seen,) = shown(one_stage("month", len(EXAMPLES)), steps_of(len(EXAMPLES), 8, 1), 8)
    assert sorted(seen) == list(range(len(EXAMPLES)))


def test_the_order_follows_from_the_seed() -> None:
    stages = curriculum(EXAMPLES, 3, thumbs=20)
    assert shown(stages, 60, 4) == shown(stages, 60, 4)


def test_a_stage_that_ends_before_it_starts_is_refused() -> None:
    with pytest.raises(ValueError, match="cannot go from"):
        Stage("backwards", 0.7, 0.2, ((0,),))
