"""Experts that are new or locked change nothing until they are trained, and all of them work in the end."""

from __future__ import annotations

import pytest
import torch

from evermoe.errors import BadInput
from model import MoeConfig, MoeForCausalLM
from model.growth import UNLOCKED_BY, add_experts, adjust, cold_start
from model.routing import routers


def network_of(**changes) -> MoeForCausalLM:
    torch.manual_seed(0)
    sizes = {
        "vocab_size": 60,
        "hidden_size": 32,
        "num_experts": 24,
        "num_experts_per_tok": 4,
        "moe_intermediate_size": 8,
    }
    return MoeForCausalLM(MoeConfig(**sizes | {"initializer_range": 0.2} | changes))


def trained(network: MoeForCausalLM, steps: int) -> list[float]:
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3)
    generator, losses = torch.Generator().manual_seed(3), []
    network.train()
    for step in range(steps):
        start = torch.randint(0, 60, (16, 1), generator=generator)
        tokens = (start + 7 * torch.arange(20)) % 60
        loss = network(tokens, labels=tokens).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        adjust(network, 0.02, (step + 1) / steps)
        losses.append(float(loss.detach()))
    network.eval()
    return losses


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"min_experts_per_tok": 2, "max_experts_per_tok": 8},
        {"router_score": "softmax"},
        {"dense_layers": (0,), "intermediate_size": 16},
    ],
)
def test_added_experts_change_no_logit_until_trained_and_then_take_part(changes) -> None:
    network = network_of(**changes)
    trained(network, 20)
    grown = add_experts(network, 16)
    tokens = torch.randint(0, 60, (4, 30))
    with torch.no_grad():
        assert (network(tokens).logits - grown(tokens).logits).abs().max() < 1e-5
    assert grown.config.num_experts == 40
    first = trained(grown, 60)
    assert first[0] == pytest.approx(trained(network, 1)[0], abs=1e-5)
    with torch.no_grad():
        used = grown(torch.randint(0, 60, (16, 30))).experts.unique()
    assert (used >= 24).sum() >= 12
    assert all((router.admission == 1).all() for router in routers(grown))


def test_a_cold_start_unlocks_the_pool_over_the_first_fifth_and_no_expert_stays_dead() -> None:
    network = network_of()
    cold_start(network, 8)
    router = routers(network)[0]
    assert int((router.admission > 0).sum()) == 8
    admitted = []
    for step in range(100):
        adjust(network, 0.0, (step + 1) / 100)
        admitted.append(int((router.admission > 0).sum()))
    assert admitted == sorted(admitted)
    assert 8 < admitted[5] < 24
    assert admitted[int(100 * UNLOCKED_BY)] == 24
    assert (router.admission == 1).all()
    again = network_of()
    cold_start(again, 8)
    losses = trained(again, 120)
    assert losses[-1] < losses[0] / 2
    with torch.no_grad():
        assert len(again(torch.randint(0, 60, (32, 40))).experts[0].unique()) == 24


def test_what_is_unlocked_begins_as_a_copy_of_the_busiest_experts() -> None:
    network = network_of()
    cold_start(network, 8)
    router, experts = next((block.router, block.experts) for block in network.blocks)
    assert not experts.down_EFD.any()
    with torch.no_grad():
        torch.nn.init.normal_(experts.down_EFD)
    router.load[:8] = torch.tensor([3.0, 9.0, 1.0, 4.0, 0.0, 5.0, 7.0, 2.0])
    (load, _) = adjust(network, 0.0, 0.02)
    copies = load.unlocked.tolist()
    assert copies == [8, 9]
    assert (router.admission[copies] > 0).all()
    for copy, parent in zip(copies, (1, 6), strict=True):
        for each_E in (experts.gate_up_EDF, experts.down_EFD, router.weight, router.bias):
            assert torch.equal(each_E[copy], each_E[parent])


def test_a_cold_start_needs_as_many_experts_as_a_token_may_have() -> None:
    with pytest.raises(BadInput, match="3 of 24 experts"):
        cold_start(network_of(), 3)
    with pytest.raises(BadInput, match="cannot add 0"):
        add_experts(network_of(), 0)
