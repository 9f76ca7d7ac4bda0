"""A gate that fails says which, by how much, and what was allowed."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from model import Evaluation, Example, judge
from model.calibration import calibration_error, calibration_noise
from model.gates import GATES, Contest, Limits, Lost, standard_errors

LIMITS = Limits(0.0, 5.0, 2.0, 0.25, 1.5, 1.2)


def figures(accuracy: float, error: float = 0.1, examples: int = 50, noise: float = 0.0) -> Evaluation:
    hits = tuple(number < round(accuracy * examples) for number in range(examples))
    return Evaluation(examples, accuracy, accuracy, error, noise, (), hits)


CHAMPION = Contest(figures(0.5), {"2021-01": figures(0.8), "2021-02": figures(0.7)}, 10.0, 1000)
BETTER = Contest(figures(0.6), {"2021-01": figures(0.8), "2021-02": figures(0.75)}, 11.0, 1000)


def failed(challenger: Contest) -> list[str]:
    return [gate.name for gate in judge(CHAMPION, challenger, LIMITS) if not gate.passed]


def test_a_better_challenger_passes_every_gate() -> None:
    assert failed(BETTER) == []


def test_each_gate_fails_on_its_own_fault() -> None:
    assert failed(dataclasses.replace(BETTER, new=figures(0.4))) == ["new month"]
    assert failed(dataclasses.replace(BETTER, new=figures(0.6, error=0.3))) == ["calibration"]
    assert failed(dataclasses.replace(BETTER, latency_ms=16.0)) == ["latency"]
    assert failed(dataclasses.replace(BETTER, weight_bytes=1300)) == ["memory"]
    lost = {"2021-01": figures(0.6), "2021-02": figures(0.9)}
    assert failed(dataclasses.replace(BETTER, past=lost)) == ["every past month"]


def test_the_worst_month_is_named() -> None:
    lost = {"2021-01": figures(0.6), "2021-02": figures(0.7)}
    reasons = [
        gate.reason for gate in judge(CHAMPION, dataclasses.replace(BETTER, past=lost), LIMITS) if not gate.passed
    ]
    assert "loses 20.0 ± 12.6 points on 2021-01" in reasons[0]


def test_a_loss_that_chance_explains_passes_and_the_same_loss_on_more_examples_fails() -> None:
    for examples, verdict in ((10, []), (200, ["every past month", "past on average"])):
        past = {"2021-01": figures(0.8, examples=examples)}
        lost = {"2021-01": figures(0.6, examples=examples)}
        gates = judge(dataclasses.replace(CHAMPION, past=past), dataclasses.replace(BETTER, past=lost), LIMITS)
        assert [gate.name for gate in gates if not gate.passed] == verdict


def test_the_worst_of_many_months_must_be_worse_than_the_worst_of_a_few() -> None:
    def verdict(months: int) -> bool:
        past = {f"month {number}": figures(0.8) for number in range(months)}
        lost = {**past, "month 0": figures(0.62)}  # 9 of 50, beyond two standard errors and the limit by a point
        gates = judge(dataclasses.replace(CHAMPION, past=past), dataclasses.replace(BETTER, past=lost), LIMITS)
        return {gate.name: gate.passed for gate in gates}["every past month"]

    assert not verdict(12)
    assert verdict(72)
    assert standard_errors(12) == pytest.approx(2.0)


def test_examples_that_both_get_right_or_wrong_are_no_evidence_of_a_loss() -> None:
    swapped = dataclasses.replace(figures(0.8), hits=tuple(reversed(figures(0.8).hits)))  # as many right, but others
    past = {"2021-01": swapped, "2021-02": figures(0.7)}
    assert failed(dataclasses.replace(BETTER, past=past)) == []


def test_a_month_without_figures_never_passes() -> None:
    assert "new month" in failed(
        dataclasses.replace(BETTER, new=Evaluation(0, float("nan"), 0, float("nan"), 0, (), ()))
    )


def test_calibration_error_is_the_gap_between_certainty_and_accuracy() -> None:
    sure = np.full(100, 0.75)
    assert calibration_error(sure, np.arange(100) < 75) == pytest.approx(0)
    assert calibration_error(sure, np.arange(100) < 25) == pytest.approx(0.5)


def test_certainty_that_few_examples_cannot_refute_is_not_held_against_a_challenger() -> None:
    assert failed(dataclasses.replace(BETTER, new=figures(0.6, error=0.46, noise=0.4))) == []
    assert failed(dataclasses.replace(BETTER, new=figures(0.6, error=0.46, noise=0.1))) == ["calibration"]


@pytest.mark.parametrize("examples", [3, 30, 300])
def test_the_noise_of_calibration_is_what_a_calibrated_model_shows(examples: int) -> None:
    generator = np.random.default_rng(1)
    sure = generator.uniform(0.2, 1.0, examples)
    shown = [calibration_error(sure, generator.random(examples) < sure) for _ in range(2000)]
    assert calibration_noise(sure) == pytest.approx(np.mean(shown), rel=0.15)


def answered(*answers: str, right: str = "a") -> Evaluation:
    """Figures of a model that gave these answers where `right` is right."""
    hits = tuple(answer == right for answer in answers)
    asked = tuple(Example(f"text {number}", right) for number in range(len(answers)))
    share = sum(hits) / len(hits)
    return Evaluation(len(hits), share, share, 0.0, 0.0, (), hits, answers=answers, asked=asked)


def test_a_failed_gate_shows_what_the_champion_had_right_and_the_challenger_has_wrong() -> None:
    champion = dataclasses.replace(CHAMPION, past={"2021-01": answered(*"a" * 19, "b"), "2021-02": answered(*"a" * 20)})
    challenger = dataclasses.replace(BETTER, past={"2021-01": answered(*"c" * 20), "2021-02": answered(*"a" * 20)})
    gates = {gate.name: gate for gate in judge(champion, challenger, LIMITS)}
    shown = gates["every past month"].examples
    assert len(shown) == 5
    assert shown[0] == Lost("text 0", "a", "a", "c")
    assert "text 19" not in {one.text for one in shown}  # which neither had right
    assert gates["new month"].passed
    assert gates["new month"].examples == ()


def test_a_slice_that_loses_fails_under_its_own_name_by_the_noise_of_its_own_rows() -> None:
    champion = dataclasses.replace(CHAMPION, slices={"rare labels": answered(*"a" * 30), "long texts": answered("a")})
    challenger = dataclasses.replace(BETTER, slices={"rare labels": answered(*"b" * 30), "long texts": answered("b")})
    failing = [gate for gate in judge(champion, challenger, LIMITS) if not gate.passed]
    assert [gate.name for gate in failing] == ["rare labels"]  # one text proves nothing
    assert "loses 100.0 ± 36.5 points on 30 rows" in failing[0].reason


def test_every_verdict_has_a_name_that_an_override_can_give() -> None:
    slices = {name: answered("a") for name in ("rare labels", "short texts", "long texts")}
    champion, challenger = (dataclasses.replace(one, slices=slices) for one in (CHAMPION, BETTER))
    assert tuple(gate.name for gate in judge(champion, challenger, LIMITS)) == GATES
