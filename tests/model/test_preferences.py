"""Thumbs teach what users like, and the old answers stay within the bound that was set."""

from __future__ import annotations

import dataclasses
import itertools
import math
import random
from pathlib import Path

import numpy as np
import pytest
import torch

from evermoe.months import start_of
from evermoe.settings import Settings
from flows.learning.base import prepare
from flows.learning.examples import is_held_out, split
from model import Example, LanguageModel, MoeConfig, Recipe, Step, evaluate, from_pretrained
from model.batches import Lesson, collate, steps_of
from model.curriculum import ALIGNMENT, EXPANSION, FOUNDATION, curriculum, one_stage
from model.learn import align, fit, preferences, supervised, untrained
from model.loss import kto
from model.preferences import Alignment, Preferences, Thumb, balance_of, draw_back, log_probabilities, preference
from model.tasks import Language
from streams import open_stream
from streams.record import Record

NOUNS = {"net.switch": ("vlan", "port", "route", "switch"), "db.sql": ("table", "index", "query", "row")}
OLD = [
    Example(f"{v} the {n} option", label) for label, ns in NOUNS.items() for n in ns for v in ("fix", "add", "remove")
]
CHARTS = [
    f"draw the {n} {thing}"
    for n, thing in itertools.product(("bar", "pie", "line", "map"), ("chart", "page", "screen"))
]
THUMBS = [Thumb(text, "db.sql" if i % 2 else "net.switch", bool(i % 2)) for i, text in enumerate(CHARTS)]
RECIPE = Recipe(epochs=6, batch_size=4, learning_rate=2e-3, text_loss_weight=0.1, seed=3)


def nothing(step: Step) -> None:
    pass


def answer_distributions(model: LanguageModel, text: str, answer: str) -> np.ndarray:
    """Log-probabilities (tokens of the answer, vocabulary), read off one sequence alone."""
    prompt, tokens = model.codec.prompt(text), model.codec.answer(answer)
    with torch.no_grad():
        logits = model.network(torch.tensor([[*prompt, *tokens]])).logits[0].double().numpy()
    rows = logits[len(prompt) - 1 : -1]
    return (
        rows - np.log(np.exp(rows - rows.max(-1, keepdims=True)).sum(-1, keepdims=True)) - rows.max(-1, keepdims=True)
    )


def log_probability(model: LanguageModel, text: str, answer: str) -> float:
    rows = answer_distributions(model, text, answer)
    return float(sum(row[token] for row, token in zip(rows, model.codec.answer(answer), strict=True)))


def strayed(reference: LanguageModel, policy: LanguageModel, examples: list[Example]) -> float:
    """Mean KL(reference || policy) over the tokens of the examples' answers."""
    apart = []
    for example in examples:
        before = answer_distributions(reference, example.text, example.label)
        after = answer_distributions(policy, example.text, example.label)
        apart += (np.exp(before) * (before - after)).sum(-1).tolist()
    return float(np.mean(apart))


def test_the_loss_is_the_papers() -> None:
    reward, up, z0, beta, weights = [0.7, -1.2, 2.0, 0.1], [True, False, False, True], 0.3, 0.5, (2.0, 0.5)

    def sigma(x: float) -> float:
        return 1 / (1 + math.exp(-x))

    by_hand = 0.0
    for r, liked in zip(reward, up, strict=True):
        weight = weights[0] if liked else weights[1]
        value = weight * sigma(beta * (r - z0)) if liked else weight * sigma(beta * (z0 - r))
        by_hand += (weight - value) / 4
    found = kto(torch.tensor(reward), torch.tensor(up), z0, beta, weights)
    assert float(found.mean) == pytest.approx(by_hand, rel=1e-6)


def test_a_batch_is_worth_what_single_sequences_say(tiny_model_folder: Path) -> None:
    reference, policy = from_pretrained(tiny_model_folder), from_pretrained(tiny_model_folder)
    (stage,) = one_stage(ALIGNMENT, len(THUMBS))
    recipe = Alignment(beta=0.3, anchor_weight=0.7, replay_weight=0.2)
    task = Preferences(stage, THUMBS, OLD, policy.codec, recipe)
    task.begin(policy.network)
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in policy.network.parameters():
            parameter.add_(0.03 * torch.randn_like(parameter))
    policy.network.train()
    worth = task.worth(policy.network, range(5))
    policy.network.eval()
    judged, anchors = THUMBS[:5], OLD[:5]

    def gain(text: str, answer: str) -> float:
        return log_probability(policy, text, answer) - log_probability(reference, text, answer)

    mismatched = [gain(one.text, judged[(i + 1) % 5].answer) for i, one in enumerate(judged)]
    z0 = max(0.0, float(np.mean(mismatched)))
    apart = strayed(reference, policy, anchors)
    tokens = sum(len(policy.codec.answer(anchor.label)) for anchor in anchors)
    again = -sum(log_probability(policy, anchor.text, anchor.label) for anchor in anchors) / tokens
    by_hand = 0.7 * apart + 0.2 * again
    for thumb in judged:
        side = 0.3 * (gain(thumb.text, thumb.answer) - z0) * (1 if thumb.up else -1)
        by_hand += (1 - 1 / (1 + math.exp(-side))) / 5
    assert apart > 1e-3
    assert worth.moved == pytest.approx(apart, rel=1e-3)
    assert sum(float(term.mean.detach()) for term in worth.terms) == pytest.approx(by_hand, rel=1e-3)


def test_liked_and_disliked_weigh_the_same_in_sum() -> None:
    thumbs = [Thumb("a", "b", i < 3) for i in range(12)]
    liked, disliked = balance_of(thumbs)
    assert liked * 3 == pytest.approx(disliked * 9)
    assert (liked * 3 + disliked * 9) / 12 == pytest.approx(1)
    assert balance_of([Thumb("a", "b", True)]) == (0.5, 0.5)


def test_preference_is_the_area_under_the_curve_of_log_probability_a_token(tiny_model_folder: Path) -> None:
    model = from_pretrained(tiny_model_folder)
    thumbs = [Thumb(e.text, e.label, True) for e in OLD] + [Thumb(e.text, "db.sql", False) for e in OLD[:12]]
    score = [log_probability(model, t.text, t.answer) / len(model.codec.answer(t.answer)) for t in thumbs]
    liked, disliked = (np.array([s for s, t in zip(score, thumbs, strict=True) if t.up == up]) for up in (True, False))
    by_hand = np.mean([(disliked < one) + 0.5 * (disliked == one) for one in liked])
    assert preference(model, thumbs) == pytest.approx(by_hand, abs=0.01)
    assert math.isnan(preference(model, thumbs[:3]))


def test_held_out_preference_rises_and_old_answers_stay(tiny_model_folder: Path) -> None:
    champion = from_pretrained(tiny_model_folder)
    steps: list[Step] = []
    told, asked = THUMBS[:8], THUMBS[8:]
    aligned = align(champion, told, OLD, RECIPE, steps.append, alignment=Alignment(bound=0.1))
    assert preference(aligned, asked) >= preference(champion, asked)
    assert np.mean([aligned.classify([t.text])[0].label == "db.sql" for t in asked]) == 1
    assert evaluate(aligned, OLD).accuracy >= evaluate(champion, OLD).accuracy
    assert strayed(champion, aligned, OLD) <= 0.1
    assert {step.stage for step in steps} == {ALIGNMENT}


@pytest.mark.parametrize("bound", [1e-2, 1e-4, 0.0])
def test_the_bound_holds_however_hard_the_training_pulls(tiny_model_folder: Path, bound: float) -> None:
    champion = from_pretrained(tiny_model_folder)
    wild = Recipe(epochs=6, batch_size=4, learning_rate=2e-2, text_loss_weight=0.1, seed=3)
    steps: list[Step] = []
    aligned = align(
        champion, THUMBS, OLD, wild, steps.append, alignment=Alignment(bound=bound, anchor_weight=0, replay_weight=0)
    )
    assert strayed(champion, aligned, OLD) <= bound + 1e-6
    assert steps[-1].moved <= bound
    assert steps[-2].moved > bound


def test_weights_go_back_no_further_than_the_bound_asks() -> None:
    network, reference = torch.nn.Linear(3, 2), torch.nn.Linear(3, 2)

    def measure() -> float:
        return float((network.weight - reference.weight).detach().norm())

    before = measure()
    assert draw_back(network, reference, before / 3, measure) == pytest.approx(before / 3, rel=1e-2)
    assert measure() <= before / 3


def test_where_the_way_back_is_not_even_the_bound_still_holds() -> None:
    network, reference = torch.nn.Linear(3, 2), torch.nn.Linear(3, 2)
    whole = float((network.weight - reference.weight).detach().norm())

    def measure() -> float:
        gone = float((network.weight - reference.weight).detach().norm()) / whole
        return 0.0 if gone < 0.01 else abs(math.sin(20 * gone)) + 0.1

    assert draw_back(network, reference, 0.2, measure) == measure() <= 0.2


def test_log_probabilities_stand_at_their_rows(tiny_model_folder: Path) -> None:
    model = from_pretrained(tiny_model_folder)
    pairs = [Example("fix the vlan option", "net.switch"), Example("x", "db.sql")]
    batch = collate([Lesson(e) for e in pairs], model.codec, 0.0)
    with torch.no_grad():
        logits = model.network(batch.token_BS[:, :-1]).logits[batch.label_BS[:, 1:]]
    found = log_probabilities(logits, batch).tolist()
    assert found == pytest.approx([log_probability(model, e.text, e.label) for e in pairs], rel=1e-4)


def thumb_of(record: Record, teams: list[str], generator: random.Random) -> Thumb:
    """A user's judgement of one answer to a text: of its right team, or of another that had notes in those months."""
    is_right = generator.random() < 0.5
    wrong = generator.choice([team for team in teams if team != record.label])
    return Thumb(record.text, str(record.label) if is_right else wrong, is_right)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("seed", [1, 2])
def test_thumbs_on_later_months_raise_the_preference_and_cost_at_most_a_point(seed: int) -> None:
    records = open_stream("ansible", path=None, cache=Settings().cache).records()
    data = split(prepare(records, "2025-01", 2500))
    later = [r for r in records if r.label and start_of("2025-01") <= r.at < start_of("2025-07")]
    generator, teams = random.Random(seed), [str(r.label) for r in later]
    asked = [thumb_of(r, teams, generator) for r in later if is_held_out(r.text)]
    told = [thumb_of(r, teams, generator) for r in later if not is_held_out(r.text)]
    told = [dataclasses.replace(t, up=t.up != (generator.random() < 0.1)) for t in told]

    recipe = Recipe(epochs=6, batch_size=32, learning_rate=3e-3, text_loss_weight=0.02, seed=seed)
    sizes = {"hidden_size": 64, "num_attention_heads": 2, "num_experts": 32, "num_experts_per_tok": 4}
    config = MoeConfig(vocab_size=2048, moe_intermediate_size=32, shared_expert_size=64, **sizes)
    model = untrained(data.train, config, 48, seed, (t.answer for t in told if t.up))
    first, second, third = curriculum(data.train, recipe.epochs, len(told))
    lessons = [Lesson(example) for example in data.train]
    tasks = supervised(model, (first, second), lessons, recipe, Language())
    tasks.append(preferences(model, third, told, data.train, recipe, Alignment()))
    figures: list[tuple[float, float]] = []
    steps: list[Step] = []

    def report(step: Step) -> None:
        steps.append(step)
        if step.number + 1 in (round(0.7 * step.of), step.of):
            figures.append((preference(model, asked), evaluate(model, data.examination).accuracy))

    fit(model, tasks, steps_of(len(lessons), recipe.batch_size, recipe.epochs), recipe, report)
    (preference_before, accuracy_before), (preference_after, accuracy_after) = figures
    print(
        f"preference {preference_before:.3f} to {preference_after:.3f}, accuracy {accuracy_before:.3f} to {accuracy_after:.3f}"
    )
    assert preference_after > preference_before + 0.01
    assert accuracy_after >= accuracy_before - 0.01
    assert steps[-1].moved <= Alignment().bound
    stages = [step.stage for step in steps]
    assert stages.index(EXPANSION) == round(0.2 * len(steps))
    assert stages.index(ALIGNMENT) == round(0.7 * len(steps))
    assert set(stages) == {FOUNDATION, EXPANSION, ALIGNMENT}
