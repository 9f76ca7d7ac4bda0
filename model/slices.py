"""Kinds of examples that an average hides: rare labels, short texts, long texts. Examples in, their places out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from model.mixture import Example

RARE_LABELS, SHORT_TEXTS, LONG_TEXTS = "rare labels", "short texts", "long texts"


@dataclass(frozen=True)
class Slice:
    """The examples at `places`, what they are called, and which these are in words."""

    name: str
    words: str
    places: tuple[int, ...]


def slices(examples: Sequence[Example], rare_share: float) -> tuple[Slice, ...]:
    """Those of `examples` with rare labels, and the third with the shortest and the longest texts.

    Rare are the labels with fewest examples that together have at most `rare_share` of all; labels of equal numbers are rare
    together or not at all. Every row is held out by the same lottery, so what is rare here was rare in training. A slice of
    nothing is left out: no label is rare where two share evenly, and no text short where all have one length.
    """
    counts = Counter(example.label for example in examples)
    rare: set[str] = set()
    for most in sorted(set(counts.values())):
        few = {label for label, count in counts.items() if count <= most}
        if sum(counts[label] for label in few) > rare_share * len(examples):
            break
        rare = few
    lengths = sorted(len(example.text) for example in examples)
    short, long = (lengths[len(lengths) // 3], lengths[-len(lengths) // 3]) if lengths else (0, 0)
    found = (
        Slice(RARE_LABELS, f"{len(rare)} labels", _places(example.label in rare for example in examples)),
        Slice(SHORT_TEXTS, f"under {short} characters", _places(len(example.text) < short for example in examples)),
        Slice(LONG_TEXTS, f"over {long} characters", _places(len(example.text) > long for example in examples)),
    )
    return tuple(one for one in found if one.places)


def _places(chosen: Iterable[bool]) -> tuple[int, ...]:
    return tuple(place for place, is_chosen in enumerate(chosen) if is_chosen)
