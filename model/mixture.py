"""Which examples a run sees and in what order. Knows nothing of tensors."""

from __future__ import annotations

import math
import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Example:
    """A text and its right label."""

    text: str
    label: str


def replay(past: Sequence[Example], count: int, generator: random.Random) -> list[Example]:
    """`count` past examples: half of them even over labels, so that a small team is not forgotten for a large one, half as often as
    each label is, so that of two teams with like texts the more frequent one stays the likelier answer.

    In each half none comes again before all have come; of an empty past none comes.
    """
    even = even_draw(past, count // 2, generator)
    drawn = even + plain_draw(past, count - len(even), generator)
    generator.shuffle(drawn)
    return drawn


def even_draw(past: Sequence[Example], count: int, generator: random.Random) -> list[Example]:
    """Label by label in turn."""
    by_label: dict[str, list[Example]] = defaultdict(list)
    for example in past:
        by_label[example.label].append(example)
    drawn: list[Example] = []
    while past and len(drawn) < count:
        waiting = {label: generator.sample(by_label[label], len(by_label[label])) for label in sorted(by_label)}
        while waiting and len(drawn) < count:
            labels = generator.sample(list(waiting), len(waiting))
            drawn += [waiting[label].pop() for label in labels[: count - len(drawn)]]
            waiting = {label: examples for label, examples in waiting.items() if examples}
    return drawn


def plain_draw(past: Sequence[Example], count: int, generator: random.Random) -> list[Example]:
    """Each example with the same chance."""
    drawn: list[Example] = []
    while past and len(drawn) < count:
        drawn += generator.sample(past, min(count - len(drawn), len(past)))
    return drawn


def beside(new: int, domain_share: float = 0.3) -> int:
    """How many replayed examples go with so many new ones, that the new are `domain_share` of the whole.

    By default 3 parts to 7 (source document, section 4.1). Raises ValueError for a share outside (0, 1].
    """
    if not 0 < domain_share <= 1:
        raise ValueError(f"domain_share {domain_share} is not in (0, 1]")
    return math.ceil(round(new * (1 - domain_share) / domain_share, 6))
