"""Drift: whether a window of what users asked differs from the reference by more than the reference differs from itself.

Every column is scored with Evidently's statistics: `label` with the Jensen-Shannon distance (0 to 0.83), four features of
the text (characters, words, share of characters that are no letters, share of words that no other reference text has) with
the Wasserstein distance in standard deviations of the reference, and the text itself with the ROC AUC of a classifier that
tries to tell the window from the reference (a method of ours, registered with Evidently).

The policy. A column drifted when its score is above all three of
  1. its threshold in `DriftPolicy`: a change smaller than this is no reason to train, however certain;
  2. `null_margin` times the most that random parts of the reference, as large as the window, differ from the rest of it
     (for an AUC: times its excess over 0.5): the noise of samples of that size;
  3. the most that stretches of the reference, taken in its own order, differ from the rest of it: how much this stream
     moves anyway. Pass the reference oldest first; in any other order this adds nothing to the second.
The window drifted when any column did.

Why not Evidently's defaults: they called every column drifted on two adjacent windows of one stream. Without the third bar
so does this policy: real streams come in bursts (a release of one team at a time), so that neighbouring months always
differ by more than chance, and a trigger that always fires says nothing.

Where it fails. The bars follow the reference: if it holds a violent change of its own, an equally violent one is not called
drift. Change that creeps below every threshold is not seen as long as the reference creeps along with it. A relation
between text and label that changes while both keep their distributions is not seen at all: only feedback and the gates see
that. And six columns are looked at, so a rare false alarm remains.

Knows nothing of where rows come from, of models, or of what is done about drift.
"""

from __future__ import annotations

import re
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from evermoe.errors import BadInput
from evermoe.words import TELLING_WORD, WORD

if TYPE_CHECKING:
    import pandas as pd

RANDOM_PARTS = 20
STRETCHES = 8
"""How many random parts, and how many stretches, of the reference are compared with the rest of it."""

FEATURES = ("characters", "words", "non-letters", "unseen words")
LEAST_MOVE = {"characters": 1.0, "words": 1.0, "non-letters": 0.005, "unseen words": 0.005}
"""What hardly differs from text to text has no spread to be measured by: so much it must move at least, on average of a text."""
LEAST_SPREAD = 0.001  # by which Evidently divides at least
_WORD = re.compile(WORD)


@dataclass(frozen=True)
class Observed:
    """One request as drift sees it. `label` is the right one if known, else the one answered."""

    text: str
    label: str


@dataclass(frozen=True)
class DriftPolicy:
    """When a window counts as drifted. `window_days` and `reference_rows` say what the caller should pass."""

    window_days: int
    reference_rows: int
    min_rows: int
    label_distance: float
    text_auc: float
    feature_distance: float
    null_margin: float


@dataclass(frozen=True)
class DriftVerdict:
    """The answer with its figures. `thresholds` are the bars that each score had to pass, all three of them at once."""

    drifted: bool
    reasons: tuple[str, ...]
    scores: dict[str, float]
    thresholds: dict[str, float]
    reference_rows: int
    current_rows: int


def compare(
    reference: Sequence[Observed],
    current: Sequence[Observed],
    policy: DriftPolicy,
    *,
    seed: int,
    html: Path | None,
) -> DriftVerdict:
    """Compare the window `current` with `reference` (oldest first), and write Evidently's report to `html` if given.

    Fewer rows than `policy.min_rows` on either side are never drift, and make no report. Raises `BadInput` when the
    report cannot be written.
    """
    least = max(1, policy.min_rows)
    if min(len(reference), len(current)) < least:
        reason = f"too few rows to tell: {len(current)} in the window, {len(reference)} in the reference, {least} needed in each"
        return DriftVerdict(False, (reason,), {}, {}, len(reference), len(current))
    with _quiet():
        scores = _scores(reference, current, seed)
        thresholds = _bars(reference, len(current), policy, seed)
        if html is not None:
            _write_report(reference, current, thresholds, seed, html)
    over = [name for name, score in scores.items() if score > thresholds[name]]
    reasons = tuple(_reason(name, scores[name], thresholds[name], reference, current) for name in over)
    if not over:
        figures = ", ".join(f"{name} {score:.2f} <= {thresholds[name]:.2f}" for name, score in scores.items())
        reasons = (f"no more change than the reference shows within itself: {figures}",)
    return DriftVerdict(bool(over), reasons, scores, thresholds, len(reference), len(current))


# ---- scores


def _scores(reference: Sequence[Observed], current: Sequence[Observed], seed: int) -> dict[str, float]:
    """Every column's score by Evidently's statistics, the ones that its report shows."""
    from evidently.legacy.calculations.stattests import get_stattest
    from evidently.legacy.core import ColumnType

    before, after = _columns(reference, current)
    scores = {}
    for name, (kind, method) in _methods(seed).items():
        column_type = ColumnType(kind)
        statistic = get_stattest(before[name], after[name], column_type, method)
        result = statistic(before[name], after[name], column_type, None)
        scores[name] = float(np.nan_to_num(result.drift_score))  # the root of a rounding error below 0 is no distance
    return scores


def _methods(seed: int) -> dict[str, tuple[str, str]]:
    """Column, its Evidently type and method."""
    return {
        "label": ("cat", "jensenshannon"),
        "text": ("text", _text_method(seed)),
        **dict.fromkeys(FEATURES, ("num", "wasserstein")),
    }


def _columns(reference: Sequence[Observed], current: Sequence[Observed]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Both sides as tables. A reference word is unseen when no *other* reference text has it, so both sides compare."""
    import pandas as pd

    reference_words = [_WORD.findall(row.text.lower()) for row in reference]
    texts_with = Counter(word for words in reference_words for word in set(words))

    def table(rows: Sequence[Observed], words_of_rows: list[list[str]], own: int) -> pd.DataFrame:
        return pd.DataFrame(
            {
                "label": [row.label for row in rows],
                "text": [row.text for row in rows],
                "characters": [float(len(row.text)) for row in rows],
                "words": [float(len(words)) for words in words_of_rows],
                "non-letters": [
                    _share(not letter.isalpha() for letter in row.text if not letter.isspace()) for row in rows
                ],
                "unseen words": [_share(texts_with[word] <= own for word in words) for words in words_of_rows],
            }
        )

    current_words = [_WORD.findall(row.text.lower()) for row in current]
    return table(reference, reference_words, own=1), table(current, current_words, own=0)


def _share(answers: Iterator[bool]) -> float:
    """Of `answers`, the share that is true; 0 when there are none."""
    counted = Counter(answers)
    return counted[True] / max(1, counted.total())


def _text_method(seed: int) -> str:
    """Register our domain classifier with Evidently and name it.

    Evidently's own (`text_content_drift`) holds half of the rows out, once, with no regard to their side, so that few rows
    make it noisy and one may leave it without anything to hold out. Ours cross-validates.
    """
    from evidently.legacy.calculations.stattests import StatTest, register_stattest
    from evidently.legacy.core import ColumnType

    def test(
        before: pd.Series, after: pd.Series, feature_type: ColumnType, threshold: float | None
    ) -> tuple[float, bool]:
        auc = domain_auc(list(before), list(after), seed)
        return auc, auc > (threshold or 0.0)

    name = f"cross-validated domain classifier, seed {seed}"
    register_stattest(StatTest(name, "ROC AUC of a domain classifier", [ColumnType.Text], 0.5), test)
    return name


def domain_auc(before: Sequence[str], after: Sequence[str], seed: int) -> float:
    """How well TF-IDF and logistic regression tell the two apart: cross-validated ROC AUC, 0.5 when they cannot."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import roc_auc_score
    from sklearn.model_selection import StratifiedKFold

    folds = min(3, len(before), len(after))
    weights, _ = _tfidf([*before, *after])
    if folds < 2 or weights is None:
        return 0.5
    side = np.repeat([0, 1], [len(before), len(after)])
    guesses = np.zeros(len(side))
    for train, held_out in StratifiedKFold(folds, shuffle=True, random_state=seed).split(weights, side):
        classifier = LogisticRegression(C=10, class_weight="balanced", solver="liblinear")
        guesses[held_out] = classifier.fit(weights[train], side[train]).decision_function(weights[held_out])
    return float(roc_auc_score(side, guesses))


def _tfidf(texts: Sequence[str]) -> tuple[np.ndarray | None, np.ndarray | None]:
    """A row of word weights for each text, and the words; None when no word occurs twice."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    vectorizer = TfidfVectorizer(sublinear_tf=True, min_df=2, token_pattern=TELLING_WORD)
    try:
        return vectorizer.fit_transform(texts), vectorizer.get_feature_names_out()
    except ValueError:  # no words at all, or none in two texts
        return None, None


# ---- bars


def _bars(reference: Sequence[Observed], window: int, policy: DriftPolicy, seed: int) -> dict[str, float]:
    """What each score must pass: the policy, the noise of samples of this size, and the stream's own movement."""
    limits = {
        "label": policy.label_distance,
        "text": policy.text_auc,
        **dict.fromkeys(FEATURES, policy.feature_distance),
    }
    size = min(window, len(reference) // 2)
    if size == 0:
        return limits
    generator = np.random.default_rng(seed)
    rows = np.arange(len(reference))
    random_parts = [generator.permutation(rows) for _ in range(RANDOM_PARTS)]
    starts = sorted({int(start) for start in np.linspace(0, len(rows) - size, STRETCHES)})
    stretches = [np.roll(rows, -start) for start in starts]
    chance = _most(reference, random_parts, size, seed)
    movement = _most(reference, stretches, size, seed)
    for name, limit in limits.items():
        floor = 0.5 if name == "text" else 0.0
        limits[name] = max(limit, floor + policy.null_margin * (chance[name] - floor), movement[name])
    before, _ = _columns(reference, reference)
    for name, least in LEAST_MOVE.items():
        limits[name] = max(limits[name], least / max(float(before[name].std(ddof=0)), LEAST_SPREAD))
    return limits


def _most(reference: Sequence[Observed], orders: list[np.ndarray], size: int, seed: int) -> dict[str, float]:
    """The highest score of each column when the first `size` rows of an order are compared with its other rows."""
    draws = [
        _scores([reference[row] for row in order[size:]], [reference[row] for row in order[:size]], seed)
        for order in orders
    ]
    return {name: max(draw[name] for draw in draws) for name in draws[0]}


# ---- reasons


def _reason(name: str, score: float, bar: float, reference: Sequence[Observed], current: Sequence[Observed]) -> str:
    """One column's drift in plain words, with what moved."""
    explain: dict[str, Callable[[Sequence[Observed], Sequence[Observed]], str]] = {
        "label": _moved_labels,
        "text": _telling_words,
    }
    moved = explain[name](reference, current) if name in explain else _moved_mean(name, reference, current)
    return f"{name}: {score:.2f} > {bar:.2f}; {moved}"


def _moved_labels(reference: Sequence[Observed], current: Sequence[Observed]) -> str:
    before, after = Counter(row.label for row in reference), Counter(row.label for row in current)
    share = {
        label: (before[label] / len(reference), after[label] / len(current)) for label in sorted({*before, *after})
    }
    movers = sorted(share, key=lambda label: -abs(share[label][1] - share[label][0]))[:3]
    parts = [
        f"{_short(label)} {'rose' if share[label][1] > share[label][0] else 'fell'} "
        f"from {share[label][0]:.0%} to {share[label][1]:.0%}"
        for label in movers
        if share[label][0] != share[label][1]
    ]
    new = [label for label, _ in after.most_common() if label not in before]
    expected = len(current) / len(reference)
    vanished = [label for label, rows in before.most_common() if label not in after and rows * expected >= 3]
    return "; ".join([*parts, *_named("new", new), *_named("vanished", vanished)])


def _named(what: str, labels: list[str]) -> list[str]:
    if not labels:
        return []
    more = f" and {len(labels) - 3} more" if len(labels) > 3 else ""
    return [f"{what}: {', '.join(_short(label) for label in labels[:3])}{more}"]


def _telling_words(reference: Sequence[Observed], current: Sequence[Observed]) -> str:
    from sklearn.linear_model import LogisticRegression

    weights, words = _tfidf([row.text for row in (*reference, *current)])
    assert weights is not None
    assert words is not None  # else the score would have been 0.5
    side = np.repeat([0, 1], [len(reference), len(current)])
    classifier = LogisticRegression(C=10, class_weight="balanced", solver="liblinear").fit(weights, side)
    pull = classifier.coef_[0]
    order = np.argsort(pull)
    more = [_short(words[word]) for word in order[::-1][:4] if pull[word] > 0]
    less = [_short(words[word]) for word in order[:4] if pull[word] < 0]
    return "; ".join(f"{what} of {', '.join(found)}" for what, found in (("more", more), ("less", less)) if found)


def _short(name: str) -> str:
    """A label or word as a line can hold it."""
    printable = "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in name)
    return printable if len(printable) <= 60 else f"{printable[:57]}..."


def _moved_mean(name: str, reference: Sequence[Observed], current: Sequence[Observed]) -> str:
    before, after = (table[name] for table in _columns(reference, current))
    if name in ("non-letters", "unseen words"):
        return f"from {before.mean():.1%} to {after.mean():.1%} of a text on average"
    return f"from {before.mean():.1f} to {after.mean():.1f} in a text on average"


# ---- the report


def _write_report(
    reference: Sequence[Observed], current: Sequence[Observed], thresholds: dict[str, float], seed: int, path: Path
) -> None:
    """Evidently's report of the same columns, methods and bars, as one HTML file that opens offline."""
    from evidently import DataDefinition, Dataset, Report
    from evidently.metrics import ValueDrift

    methods = _methods(seed)
    before, after = (_drawable(table) for table in _columns(reference, current))
    if not (_has_words(reference) and _has_words(current)):
        del methods["text"]  # Evidently draws the text's words, and there are none
    definition = DataDefinition(
        numerical_columns=[name for name, (kind, _) in methods.items() if kind == "num"],
        categorical_columns=["label"],
        text_columns=["text"] if "text" in methods else [],
    )
    report = Report(
        [ValueDrift(column=name, method=method, threshold=thresholds[name]) for name, (_, method) in methods.items()],
        include_tests=True,
    )
    names = list(methods)
    snapshot = report.run(
        Dataset.from_pandas(after[names], data_definition=definition),
        Dataset.from_pandas(before[names], data_definition=definition),
    )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        snapshot.save_html(str(path))
    except OSError as error:
        raise BadInput(f"{path}: the drift report cannot be written there ({error.strerror})") from None


def _drawable(table: pd.DataFrame) -> pd.DataFrame:
    """Evidently writes labels into a script as they are, where `</script>` would end it and let another begin."""
    return table.assign(
        **{name: table[name].str.replace("<", "\N{FULLWIDTH LESS-THAN SIGN}") for name in ("label", "text")}
    )


def _has_words(rows: Sequence[Observed]) -> bool:
    return any(_WORD.search(row.text) for row in rows)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the warnings that Evidently's code raises about itself and about divisions it guards against."""
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore", FutureWarning)
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.filterwarnings("ignore", category=RuntimeWarning, module=r"(numpy|scipy|evidently)\.")
        yield
