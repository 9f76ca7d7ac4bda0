"""Training does what its recipe says, the same each time, and forgets nothing it was told to keep."""

from __future__ import annotations

import dataclasses
import math
import random
from collections import Counter

import pytest
import torch

from model import (
    Example,
    LanguageModel,
    Recipe,
    Step,
    average,
    beside,
    distil,
    evaluate,
    from_pretrained,
    replay,
    settle,
    train_month,
)
from model.batches import Lesson, collate, groups, steps_of
from model.evaluate import weight_bytes
from model.mixture import even_draw, plain_draw
from model.schedule import warmup_cosine

RECIPE = Recipe(epochs=2, batch_size=8, learning_rate=5e-3, text_loss_weight=0.1, seed=3)
NEW = [
    Example(f"{verb} the {noun} chart", "web.page")
    for verb in ("fix", "add", "draw")
    for noun in ("bar", "pie", "line", "map")
]
OLD = [
    Example(f"{verb} the {noun} option", label)
    for verb in ("fix", "add", "rename")
    for noun, label in (("vlan", "net.switch"), ("port", "net.switch"), ("row", "db.sql"))
]


def nothing(step: Step) -> None:
    pass


def test_the_rate_warms_up_over_five_percent_and_falls_as_a_cosine() -> None:
    rates = [warmup_cosine(step, 100) for step in range(100)]
    assert rates[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert rates[5:] == sorted(rates[5:], reverse=True)
    assert rates[-1] == pytest.approx(0, abs=1e-3)
    assert rates[52] == pytest.approx(0.5, abs=0.02)


def test_half_of_replay_is_even_over_labels_and_half_as_frequent_as_they_are() -> None:
    past = [Example(f"a{i}", "large") for i in range(900)] + [Example(f"b{i}", "small") for i in range(100)]
    drawn = replay(past, 120, random.Random(0))
    assert len(drawn) == 120
    assert 30 <= sum(example.label == "small" for example in drawn) <= 45  # 30 of the one half, a tenth of the other
    assert [example.label for example in drawn] != sorted(example.label for example in drawn)
    assert replay([], 5, random.Random(0)) == []


@pytest.mark.parametrize("draw", [even_draw, plain_draw])
def test_nothing_comes_again_before_all_has_come(draw) -> None:
    past = [Example(f"a{i}", "large") for i in range(90)] + [Example(f"b{i}", "small") for i in range(10)]
    assert len(set(draw(past, 30, random.Random(0)))) == 30
    often = Counter(draw(past, 230, random.Random(0)))
    assert len(often) == 100
    assert set(often.values()) == {2, 3}


def test_three_parts_new_go_with_seven_parts_past() -> None:
    assert beside(30) == beside(30, 0.3) == 70
    assert beside(30, 0.15) == 170
    assert beside(30, 1.0) == beside(0) == 0
    with pytest.raises(ValueError, match="domain_share 0"):
        beside(30, 0.0)


def test_only_answers_and_texts_weigh_anything(tiny_model_folder) -> None:
    codec = from_pretrained(tiny_model_folder).codec
    batch = collate([Lesson(OLD[0]), Lesson(Example("x", "db.sql"))], codec, 0.1)
    answer = codec.answer("db.sql")
    assert batch.token_BS[1][batch.label_BS[1]].tolist() == answer
    assert batch.weight_BS[1].sum() == pytest.approx(len(answer) + 0.1 * len(codec.text("x")))
    assert batch.weight_BS[batch.token_BS == codec.pad].sum() == 0


def test_an_epoch_shows_every_example_once() -> None:
    drawn = groups([range(len(OLD))], [len(e.text) for e in OLD], 8, random.Random(3))
    assert steps_of(len(OLD), 8, 1) == 2
    assert sorted(index for _ in range(2) for index in next(drawn)) == list(range(len(OLD)))


def test_training_repeats_to_the_bit(tiny_model_folder) -> None:
    champion = from_pretrained(tiny_model_folder)
    first, second = (train_month(champion, NEW, OLD, RECIPE, nothing).network.state_dict() for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_new_label_is_learned_and_the_old_ones_kept(tiny_model_folder) -> None:
    champion = from_pretrained(tiny_model_folder)
    before = {name: tensor.clone() for name, tensor in champion.network.state_dict().items()}
    recipe = dataclasses.replace(RECIPE, epochs=8)
    steps: list[Step] = []
    new = train_month(champion, NEW, OLD, recipe, steps.append)
    challenger = distil(champion, new, NEW, OLD, recipe, 2.0, steps.append)
    assert evaluate(champion, NEW).accuracy == 0
    assert evaluate(challenger, NEW).accuracy > 0.9
    assert evaluate(challenger, OLD).accuracy >= evaluate(champion, OLD).accuracy - 0.12
    assert "web.page" in challenger.labels
    assert all(torch.equal(before[name], tensor) for name, tensor in champion.network.state_dict().items())
    assert steps[-1].number + 1 == steps[-1].of


def test_a_step_reports_what_the_routers_saw(tiny_model_folder) -> None:
    champion = from_pretrained(tiny_model_folder)
    steps: list[Step] = []
    train_month(champion, NEW, OLD, RECIPE, steps.append)
    assert all(step.active_experts == champion.network.config.num_experts_per_tok for step in steps)
    assert all(0 <= step.dead_expert_frac < 1 and step.peak_load >= 1 for step in steps)
    assert {step.stage for step in steps} == {"month"}


def test_the_defaults_are_the_documents(tiny_model_folder) -> None:
    domain = [Example(f"n{i}", "new") for i in range(30)]
    past = [Example(f"p{i}", "old") for i in range(500)]
    steps: list[Step] = []
    train_month(from_pretrained(tiny_model_folder), domain, past[:130], RECIPE, steps.append)
    rates = [step.learning_rate for step in steps]
    assert len(rates) == 40
    assert rates[:2] == [RECIPE.learning_rate / 2, RECIPE.learning_rate]
    assert rates[1:] == sorted(rates[1:], reverse=True)


def test_an_evaluation_tells_accuracy_latency_and_memory_together(tiny_model_folder) -> None:
    model = from_pretrained(tiny_model_folder)
    found = evaluate(model, OLD)
    assert found.accuracy > 0.8
    assert 0 < found.latency_ms < 10_000
    assert found.memory_bytes == weight_bytes(model)
    tied = model.network.lm_head.weight
    assert tied is model.network.embed.weight
    assert sum(p.numel() * 4 for p in model.network.parameters()) <= weight_bytes(model)
    assert weight_bytes(model) < sum(t.numel() * 4 for t in model.network.state_dict().values())
    nothing_asked = evaluate(model, [])
    assert math.isnan(nothing_asked.latency_ms)


def test_an_average_lies_between_the_two_and_leaves_them_alone(tiny_model_folder) -> None:
    champion = from_pretrained(tiny_model_folder)
    taught = train_month(champion, NEW, OLD, RECIPE, nothing)
    ends = [{name: weight.clone() for name, weight in one.network.named_parameters()} for one in (champion, taught)]
    found = average(champion, taught, 0.25)
    assert found.labels == taught.labels
    for name, weight in found.network.named_parameters():
        torch.testing.assert_close(weight, 0.75 * ends[0][name] + 0.25 * ends[1][name])
    assert all(torch.equal(weight, ends[0][name]) for name, weight in champion.network.named_parameters())
    assert all(torch.equal(weight, ends[1][name]) for name, weight in taught.network.named_parameters())
    whole = average(champion, taught, 1.0)
    assert all(torch.equal(weight, ends[1][name]) for name, weight in whole.network.named_parameters())
    with pytest.raises(ValueError, match="share 0"):
        average(champion, taught, 0)


def certainty(model: LanguageModel, examples: list[Example]) -> float:
    """The mean probability of the right label."""
    answers = model.classify([example.text for example in examples])
    return sum(a.scores.get(e.label, 0.0) for a, e in zip(answers, examples, strict=True)) / len(examples)


def test_a_model_settles_near_the_champion_and_keeps_the_month(tiny_model_folder) -> None:
    champion = from_pretrained(tiny_model_folder)
    taught = train_month(champion, NEW * 8, OLD, RECIPE, nothing)
    found, share = settle(champion, taught, NEW, 0.03)
    assert evaluate(taught, NEW).accuracy > 0.9
    assert certainty(found, NEW) >= certainty(taught, NEW) - 0.03
    assert 0 < share <= 1
    nearer = average(champion, taught, max(0.1, share - 0.1))
    assert share == 0.1 or certainty(nearer, NEW) < certainty(taught, NEW) - 0.03
    assert settle(champion.at(3.0), taught.at(3.0), NEW, 0.03)[1] == share  # how certain it says it is changes nothing
    same, least = settle(champion, taught, OLD, 1.0)
    assert least == 0.1
    assert evaluate(same, OLD).accuracy >= evaluate(champion, OLD).accuracy - 0.05


def test_a_new_label_among_many_old_rows_holds_the_average_back(tiny_model_folder) -> None:
    champion = from_pretrained(tiny_model_folder)
    taught = train_month(champion, NEW * 8, OLD, RECIPE, nothing)
    month = [*OLD * 4, *NEW[:2]]
    found, _ = settle(champion, taught, month, 0.05)  # two of fifty rows and more, whose loss alone would be allowed
    assert certainty(found, NEW[:2]) >= certainty(taught, NEW[:2]) - 0.05
