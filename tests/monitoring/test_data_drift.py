"""Known drift is seen and named, no drift is left alone, and odd windows break nothing."""

from __future__ import annotations

import re
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from evermoe.errors import BadInput
from monitoring.drift import DriftPolicy, DriftVerdict, Observed, compare, domain_auc

POLICY = DriftPolicy(
    window_days=31,
    reference_rows=1000,
    min_rows=50,
    label_distance=0.2,
    text_auc=0.65,
    feature_distance=0.2,
    null_margin=1.5,
)
TEAMS = {"network": 0.4, "database": 0.3, "cloud": 0.2, "windows": 0.1}


def notes(
    rows: int, seed: int, teams: dict[str, float] = TEAMS, topic: str = "", length: tuple[int, int] = (4, 14)
) -> list[Observed]:
    """Notes of `teams` at their shares: words of the team, words of everyone, a few misprints; `topic` renames words."""
    generator = np.random.default_rng(seed)
    names = list(teams)
    made = []
    for team in generator.choice(names, size=rows, p=list(teams.values())):
        words = [
            f"{topic}{team}{number}" if own else f"{topic}common{number}"
            for own, number in zip(
                generator.random(generator.integers(*length)) < 0.4, generator.geometric(0.05, size=20), strict=False
            )
        ]
        made.append(Observed(" ".join(words), str(team)))
    return made


def seen(reference: list[Observed], current: list[Observed], policy: DriftPolicy = POLICY) -> DriftVerdict:
    return compare(reference, current, policy, seed=3, html=None)


def columns_over(verdict: DriftVerdict) -> set[str]:
    return {name for name, score in verdict.scores.items() if score > verdict.thresholds[name]}


def test_windows_of_one_distribution_are_rarely_called_drifted() -> None:
    alarms = [seen(notes(400, seed), notes(60 if seed % 2 else 200, 1000 + seed)).drifted for seed in range(20)]
    assert sum(alarms) <= 1


def test_a_team_that_rises_is_named_with_its_figures() -> None:
    verdict = seen(notes(600, 1), notes(300, 2, {**TEAMS, "network": 0.1, "cloud": 0.5}))
    assert verdict.drifted
    reason = next(reason for reason in verdict.reasons if reason.startswith("label: "))
    assert re.match(r"label: 0\.\d\d > 0\.\d\d; (network fell|cloud rose) from \d\d% to \d\d%; ", reason)
    assert "cloud rose from" in reason
    assert "network fell from" in reason


def test_teams_that_appear_and_vanish_are_named() -> None:
    verdict = seen(notes(600, 1), notes(300, 2, {"network": 0.4, "database": 0.3, "security": 0.3}))
    reason = next(reason for reason in verdict.reasons if reason.startswith("label: "))
    assert "new: security" in reason
    assert "vanished: cloud, windows" in reason


def test_new_words_are_drift_of_the_text_even_when_the_teams_stay() -> None:
    verdict = seen(notes(600, 1), notes(300, 2, topic="other"))
    assert columns_over(verdict) >= {"text", "unseen words"}
    assert "label" not in columns_over(verdict)
    reason = next(reason for reason in verdict.reasons if reason.startswith("text: "))
    assert "more of other" in reason


def test_longer_texts_are_drift_of_their_length() -> None:
    verdict = seen(notes(600, 1), notes(300, 2, length=(10, 20)))
    assert columns_over(verdict) >= {"words", "characters"}
    assert any(re.search(r"words: .* from \d+\.\d to \d+\.\d in a text on average", line) for line in verdict.reasons)


def test_a_certain_but_small_change_is_below_the_policy() -> None:
    before, after = notes(3000, 1), notes(3000, 2, {**TEAMS, "network": 0.35, "cloud": 0.25})
    assert not seen(before, after).drifted
    small = replace(POLICY, label_distance=0.01, null_margin=1.0)
    assert columns_over(seen(before, after, small)) == {"label"}


def test_a_change_the_stream_makes_all_the_time_is_not_drift() -> None:
    bursts = [
        note
        for month in range(8)
        for note in notes(
            100, month, {"network": 0.8, "database": 0.2} if month % 2 else {"cloud": 0.8, "windows": 0.2}
        )
    ]
    next_month = notes(100, 20, {"cloud": 0.8, "windows": 0.2})
    shuffled = [bursts[row] for row in np.random.default_rng(1).permutation(len(bursts))]
    assert "label" not in columns_over(seen(bursts, next_month))
    assert "label" in columns_over(seen(shuffled, next_month))


def test_a_higher_null_margin_asks_for_more() -> None:
    before, after = notes(600, 1), notes(60, 2)
    bars = [seen(before, after, replace(POLICY, null_margin=margin)).thresholds["label"] for margin in (1.0, 3.0)]
    assert bars[1] > 1.5 * bars[0]


def test_the_same_seed_gives_the_same_verdict() -> None:
    before, after = notes(300, 1), notes(100, 2)
    assert seen(before, after) == seen(before, after)


def test_too_few_rows_are_never_drift_and_the_reason_says_so() -> None:
    one_more = {"elsewhere": 1.0}
    verdict = seen(notes(600, 1), notes(49, 2, one_more))
    assert verdict == DriftVerdict(False, verdict.reasons, {}, {}, 600, 49)
    assert verdict.reasons == ("too few rows to tell: 49 in the window, 600 in the reference, 50 needed in each",)
    assert not seen(notes(49, 1), notes(600, 2, one_more)).drifted
    assert seen(notes(50, 1), notes(50, 2, one_more)).drifted
    assert not seen([], [], replace(POLICY, min_rows=0)).drifted


ODD_WINDOWS = {
    "one label": ([Observed(f"fix x{n % 7} y", "a") for n in range(100)], [Observed("fix x1 y", "a")] * 60),
    "empty texts": ([Observed("", "a")] * 60, [Observed("", "a")] * 60),
    "empty window texts": ([Observed("fix this thing", "a")] * 60, [Observed("", "b")] * 60),
    "empty reference texts": ([Observed("", "a")] * 60, [Observed("fix this thing", "b")] * 60),
    "one row": ([Observed(f"fix x{n % 7} y", "a") for n in range(100)], [Observed("new", "b")]),
    "one row each": ([Observed("a", "a")], [Observed("new", "b")]),
    "no letters": ([Observed("修复 路由", "网络")] * 60, [Observed("\ud800 \x00", "\ud800\n")] * 60),
    "stop words": ([Observed("the a of", "a")] * 60, [Observed("the of", "a")] * 60),
    "long texts": ([Observed("word " * 2000, "a")] * 20, [Observed("x" * 9000, "a" * 5000)] * 20),
}


@pytest.mark.parametrize("name", ODD_WINDOWS)
def test_odd_windows_get_a_verdict_and_a_report(name: str, tmp_path: Path) -> None:
    reference, current = ODD_WINDOWS[name]
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        verdict = compare(
            reference, current, replace(POLICY, min_rows=1), seed=1, html=tmp_path / "reports" / "drift.html"
        )
    assert (tmp_path / "reports" / "drift.html").stat().st_size > 100_000
    assert all(np.isfinite(score) for score in verdict.scores.values())
    for reason in verdict.reasons:
        assert len(reason) < 500
        assert reason.isprintable()
    expected_drift = {row.label for row in current} != {row.label for row in reference}
    assert any(reason.startswith("label: ") for reason in verdict.reasons) == expected_drift


def test_the_report_shows_the_same_figures_and_opens_offline(tmp_path: Path) -> None:
    html = tmp_path / "drift.html"
    before, after = notes(300, 1), notes(100, 2, topic="other")
    verdict = compare(before, after, POLICY, seed=3, html=html)
    written = html.read_text(encoding="utf-8")
    for name, score in verdict.scores.items():
        assert f"Value Drift for column {name}" in written
        assert f"{score:0.2f}" in written
    assert not re.search(r"<(script|link|img)[^>]*\b(src|href)\s*=\s*[\"']?(https?:)?//", written)


def test_a_report_that_cannot_be_written_is_told_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(BadInput, match="the drift report cannot be written there"):
        compare(notes(60, 1), notes(60, 2), POLICY, seed=1, html=tmp_path / "file" / "drift.html")


def test_the_domain_classifier_knows_same_from_other() -> None:
    same = domain_auc([row.text for row in notes(300, 1)], [row.text for row in notes(300, 2)], seed=1)
    other = domain_auc([row.text for row in notes(300, 1)], [row.text for row in notes(300, 2, topic="o")], seed=1)
    assert 0.4 < same < 0.6
    assert other > 0.95


def test_importing_the_room_does_not_load_evidently() -> None:
    script = "import sys, monitoring.drift, monitoring.events, monitoring.metrics; print('evidently' in sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert loaded.stdout.strip() == "False"


@pytest.mark.parametrize("odd", ["?", " 5"])
def test_one_odd_text_among_texts_that_are_all_alike_in_form_is_no_drift(odd: str) -> None:
    generator = np.random.default_rng(3)
    words = [
        f"{first}{second}" for first in ("vlan", "port", "route", "table") for second in ("er", "ing", "ed", "ment")
    ]

    def texts(count: int) -> list[Observed]:
        return [Observed(" ".join(generator.choice(words, 6)), "a") for _ in range(count)]

    window = texts(80)
    window[7] = Observed(window[7].text + odd, "a")
    verdict = compare(texts(300), window, POLICY, seed=0, html=None)
    assert not verdict.drifted, verdict.reasons
    odder = [Observed(f"{one.text} ?!?!", "a") for one in window]
    assert compare(texts(300), odder, POLICY, seed=0, html=None).drifted


def test_a_label_ends_no_script_of_the_report(tmp_path: Path) -> None:
    html, hostile = tmp_path / "drift.html", "</script><img src=x onerror=alert(1)>"
    before = notes(60, 1)
    after = [*notes(60, 2), *(Observed(f"fix {hostile} {n}", hostile) for n in range(40))]
    verdict = compare(before, after, POLICY, seed=3, html=html)
    written = html.read_text(encoding="utf-8")
    assert any(hostile in reason for reason in verdict.reasons)
    assert "onerror=alert" in written  # it is drawn
    assert "<img src=x" not in written
    assert "</script><img" not in written
