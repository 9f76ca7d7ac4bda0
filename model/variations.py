"""What is another one each time a lesson comes: the text it is joined to, and at times its label. Keeps a small base from learning
its records by heart.

Knows lessons and what words alone tell of a label; no network. Draws come from torch's generator of the processor, as those of
`SplittingCodec` do: a seed repeats them, a checkpoint keeps it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import accumulate

import torch
from sklearn.model_selection import GroupKFold

from evermoe.errors import BadInput
from evermoe.words import folded
from model.baseline import train_baseline
from model.batches import Lesson
from model.mixture import Example

FOLDS = 5

Variation = Callable[[Sequence[Lesson]], list[Lesson]]
"""The lessons of one batch as they are to be learned this time."""


class Doubting:
    """With probability `share`, a lesson's label is drawn from what words alone say of its text, and not the right one.

    Words alone: TF-IDF with logistic regression, of the other folds of the lessons, so that it knows no text that it is asked
    about: texts that are one (`folded`) are in one fold. Where words leave a doubt, the network learns the doubt in place of the
    one record. Source: distillation from a cross-fitted teacher (Dao et al., arXiv 2104.09732), here by draws, since an answer is
    a sequence of tokens.
    """

    def __init__(self, lessons: Sequence[Lesson], share: float, seed: int) -> None:
        """Fits the folds, some seconds for thousands of lessons. Raises `BadInput` for a share outside [0, 1]."""
        self.share = checked("doubt_share", share)
        self._opinions = opinions([lesson.example for lesson in lessons if lesson.is_labelled], seed)

    def __call__(self, lessons: Sequence[Lesson]) -> list[Lesson]:
        chances = torch.rand(len(lessons), 2).tolist()
        return [
            replace(lesson, example=self._doubted(lesson.example, draw)) if chance < self.share else lesson
            for lesson, (chance, draw) in zip(lessons, chances, strict=True)
        ]

    def _doubted(self, example: Example, draw: float) -> Example:
        opinion = self._opinions.get(example)
        return example if opinion is None else Example(example.text, drawn(opinion, draw))


class Joining:
    """With probability `share`, another text of the same label stands before or after the text of a lesson: what tells a label has
    to be found in more than one order, length and place.

    Of a joined text that is longer than a prompt may be, the end is cut off, as of any. Source: Nguyen, Murray and Chiang,
    arXiv 2105.01691, who join sentences for machine translation.
    """

    def __init__(self, lessons: Sequence[Lesson], share: float) -> None:
        """Raises `BadInput` for a share outside [0, 1]."""
        self.share = checked("join_share", share)
        self._texts: dict[str, list[str]] = defaultdict(list)
        for lesson in lessons:
            if lesson.is_labelled:
                self._texts[lesson.example.label].append(lesson.example.text)

    def __call__(self, lessons: Sequence[Lesson]) -> list[Lesson]:
        chances = torch.rand(len(lessons), 3).tolist()
        return [
            replace(lesson, example=self._joined(lesson.example, *draws))
            if lesson.is_labelled and chance < self.share
            else lesson
            for lesson, (chance, *draws) in zip(lessons, chances, strict=True)
        ]

    def _joined(self, example: Example, which: float, side: float) -> Example:
        others = self._texts[example.label]
        pair = example.text, others[int(which * len(others))]
        return Example(" ".join(pair if side < 0.5 else pair[::-1]), example.label)


def checked(name: str, share: float) -> float:
    """The share. Raises `BadInput` for what is none."""
    if not 0 <= share <= 1:
        raise BadInput(f"{name} {share} is no share from 0 to 1")
    return share


def opinions(examples: Sequence[Example], seed: int) -> dict[Example, Mapping[str, float]]:
    """Of each example the labels that words alone suggest, by a model of the other folds, and their probabilities.

    Nothing of examples that are too few to be parted.
    """
    found: dict[Example, Mapping[str, float]] = {}
    same = [folded(example.text) for example in examples]
    if len(set(same)) < FOLDS:
        return found
    parted = GroupKFold(FOLDS, shuffle=True, random_state=seed)
    for learned, asked in parted.split(examples, groups=same):
        words = train_baseline([examples[i] for i in learned], seed)
        labels = [str(label) for label in words.classes_]
        for i, row in zip(asked, words.predict_proba([examples[i].text for i in asked]), strict=True):
            found[examples[i]] = dict(zip(labels, row.tolist(), strict=True))
    return found


def drawn(opinion: Mapping[str, float], draw: float) -> str:
    """The label at the place `draw` (0 to 1) of the opinion's probabilities, laid end to end."""
    labels, ends = list(opinion), list(accumulate(opinion.values()))
    return next((label for label, end in zip(labels, ends, strict=True) if draw * ends[-1] < end), labels[-1])
