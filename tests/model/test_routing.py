"""Routers balance, hold their budget and admit new experts, without a gradient of their own."""

from __future__ import annotations

import math

import pytest
import torch

from model.config import MoeConfig
from model.routing import MATURE, Router, Routes
from model.statistics import router_statistics


def router_of(seed: int = 0, **changes) -> Router:
    sizes = {"hidden_size": 16, "num_attention_heads": 2, "num_experts": 32, "num_experts_per_tok": 4}
    router = Router(MoeConfig(**sizes | changes))
    router.reset(1.0)
    torch.nn.init.normal_(router.weight, std=0.3, generator=torch.Generator().manual_seed(seed))
    return router.train()


def rows(count: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(count, 16, generator=torch.Generator().manual_seed(seed))


DYNAMIC = {"min_experts_per_tok": 2, "max_experts_per_tok": 9}


def test_the_bias_moves_load_towards_even_without_a_gradient() -> None:
    router, x = router_of(), rows(512) + 0.5
    peaks = []
    for _ in range(500):
        router(x)
        peaks.append(float(router.adjust(0.002, 1.0).share_E.max() * 32))
    assert peaks[0] > 2.5
    assert sum(peaks[-20:]) / 20 < 1.6
    assert not router.bias.requires_grad


def test_padding_is_no_load_to_balance_and_no_part_of_the_average() -> None:
    router = router_of(**DYNAMIC)
    x, padding = rows(40), torch.zeros(200, 16)
    router(x)
    alone, tokens = router.load.clone(), router.tokens.clone()
    router.load.zero_()
    router.tokens.zero_()
    router(torch.cat([x, padding]), torch.arange(240) < 40)
    assert torch.equal(router.load, alone)
    assert torch.equal(router.tokens, tokens)


@pytest.mark.parametrize("score", ["sigmoid", "softmax"])
@pytest.mark.parametrize("start", [0.001, 0.9])
def test_the_threshold_brings_the_average_to_its_target_from_either_side(score: str, start: float) -> None:
    router = router_of(router_score=score, **DYNAMIC)
    router.threshold.fill_(start)
    active = []
    for step in range(150):
        router(rows(256, seed=step))
        active.append(router.adjust(0.0, 1.0).active)
    assert abs(active[0] - 4) > 1.5
    assert sum(active[-30:]) / 30 == pytest.approx(4, abs=0.15)
    router.eval()
    counts = (router(rows(1000, seed=999)).chosen() >= 0).sum(-1).float()
    assert float(counts.mean()) == pytest.approx(4, abs=0.3)
    assert float(counts.std()) > 0.3
    assert 2 <= counts.min() < counts.max() <= 9


def test_a_token_has_the_fewest_experts_that_cover_the_threshold() -> None:
    router = router_of(**DYNAMIC).eval()
    router.threshold.fill_(0.2)
    x = rows(50)
    affinity = torch.sigmoid(x @ router.weight.T)
    for row, chosen in zip(affinity / affinity.sum(-1, keepdim=True), router(x).chosen(), strict=True):
        best = row.sort(descending=True).values
        needed = next(k for k in range(1, 33) if best[:k].sum() >= 0.2)
        assert int((chosen >= 0).sum()) == min(9, max(2, needed))


def test_weights_sum_to_one_over_the_active_experts_only() -> None:
    routes = router_of(**DYNAMIC).eval()(rows(50))
    assert routes.active_TK is not None
    assert torch.allclose(routes.weight_TK.sum(-1), torch.ones(50))
    assert not routes.weight_TK[~routes.active_TK].any()


def test_a_locked_expert_changes_no_route_until_it_is_admitted() -> None:
    for changes in ({}, DYNAMIC, DYNAMIC | {"router_score": "softmax"}):
        small, large = router_of(**changes), router_of(num_experts=40, **changes)
        with torch.no_grad():
            large.weight[:32], large.weight[32:] = small.weight, 1.0
        large.threshold.copy_(small.threshold)
        large.admission[32:] = 0.0
        large.unlock_at[32:] = 0.0
        ours, theirs = small(rows(60)), large(rows(60))
        assert torch.equal(ours.chosen(), theirs.chosen())
        assert torch.allclose(ours.weight_TK, theirs.weight_TK, atol=1e-6)
        large.adjust(0.0, progress=large.ramp / 2)
        assert large.admission[32:].tolist() == pytest.approx([0.5] * 8)
        large.adjust(0.0, progress=large.ramp)
        assert large.admission.tolist() == [1.0] * 40
        assert set(large.unlock_at.tolist()) == {MATURE}
        assert (large(rows(60)).chosen() >= 32).any()


def test_the_state_of_a_router_is_saved_with_its_weights() -> None:
    router = router_of(**DYNAMIC)
    router(rows(64))
    router.adjust(0.02, 1.0)
    assert {"bias", "admission", "unlock_at", "threshold", "error"} <= router.state_dict().keys()
    other = router_of(seed=5, **DYNAMIC)
    other.load_state_dict(router.state_dict())
    assert torch.equal(router.eval()(rows(64)).chosen(), other.eval()(rows(64)).chosen())


def test_statistics_count_what_was_chosen() -> None:
    index = torch.tensor([[0, 1], [0, 2], [0, 1]])
    active = torch.tensor([[True, True], [True, True], [True, False]])
    routes = Routes(torch.ones(3, 2), index, active, torch.ones(3, 4))
    found = router_statistics([routes], None, 4)
    assert found.expert_load.tolist() == [pytest.approx([0.6, 0.2, 0.2, 0.0])]
    assert found.active_experts.item() == pytest.approx(5 / 3)
    assert found.dead_expert_frac.item() == 0.25
    assert found.router_entropy.item() == pytest.approx(math.log(4))
    load_entropy = -(0.6 * math.log(0.6) + 0.4 * math.log(0.2))
    assert found.expert_diversity.item() == pytest.approx(math.exp(load_entropy) / 4)
    first_two = router_statistics([routes], torch.tensor([True, True, False]), 4)
    assert first_two.active_experts.item() == 2
