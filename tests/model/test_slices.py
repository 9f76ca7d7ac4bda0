"""Slices: which examples are rare, short and long."""

from __future__ import annotations

from model import Example
from model.slices import slices


def of(examples: list[Example], name: str, rare_share: float = 0.1) -> list[Example] | None:
    """The examples of one slice; None where there is no such slice."""
    found = {one.name: one.places for one in slices(examples, rare_share)}
    return [examples[place] for place in found[name]] if name in found else None


def test_rare_are_the_labels_with_fewest_examples_up_to_a_share_of_all() -> None:
    examples = [
        Example("t", label) for label, count in (("a", 50), ("b", 44), ("c", 4), ("d", 2)) for _ in range(count)
    ]
    assert {example.label for example in of(examples, "rare labels") or ()} == {"c", "d"}
    assert {example.label for example in of(examples, "rare labels", rare_share=0.05) or ()} == {"d"}


def test_labels_of_equal_numbers_are_rare_together_or_not_at_all() -> None:
    even = [Example("t", label) for label in "abcdefghijkl" for _ in range(10)]
    assert of(even, "rare labels") is None


def test_short_and_long_are_the_outer_thirds_and_equal_lengths_are_neither() -> None:
    examples = [Example("x" * length, "a") for length in range(1, 31)]
    assert [len(example.text) for example in of(examples, "short texts") or ()] == list(range(1, 11))
    assert [len(example.text) for example in of(examples, "long texts") or ()] == list(range(22, 31))
    assert slices([Example("same", "a")] * 9, 0.1) == ()
    assert slices([], 0.1) == ()
