"""From snapshot rows to what the model trains on and what it is examined on. Pure.

One example in seven is held out for good, chosen by a hash of its words: no model ever trains on it, whichever month it came
in and however it is spaced or capitalized there, so a gate on a past month measures memory and not repetition.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import blake2b

from evermoe.months import month_of
from evermoe.words import folded
from model import Example, Thumb
from registry.snapshots import SnapshotRow

HELD_OUT_ONE_IN = 7
LIKED = 0.5
"""A score from here on is a thumb up."""


@dataclass(frozen=True)
class Split:
    """Rows as examples: to train on, and held out by the month they were asked in; and the judged answers and the bare texts among
    the rest, of which none that is held out."""

    train: tuple[Example, ...]
    held_out: dict[str, tuple[Example, ...]]
    thumbs: tuple[Thumb, ...] = ()
    texts: tuple[str, ...] = ()

    @property
    def examination(self) -> tuple[Example, ...]:
        """The held-out examples of all months together."""
        return tuple(example for month in sorted(self.held_out) for example in self.held_out[month])


def is_held_out(text: str, salt: str = "") -> bool:
    """Whether this text is kept for examinations, with all that are one with it (`folded`); the same answer on every machine and
    for ever. Another `salt` keeps others."""
    digest = blake2b(folded(text).encode("utf-8", "surrogatepass"), digest_size=8, salt=salt.encode()).digest()
    return int.from_bytes(digest) % HELD_OUT_ONE_IN == 0


def split(rows: Iterable[SnapshotRow], salt: str = "") -> Split:
    """Part the rows; order is kept. The platform's salt is the empty one: others are for measuring, seed by seed."""
    train: list[Example] = []
    thumbs: list[Thumb] = []
    texts: list[str] = []
    held_out: dict[str, list[Example]] = defaultdict(list)
    for row in rows:
        if is_held_out(row.text, salt):
            if row.label is not None:
                held_out[month_of(row.at)].append(Example(row.text, row.label))
        elif row.label is not None:
            train.append(Example(row.text, row.label))
        elif row.score is not None and row.answer is not None:
            thumbs.append(Thumb(row.text, row.answer, row.score >= LIKED))
        else:
            texts.append(row.text)
    exam = {month: tuple(held_out[month]) for month in sorted(held_out)}
    return Split(tuple(train), exam, tuple(thumbs), tuple(texts))
