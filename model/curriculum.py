"""What a run teaches when: short and easy first, then everything, then what users liked. Pure: shares and indices, no tensors.

Source: the project's source document, section 2.1: 0 to 20% of the steps build the foundation on short and simple texts, 20 to
70% expand to long and mixed ones, 70 to 100% align the model with preferences while old abilities stay.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from model.mixture import Example

FOUNDATION, EXPANSION, ALIGNMENT = "foundation", "expansion", "alignment"
FOUNDATION_ENDS, ALIGNMENT_BEGINS = 0.2, 0.7
SHORT, FREQUENT = 0.75, 0.8


@dataclass(frozen=True)
class Stage:
    """A stretch of a run, from share `start` to share `stop` of its steps, and the examples it shows, by index, pass by pass.

    After the last pass the first comes again. Raises ValueError unless 0 <= start < stop <= 1.
    """

    name: str
    start: float
    stop: float
    passes: tuple[tuple[int, ...], ...]

    def __post_init__(self) -> None:
        if not 0 <= self.start < self.stop <= 1:
            raise ValueError(f"stage {self.name} cannot go from {self.start} to {self.stop} of a run")

    def steps(self, of: int) -> range:
        """The numbers of the steps that the stage has in a run of `of` steps; none where the run is very short."""
        return range(round(self.start * of), round(self.stop * of))


def one_stage(name: str, count: int) -> tuple[Stage]:
    """No curriculum: all `count` examples from the first step to the last."""
    return (Stage(name, 0.0, 1.0, (tuple(range(count)),)),)


def easy(examples: Sequence[Example], short: float = SHORT, frequent: float = FREQUENT) -> tuple[int, ...]:
    """Indices of the examples that are short and easy.

    Short: the text has no more characters than the `short` quantile of all texts. Easy: its label is one of the most frequent,
    which together cover the share `frequent` of the examples. At least `short + frequent - 1` of the examples are both.
    Where it fails: a rare label with an obvious text is easy too, and a frequent one may be hard to tell from another.
    """
    if not examples:
        return ()
    longest = sorted(len(example.text) for example in examples)[max(0, -int(-short * len(examples) // 1) - 1)]
    counts = Counter(example.label for example in examples)
    often, covered = set[str](), 0
    for label, count in sorted(counts.items(), key=lambda item: (-item[1], item[0])):
        if covered >= frequent * len(examples):
            break
        often.add(label)
        covered += count
    return tuple(i for i, example in enumerate(examples) if len(example.text) <= longest and example.label in often)


def curriculum(examples: Sequence[Example], epochs: float, thumbs: int = 0) -> tuple[Stage, ...]:
    """The three stages of a run of `epochs` over `examples`; without `thumbs` the second goes on to the end.

    What the foundation has shown is left out of as many passes of the expansion, so that over the run each example is shown
    about as often as any other: the curriculum changes the order and costs the long and the rare none of their turns.
    """
    end = ALIGNMENT_BEGINS if thumbs else 1.0
    first = easy(examples)
    passes = max(1, round(end * epochs))
    shown = min(passes - 1, round(FOUNDATION_ENDS * epochs * len(examples) / max(1, len(first))))
    left_out = {index: {(place + k) % passes for k in range(shown)} for place, index in enumerate(first)}
    then = tuple(
        tuple(index for index in range(len(examples)) if number not in left_out.get(index, ()))
        for number in range(passes)
    )
    stages = (Stage(FOUNDATION, 0.0, FOUNDATION_ENDS, (first,)), Stage(EXPANSION, FOUNDATION_ENDS, end, then))
    if not thumbs:
        return stages
    return (*stages, Stage(ALIGNMENT, ALIGNMENT_BEGINS, 1.0, (tuple(range(thumbs)),)))
