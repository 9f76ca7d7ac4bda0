"""Experts compute what a plain loop over tokens and experts would, on whichever path, and tell only each other."""

from __future__ import annotations

from dataclasses import replace
from unittest.mock import patch

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import silu

from model.communication import ExpertCommunication
from model.config import MoeConfig
from model.experts import Experts
from model.routing import Routes

E, D, F, K = 12, 16, 8, 5

GIVEN = {
    "tokens": st.integers(1, 24),
    "seed": st.integers(0, 2**16),
    "dynamic": st.booleans(),
    "communication": st.sampled_from((0, 4)),
    "pool": st.integers(K, E),
}


def experts_of(communication: int, seed: int = 0) -> Experts:
    """Experts of which every part has something to say."""
    torch.manual_seed(seed)
    config = MoeConfig(
        hidden_size=D,
        num_experts=E,
        num_experts_per_tok=K,
        moe_intermediate_size=F,
        expert_communication=communication,
    )
    experts = Experts(config)
    for parameter in experts.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return experts


def routes_of(tokens: int, dynamic: bool, pool: int = E) -> Routes:
    """Random ones among the first `pool` experts; the others have no rows."""
    index_TK = torch.rand(tokens, pool).topk(K, dim=-1).indices
    weight_TK = torch.rand(tokens, K)
    if not dynamic:
        return Routes(weight_TK.requires_grad_(), index_TK)
    active_TK = torch.arange(K) < torch.randint(1, K + 1, (tokens, 1))
    return Routes((weight_TK * active_TK).requires_grad_(), index_TK, active_TK)


def looped(experts: Experts, x_TD: Tensor, routes: Routes) -> Tensor:
    """Token by token, expert by expert."""
    out = []
    for token, x_D in enumerate(x_TD):
        columns = range(K) if routes.active_TK is None else routes.active_TK[token].nonzero().flatten().tolist()
        y, weight = [], []
        for column in columns:
            expert = routes.index_TK[token, column]
            gate_F, up_F = (x_D @ experts.gate_up_EDF[expert]).chunk(2)
            y.append((silu(gate_F) * up_F) @ experts.down_EFD[expert])
            weight.append(routes.weight_TK[token, column])
        y_nD, weight_n = torch.stack(y), torch.stack(weight)
        out_D = weight_n @ y_nD
        if (talk := experts.communication) is not None:
            query_nC, key_nC, value_nC = (y_nD @ talk.query_key_value.T).chunk(3, dim=-1)
            share_nn = torch.softmax(query_nC @ key_nC.T / talk.width**0.5, dim=-1)
            out_D = out_D + talk.out @ (weight_n @ (share_nn @ value_nC))
        out.append(out_D)
    return torch.stack(out)


def near(one: Tensor, other: Tensor) -> bool:
    return torch.allclose(one, other, rtol=1e-4, atol=1e-5 * (1 + other.detach().abs().max().item()))


@settings(max_examples=40, deadline=None)
@given(**GIVEN, cached=st.sampled_from((1, 20 * D, 1 << 20)))
def test_output_and_gradients_are_those_of_a_plain_loop(
    tokens: int, seed: int, dynamic: bool, communication: int, pool: int, cached: int
) -> None:
    experts = experts_of(communication, seed)
    routes = routes_of(tokens, dynamic, pool)
    x_TD = torch.randn(tokens, D, requires_grad=True)
    grad_TD = torch.randn(tokens, D)
    inputs = [x_TD, routes.weight_TK, *experts.parameters()]
    with patch("model.experts.CACHED", cached):
        ours = experts(x_TD, routes)
    loop = looped(experts, x_TD, routes)
    assert near(ours, loop)
    for mine, theirs in zip(
        torch.autograd.grad(ours, inputs, grad_TD), torch.autograd.grad(loop, inputs, grad_TD), strict=True
    ):
        assert near(mine, theirs)


@settings(max_examples=25, deadline=None)
@given(**GIVEN)
def test_both_paths_agree(tokens: int, seed: int, dynamic: bool, communication: int, pool: int) -> None:
    experts = experts_of(communication, seed)
    routes = routes_of(tokens, dynamic, pool)
    x_TD = torch.randn(tokens, D)
    with torch.no_grad():
        with patch("model.experts.FEW_ROWS", 1 << 20):
            few = experts(x_TD, routes)
        with patch("model.experts.FEW_ROWS", 0):
            many = experts(x_TD, routes)
    assert near(few, many)
    assert near(few, experts(x_TD, routes).detach())


def test_an_expert_without_rows_has_no_gradient() -> None:
    experts = experts_of(communication=0)
    experts(torch.randn(9, D), routes_of(9, dynamic=False, pool=7)).sum().backward()
    for weight in (experts.gate_up_EDF, experts.down_EFD):
        assert weight.grad is not None
        assert weight.grad[:7].flatten(1).any(dim=1).all()
        assert not weight.grad[7:].any()


@pytest.mark.parametrize("communication", [0, 4])
def test_no_tokens_give_no_output(communication: int) -> None:
    x_TD = torch.randn(0, D, requires_grad=True)
    out_TD = experts_of(communication)(x_TD, routes_of(0, dynamic=True))
    out_TD.sum().backward()
    assert out_TD.shape == (0, D)
    with torch.no_grad():
        assert experts_of(communication)(x_TD, routes_of(0, dynamic=True)).shape == (0, D)


@pytest.mark.parametrize("few_rows", [0, 1 << 20], ids=("many", "few"))
@pytest.mark.parametrize("communication", [0, 4])
@torch.no_grad()
def test_an_expert_that_is_not_active_changes_nothing(communication: int, few_rows: int) -> None:
    experts = experts_of(communication)
    routes = routes_of(8, dynamic=True)
    x_TD = torch.randn(8, D)
    assert routes.active_TK is not None
    elsewhere = replace(routes, index_TK=routes.index_TK.where(routes.active_TK, (routes.index_TK + 1) % E))
    assert not torch.equal(routes.index_TK, elsewhere.index_TK)
    with patch("model.experts.FEW_ROWS", few_rows):
        assert torch.equal(experts(x_TD, routes), experts(x_TD, elsewhere))


@torch.no_grad()
def test_a_communication_that_has_learned_nothing_changes_nothing() -> None:
    experts = experts_of(communication=4)
    experts.reset(0.3)
    routes, x_TD = routes_of(8, dynamic=True), torch.randn(8, D)
    told = experts(x_TD, routes)
    experts.communication = None
    assert torch.equal(told, experts(x_TD, routes))


@torch.no_grad()
def test_communication_sees_only_the_same_token() -> None:
    experts = experts_of(communication=4)
    routes, x_TD = routes_of(30, dynamic=True), torch.randn(30, D)
    before = experts(x_TD, routes)
    other = x_TD.clone()
    other[3] += 1
    after = experts(other, routes)
    others = torch.arange(30) != 3
    assert torch.equal(before[others], after[others])
    assert not torch.equal(before[3], after[3])


@torch.no_grad()
def test_communication_sees_only_active_experts() -> None:
    torch.manual_seed(0)
    config = MoeConfig(hidden_size=D, num_experts=E, num_experts_per_tok=K, expert_communication=4)
    talk = ExpertCommunication(config)
    talk.reset(0.3)
    torch.nn.init.normal_(talk.out)
    weight_TK, y_RD = torch.rand(2, K), torch.randn(8, D)
    active_TK = torch.tensor([[True] * 3 + [False] * 2, [True] * 5])
    slot_R = active_TK.flatten().nonzero().squeeze(1)
    told = talk(y_RD, slot_R, weight_TK, active_TK)
    alone = [talk(y_RD[:3], torch.arange(3), weight_TK[:1, :3]), talk(y_RD[3:], torch.arange(5), weight_TK[1:])]
    assert near(told, torch.cat(alone))
    assert near(told[:1], talk.between(y_RD[:3], weight_TK[0, :3]))


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("communication", [0, 4])
def test_a_repetition_is_bit_identical(communication: int, dynamic: bool) -> None:
    experts = experts_of(communication)
    routes, x_TD = routes_of(300, dynamic), torch.randn(300, D, requires_grad=True)
    inputs = [x_TD, routes.weight_TK, *experts.parameters()]

    def once() -> list[Tensor]:
        out_TD = experts(x_TD, routes)
        return [out_TD, *torch.autograd.grad(out_TD.square().sum(), inputs)]

    first = once()
    for _ in range(3):
        assert all(map(torch.equal, first, once()))


def test_a_token_depends_on_its_batch_by_no_more_than_rounding() -> None:
    experts = experts_of(communication=4)
    routes, x_TD = routes_of(200, dynamic=True), torch.randn(200, D)
    whole = experts(x_TD, routes)
    assert routes.active_TK is not None
    for size in (1, 7, 100):
        fewer = Routes(routes.weight_TK[:size], routes.index_TK[:size], routes.active_TK[:size])
        assert torch.allclose(experts(x_TD[:size], fewer), whole[:size], rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_decoding_copies_no_weights() -> None:
    config = MoeConfig(hidden_size=64, num_experts=E, num_experts_per_tok=K, moe_intermediate_size=64)
    experts = Experts(config)
    one_matrix = experts.down_EFD[0].numel() * experts.down_EFD.element_size()
    with torch.profiler.profile(profile_memory=True) as profile:
        experts(torch.randn(1, 64), routes_of(1, dynamic=True))
    taken = [event.self_cpu_memory_usage for event in profile.events()]
    assert max(taken) < one_matrix


@pytest.mark.parametrize("tokens", [1, 40])
def test_bfloat16_is_as_exact_as_it_can_be(tokens: int) -> None:
    experts = experts_of(communication=4)
    routes, x_TD = routes_of(tokens, dynamic=True), torch.randn(tokens, D)
    exact = experts(x_TD, routes)
    experts.bfloat16()
    for learning in (True, False):
        with torch.set_grad_enabled(learning):
            rounded = experts(x_TD.bfloat16(), routes)
        assert rounded.dtype == torch.bfloat16
        assert (rounded.float() - exact).norm() < 0.03 * exact.norm()


def test_autocast_computes_in_its_type() -> None:
    experts = experts_of(communication=4)
    routes, x_TD = routes_of(40, dynamic=True), torch.randn(40, D)
    exact = experts(x_TD, routes)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = experts(x_TD, routes)
    rounded.sum().backward()
    assert rounded.dtype == torch.bfloat16
    assert experts.gate_up_EDF.grad is not None
    assert (rounded.float() - exact).norm() < 0.03 * exact.norm()
