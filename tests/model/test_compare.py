"""What changed between two models is told example by example, label by label, expert by expert."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from model import Evaluation, Example, from_pretrained
from model.compare import Comparison, Examined, compare, expert_load

EVEN = torch.full((1, 4), 0.25)
ROUTERS = [Example(f"router {number}", "net") for number in range(10)]
TABLES = [Example(f"table {number}", "db") for number in range(10)]


def answered(examples: list[Example], answers: list[str], error: float = 0.1) -> Evaluation:
    hits = tuple(example.label == answer for example, answer in zip(examples, answers, strict=True))
    accuracy = sum(hits) / len(hits) if hits else math.nan
    return Evaluation(len(hits), accuracy, accuracy, error, 0.05, (), hits, answers=tuple(answers))


def changed(
    before: list[str],
    after: list[str],
    past: tuple[list[str], list[str]] = (["db"] * 10, ["db"] * 10),
    labels: tuple[tuple[str, ...], tuple[str, ...]] = (("db", "net"), ("db", "net")),
    loads: tuple[Tensor, Tensor] = (EVEN, EVEN),
) -> Comparison:
    """Two models that gave these answers to ten new questions on routers and ten past ones on tables."""
    parent, child = (
        Examined(known, answered(ROUTERS, new, error), {"2025-05": answered(TABLES, old)}, load)
        for known, new, old, load, error in zip(labels, (before, after), past, loads, (0.3, 0.1), strict=True)
    )
    return compare(parent, child, ROUTERS, {"2025-05": TABLES})


def test_a_month_that_won_or_lost_beyond_chance_is_better_or_worse_and_one_within_it_is_neither() -> None:
    told = changed(["db"] * 10, ["net"] * 8 + ["db"] * 2, (["db"] * 10, ["net"] + ["db"] * 9))
    assert (told.new.verdict, told.new.points) == ("better", pytest.approx(80))
    assert told.new.noise == pytest.approx(200 * math.sqrt(8) / 10)
    (may,) = told.past
    assert (may.name, may.verdict, may.points) == ("2025-05", "no change beyond chance", pytest.approx(-10))
    assert told.worse == ()
    assert [change.name for change in told.better] == ["the new month", "net"]
    assert [change.name for change in changed(["net"] * 10, ["db"] * 10).worse] == ["the new month", "net"]


def test_examples_that_swap_cancel_out_in_the_points_and_widen_the_noise() -> None:
    told = changed(["net"] * 5 + ["db"] * 5, ["db"] * 5 + ["net"] * 5)
    assert told.new.points == 0
    assert told.new.noise == pytest.approx(200 * math.sqrt(10) / 10)
    assert [flip.text for flip in told.broken] == [f"router {number}" for number in range(5)]
    assert [flip.text for flip in told.fixed] == [f"router {number}" for number in range(5, 10)]


def test_confusions_that_appeared_and_that_went_are_counted_with_texts_that_show_them() -> None:
    told = changed(["net"] * 6 + ["db"] * 4, ["net"] * 3 + ["web"] * 7)
    (grown,), (shrunk,) = told.appeared, told.went
    assert (grown.right, grown.answered, grown.before, grown.after) == ("net", "web", 0, 7)
    assert grown.texts == ("router 3", "router 4", "router 5")
    assert (shrunk.right, shrunk.answered, shrunk.before, shrunk.after) == ("net", "db", 4, 0)
    assert shrunk.texts == ("router 6", "router 7", "router 8")


def test_labels_gained_and_lost_are_those_the_models_know() -> None:
    told = changed(["net"] * 10, ["net"] * 10, labels=(("db", "net"), ("net", "web")))
    assert (told.labels_gained, told.labels_lost) == (("web",), ("db",))


def test_experts_that_moved_come_with_their_share_before_and_after_and_the_load_that_moved_in_all() -> None:
    told = changed(["net"] * 10, ["net"] * 10, loads=(EVEN, torch.tensor([[0.55, 0.25, 0.15, 0.05]])))
    assert [(move.block, move.expert) for move in told.moves] == [(0, 0), (0, 3), (0, 2)]
    assert (told.moves[0].before, told.moves[0].after) == (pytest.approx(0.25), pytest.approx(0.55))
    assert told.load_variation == pytest.approx(0.3)
    assert changed(["net"] * 10, ["net"] * 10).moves == ()


def test_an_expert_that_is_new_had_no_load_and_other_blocks_cannot_be_compared() -> None:
    grown = changed(["net"] * 10, ["net"] * 10, loads=(EVEN, torch.full((1, 5), 0.2)))
    assert (grown.moves[0].expert, grown.moves[0].before) == (4, 0.0)
    assert grown.load_variation == pytest.approx(0.2)
    deeper = changed(["net"] * 10, ["net"] * 10, loads=(EVEN, torch.full((2, 4), 0.25)))
    assert deeper.moves == ()
    assert math.isnan(deeper.load_variation)


def test_calibration_is_told_before_and_after() -> None:
    told = changed(["net"] * 10, ["net"] * 10)
    assert (told.calibration_before, told.calibration_after, told.calibration_noise) == (0.3, 0.1, 0.05)


def test_a_month_without_examples_changes_nothing() -> None:
    empty = Examined(("db",), answered([], []), {"2025-05": answered([], [])}, EVEN)
    told = compare(empty, empty, [], {"2025-05": []})
    assert (told.new.examples, told.past, told.labels, told.worse) == (0, (), (), ())


def test_the_load_of_the_experts_is_that_of_the_texts_whatever_their_order_and_sums_to_one(
    tiny_model_folder: Path,
) -> None:
    model = from_pretrained(tiny_model_folder)
    texts = ["fix the vlan option", "remove the index", "add the query option of the table"]
    load = expert_load(model, texts)
    assert load.shape == (2, 8)
    assert load.sum(1).tolist() == pytest.approx([1, 1])
    assert torch.equal(load, expert_load(model, texts[::-1]))
    assert not torch.equal(load, expert_load(model, texts[:1]))
    alone = [model.network.trunk(torch.tensor([model.codec.prompt(text)]))[1] for text in texts]
    tokens = torch.cat([chosen.flatten(1) for chosen in alone], dim=1)
    counts = torch.stack([torch.bincount(block[block >= 0], minlength=8) for block in tokens]).float()
    torch.testing.assert_close(load, counts / counts.sum(1, keepdim=True))
