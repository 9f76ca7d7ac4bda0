"""The benchmark of continual learning counts what it says, goes on where it was stopped, and refuses what it cannot play."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from benchmarks.continual_course import Answers, Cell, play_month, read_cell, write_cell
from benchmarks.continual_figures import changes, figures, kept, worst
from benchmarks.continual_stage import stage_of
from evermoe.settings import ROOT, load_params
from flows.learning.examples import is_held_out
from streams import Record
from tests.flows.test_loop import OLD, texts, write_params


def answers(**given: str) -> Answers:
    """Each label's letters: what was answered to an example of it, by the first letter of a label."""
    pairs = [(label, letter) for label, letters in given.items() for letter in letters]
    return Answers([right for right, _ in pairs], [given for _, given in pairs], [0.5] * len(pairs))


def cell(month: str, taught: str, known: str, following: Answers, **past: Answers) -> Cell:
    return Cell(month, list(taught), list(known), following, past, tokens=10.0, active=2.0, seconds=1.0)


COURSE = [
    cell("base", "ab", "ab", answers(a="aa"), base=answers(a="aab", b="bb")),
    cell("m1", "ac", "abc", answers(a="a", c="cca"), base=answers(a="aaa", b="ba"), m1=answers(c="cc")),
    cell(
        "m2", "a", "abc", answers(a="ab", c="c"), base=answers(a="aaa", b="aa"), m1=answers(c="ca"), m2=answers(a="a")
    ),
]


def test_the_next_month_is_counted_question_by_question_and_the_bases_own_is_not() -> None:
    found = figures(COURSE, ["m1", "m2", "m3"])
    assert found.next == pytest.approx(5 / 7)
    assert found.by_month == {"m2": pytest.approx(3 / 4), "m3": pytest.approx(2 / 3)}
    assert (found.compute, found.seconds) == (40.0, 1.0)


def test_backward_transfer_is_the_last_answer_less_the_one_just_after_the_month_was_learned() -> None:
    assert changes(COURSE) == {"base": [0, 0, 1, -1, -1], "m1": [0, -1], "m2": [0]}
    assert figures(COURSE, ["m1", "m2", "m3"]).transfer == pytest.approx(-2 / 8)


def test_a_label_is_new_in_the_month_after_its_first_only() -> None:
    assert figures(COURSE, ["m1", "m2", "m3"]).new_hits == [True, True, False]


def test_a_label_is_kept_when_it_was_not_taught_for_six_months() -> None:
    later = [
        cell(f"m{n}", "a", "abc", answers(), base=answers(a="aaa", b="ab"), m1=answers(c="ca"), m2=answers(a="a"))
        for n in range(3, 9)
    ]
    assert kept(COURSE) == (0, 0)
    assert kept([*COURSE, *later]) == (4, 2)  # b: two of two after the base, one of two in the end; c the same


def test_the_worst_month_is_of_all_seeds_together_and_of_enough_examples() -> None:
    found = figures(COURSE, ["m1", "m2", "m3"])
    assert worst([found] * 10, fewest=11) == ("m1", pytest.approx(-0.5), pytest.approx(10**0.5 / 20))
    assert worst([found])[0] == ""


def test_a_cell_comes_back_as_it_was_kept(tmp_path: Path) -> None:
    write_cell(tmp_path / "m2.json", COURSE[2])
    assert read_cell(tmp_path / "m2.json") == COURSE[2]


def test_of_a_month_whose_texts_are_all_held_out_nothing_is_learned(tiny_model_folder: Path) -> None:
    held_out = next(f"fix {n}" for n in itertools.count() if is_held_out(f"fix {n}", "0"))
    first = datetime(2025, 1, 2, tzinfo=UTC)
    told = [
        ("fix the port", "net.switch"),
        ("fix the row", "db.sql"),
        (held_out, "db.sql"),
        *[("fix it", "db.sql")] * 2,
    ]
    days = (0, 0, 31, 61, 92)
    records = [Record(first + timedelta(days=day), *one, None, "s") for day, one in zip(days, told, strict=True)]
    stage = stage_of(records, load_params(), 12)
    found, _ = play_month(stage, "ours", 0, "2025-02", tiny_model_folder)
    assert (found.taught, found.tokens) == ([], 0)


def run(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [
        sys.executable,
        "-m",
        "benchmarks.continual",
        "--stream",
        "files",
        "--path",
        str(folder / "stream.jsonl"),
    ]
    return subprocess.run(
        [*command, "--folder", str(folder / "kept"), *options],
        cwd=ROOT,
        env={**os.environ, "EVERMOE_PARAMS": str(folder / "params.yaml"), "EVERMOE_HOME": str(folder / "home")},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def stream(tmp_path: Path) -> Path:
    """Four months of two labels, a third in the last two of them."""
    write_params(tmp_path, base={"epochs": 1}, update={"epochs": 1, "distil_epochs": 1})
    first = datetime(2025, 1, 2, tzinfo=UTC)
    with (tmp_path / "stream.jsonl").open("w") as file:
        for number, (text, label) in enumerate(itertools.islice(texts(*OLD, "web.page"), 320)):
            if label != "web.page" or number > 160:
                at = first + timedelta(hours=8 * number)
                file.write(json.dumps({"at": at.isoformat(), "text": text, "label": label}) + "\n")
    return tmp_path


@pytest.mark.slow
def test_what_was_played_is_not_played_again(stream: Path) -> None:
    options = ("--months", "2", "--seeds", "1", "--json", "--methods")
    first = run(stream, *options, "from scratch,ours,TF-IDF + LR")
    assert first.returncode == 0, first.stderr
    cells = {file: file.stat().st_mtime_ns for file in (stream / "kept").rglob("*.json") if "model" not in str(file)}
    again = run(stream, *options, "from scratch,ours,TF-IDF + LR,frozen")
    assert all(file.stat().st_mtime_ns == at for file, at in cells.items())
    before, after = json.loads(first.stdout)["methods"], json.loads(again.stdout)["methods"]
    assert after.keys() == {"from scratch", "ours", "TF-IDF + LR", "frozen"}
    assert [after[name] for name in before] == list(before.values())
    assert list((stream / "kept").rglob("continual.png"))
    shown = run(stream, *options, "frozen,EWC", "--so-far")
    assert json.loads(shown.stdout)["methods"].keys() == {"frozen"}


@pytest.mark.slow
def test_months_of_from_scratch_are_played_in_any_order(stream: Path) -> None:
    options = ("--months", "2", "--seeds", "1", "--json", "--methods", "from scratch")
    whole = json.loads(run(stream, *options).stdout)
    (first, *_) = [file for file in (stream / "kept").rglob("from scratch-0/*.json") if file.stem != "base"]
    first.unlink()
    assert "no method was played to the end yet" in run(stream, *options, "--so-far").stderr
    again = json.loads(run(stream, *options, "--workers", "1").stdout)
    del whole["methods"]["from scratch"][0]["seconds"], again["methods"]["from scratch"][0]["seconds"]
    assert again == whole


def test_what_nobody_played_is_said_in_one_line(stream: Path) -> None:
    refused = run(stream, "--months", "2", "--so-far")
    assert (refused.returncode, refused.stdout) == (1, "")
    assert refused.stderr.strip() == "continual: no method was played to the end yet"
    assert not list((stream / "kept").rglob("*.json"))


@pytest.mark.parametrize(
    ("months", "count", "asked"), [(4, 12, 3), (5, 4, 3), (10, 2, 3), (10, 4, 5), (10, 12, 5), (20, 12, 13)]
)
def test_four_months_are_enough_and_those_that_are_asked_may_all_have_one_label(
    months: int, count: int, asked: int
) -> None:
    first = datetime(2024, 1, 10, tzinfo=UTC)
    records = [
        Record(
            first + timedelta(days=31 * month),
            f"fix {month} {n}",
            "ab"[n % 2] if month < months - asked else "a",
            None,
            "x",
        )
        for month in range(months)
        for n in range(20)
    ]
    stage = stage_of(records, load_params(), count)
    assert (len(stage.months), {len(rows) for rows in stage.months.values()}) == (asked, {20})
    assert len(stage.base) == 20 * (months - asked)


def test_a_stream_that_is_too_short_is_refused_in_one_line(tmp_path: Path) -> None:
    write_params(tmp_path)
    (tmp_path / "stream.jsonl").write_text(
        "".join(json.dumps({"at": "2025-01-02", "text": f"t{n}", "label": "ab"[n % 2]}) + "\n" for n in range(9))
    )
    refused = run(tmp_path)
    assert refused.returncode == 1
    assert refused.stderr.startswith("continual: the stream has 1 months")
    assert len(refused.stderr.strip().splitlines()) == 1
