"""A poisoned month is named by its check, and real drift is not: new labels, vanished ones, a stream of one author."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest

from monitoring.checks import Check, CheckPolicy, inspect, unseen_words, usual_figures

POLICY = CheckPolicy(label_noise=0.1, language=0.4, one_unit=0.25, min_rows=40, past_months=12, known_rows=3000)
TOPICS = {
    "network": "vlan port route trunk switch uplink gateway packet",
    "database": "table index query row column schema join cursor",
    "page": "button form menu banner footer header link cookie",
    "cloud": "bucket region tenant quota image flavor subnet volume",
}
COMMON = [
    "fix",
    "add",
    "remove",
    "rename",
    "the",
    "a",
    "option",
    "default",
    "check",
    "message",
    "limit",
    "when",
    "is",
    "not",
]


@dataclass(frozen=True)
class Told:
    text: str
    label: str
    unit: str | None


def month(labels: str, rows: int, seed: int, unit: Callable[[int], str | None] = lambda n: f"unit {n}") -> list[Told]:
    """Rows of these labels in turn: two words of the label's own among four that all use."""
    generator = random.Random(seed)
    names = labels.split()
    found = []
    for number in range(rows):
        label = names[number % len(names)]
        words = generator.choices(TOPICS[label].split(), k=2) + generator.choices(COMMON, k=4)
        found.append(Told(" ".join(words), label, unit(number)))
    return found


PAST = [month("network database page", 100, seed) for seed in range(6)]
KNOWN = [row for rows in PAST for row in rows]


def failed(rows: list[Told], past: list[list[Told]] | None = None) -> dict[str, Check]:
    """The checks that stop a month after the past."""
    past = PAST if past is None else past
    known = [row for one in past for row in one]
    return {
        check.name: check
        for check in inspect(rows, known, usual_figures(past, len(rows), POLICY), POLICY)
        if not check.passed
    }


@pytest.mark.parametrize(
    "labels", ["network database page", "network", "network cloud", "cloud", "page page page cloud"]
)
def test_a_month_of_other_labels_than_before_is_drift_and_passes(labels: str) -> None:
    assert failed(month(labels, 120, 99)) == {}


def test_labels_flipped_at_random_are_noise_and_the_rows_are_shown() -> None:
    rows, generator = month("network database page", 120, 99), random.Random(1)
    for place in generator.sample(range(120), 36):
        other = generator.choice([label for label in ("network", "database", "page") if label != rows[place].label])
        rows[place] = replace(rows[place], label=other)
    (check,) = failed(rows).values()
    assert check.name == "label noise"
    assert len(check.examples) == 5
    text, _, told = check.examples[0].partition(": given ")
    given, _, fits = told.partition(", fits ")
    (right,) = {label for label, words in TOPICS.items() if set(text.split()) & set(words.split())}
    assert (given != right, fits) == (True, right)


def test_a_stream_that_is_always_noisy_is_measured_by_itself() -> None:
    def noisy(seed: int) -> list[Told]:
        generator = random.Random(seed)
        return [
            replace(row, label=generator.choice(["network", "database"]))
            for row in month("network database", 120, seed)
        ]

    assert failed(noisy(99), [noisy(seed) for seed in range(6)]) == {}


def test_another_language_is_known_by_its_words() -> None:
    turned = [replace(row, text=row.text[::-1]) for row in month("network database page", 120, 99)]
    check = failed(turned)["language"]
    assert "words are in no text before" in check.reason
    assert check.examples


def test_one_unit_that_sends_half_is_named_and_one_that_always_did_is_not() -> None:
    def half(seed: int) -> list[Told]:
        return month("network database page", 120, seed, lambda n: "loud" if n % 2 else f"unit {n}")

    (check,) = failed(half(99)).values()
    assert check.name == "one unit"
    assert "unit loud sent 50% of the rows and 0% of those before" in check.reason
    assert failed(half(99), [half(seed) for seed in range(6)]) == {}


def test_rows_of_nobody_known_are_no_ones() -> None:
    assert failed(month("network database page", 120, 99, lambda n: None)) == {}


def test_a_month_of_few_rows_and_one_without_a_past_are_too_little_to_tell() -> None:
    rows = [replace(row, text="été hiver") for row in month("network", 39, 99)]
    assert failed(rows) == {}
    assert failed(rows * 3, []) == {}
    reasons = {check.reason for check in inspect(rows, KNOWN, usual_figures(PAST, len(rows), POLICY), POLICY)}
    assert reasons == {"too little to tell: 39 rows (40 are needed)"}


def test_texts_without_a_word_are_no_reason_to_fall_over() -> None:
    rows = [Told("!?", "network", None)] * 60
    assert failed(rows, [rows] * 3) == {}
    assert unseen_words(rows, rows).size == 60


def test_a_month_without_a_label_is_too_small_to_tell() -> None:
    checks = inspect([], KNOWN, usual_figures(PAST, 0, POLICY), POLICY)
    assert all(check.passed and check.reason.startswith("too little to tell") for check in checks)


def test_labels_that_are_other_ones_in_each_row_are_noise() -> None:
    junk = [
        replace(row, label=f"ticket {n}") if n % 3 == 0 else row for n, row in enumerate(month("network page", 99, 9))
    ]
    assert "label noise" in failed(junk)
    assert "label noise" in failed([replace(row, label=f"ticket {n}") for n, row in enumerate(junk)])


def test_a_new_label_of_few_rows_is_no_noise() -> None:
    rows = [*month("network database page", 100, 9), *month("cloud", 2, 9)]
    assert not failed(rows)


def test_of_words_that_are_not_set_apart_each_character_counts() -> None:
    generator = random.Random(3)
    topics = {"network": "交换机端口路由网关", "database": "数据表索引查询列", "page": "按钮菜单横幅页脚链接"}

    def written(labels: str, seed: int) -> list[Told]:
        rows = month(labels, 100, seed)
        common = "修复添加删除选项默认检查消息"
        texts = ("".join([*generator.choices(topics[row.label], k=4), *generator.choices(common, k=6)]) for row in rows)
        return [replace(row, text=text) for row, text in zip(rows, texts, strict=True)]

    past = [written("network database page", seed) for seed in range(6)]
    clean = written("network database page", 9)
    assert not failed(clean, past)
    flipped = [replace(row, label=generator.choice(list(topics))) if n % 2 else row for n, row in enumerate(clean)]
    assert failed(flipped, past).keys() == {"label noise"}
    assert "language" in failed(month("network database page", 100, 9), past)
