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
    """`count` past examples, labels as even as the past allows, so that a small team is not forgotten for a large one.

    Draws without repetition, label by label in turn; returns fewer only where the past has fewer.
    """
    by_label: dict[str, list[Example]] = defaultdict(list)
    for example in past:
        by_label[example.label].append(example)
    for examples in by_label.values():
        generator.shuffle(examples)
    drawn: list[Example] = []
    labels = sorted(by_label)
    while labels and len(drawn) < count:
        generator.shuffle(labels)
        for label in labels[: count - len(drawn)]:
            drawn.append(by_label[label].pop())
        labels = sorted(label for label in labels if by_label[label])
    return drawn


def mix(
    domain: Sequence[Example],
    past: Sequence[Example],
    domain_share: float = 0.3,
    generator: random.Random | None = None,
) -> tuple[list[Example], list[Example]]:
    """The new month and as much replay as makes it `domain_share` of the whole.

    By default 3 parts to 7 (source document, section 4.1). Without a `generator` the draw is that of seed 0. Raises ValueError
    for a share outside (0, 1].
    """
    if not 0 < domain_share <= 1:
        raise ValueError(f"domain_share {domain_share} is not in (0, 1]")
    count = math.ceil(round(len(domain) * (1 - domain_share) / domain_share, 6))
    return list(domain), replay(past, count, generator or random.Random(0))
