"""The decoder looks at nothing it should not, and its cache changes nothing."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM

from model import MoeConfig, MoeForCausalLM, from_pretrained


@pytest.fixture(scope="module")
def network() -> MoeForCausalLM:
    torch.manual_seed(0)
    config = MoeConfig(
        vocab_size=50,
        hidden_size=32,
        num_attention_heads=2,
        num_experts=16,
        num_experts_per_tok=4,
        moe_intermediate_size=8,
        initializer_range=0.3,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    return MoeForCausalLM(config).eval()


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), length=st.integers(2, 20), data=st.data())
def test_later_tokens_and_other_rows_leave_earlier_logits_alone(
    network: MoeForCausalLM, seed: int, length: int, data
) -> None:
    at = data.draw(st.integers(1, length - 1))
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(3, 50, (3, length), generator=generator)
    changed = torch.randint(3, 50, (3, length), generator=generator)
    changed[0, :at] = tokens[0, :at]
    with torch.no_grad():
        before, after = network(tokens).logits[0, :at], network(changed).logits[0, :at]
    assert torch.allclose(before, after, atol=1e-5)


def test_padding_on_the_left_leaves_the_logits_alone(network: MoeForCausalLM) -> None:
    tokens = torch.randint(3, 50, (1, 7), generator=torch.Generator().manual_seed(1))
    padded = torch.cat([torch.zeros(1, 5, dtype=torch.long), tokens], dim=1)
    mask = (torch.arange(12) >= 5).long()[None]
    with torch.no_grad():
        assert torch.allclose(network(tokens).logits, network(padded, attention_mask=mask).logits[:, 5:], atol=1e-5)


def test_the_cache_gives_the_logits_of_the_whole_sequence(network: MoeForCausalLM) -> None:
    tokens = torch.randint(3, 50, (2, 9), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        whole = network(tokens).logits
        first = network(tokens[:, :4], use_cache=True)
        middle = network(tokens[:, 4:7], past_key_values=first.past_key_values)
        last = network(tokens[:, 7:8], past_key_values=middle.past_key_values)
    pieces = torch.cat([first.logits, middle.logits, last.logits], dim=1)
    assert torch.allclose(whole[:, :8], pieces, atol=1e-5)


def test_each_token_uses_exactly_the_configured_experts(network: MoeForCausalLM) -> None:
    with torch.no_grad():
        experts = network(torch.randint(3, 50, (2, 5))).experts
    assert experts.shape == (2, 2, 5, 4)
    assert all(len(set(chosen)) == 4 for chosen in experts.reshape(-1, 4).tolist())


def test_transformers_loads_and_generates_what_we_saved(tiny_model_folder) -> None:
    ours = from_pretrained(tiny_model_folder)
    theirs = AutoModelForCausalLM.from_pretrained(tiny_model_folder)
    prompt = torch.tensor([ours.codec.opening("fix the vlan")])
    generated = theirs.generate(prompt, max_new_tokens=8, do_sample=False)[0, prompt.shape[1] :]
    special = {ours.codec.eos, ours.codec.label}
    kept = [token for token in generated.tolist() if token not in special]
    streamed = "".join(ours.generate("fix the vlan", max_new_tokens=8))
    assert ours.tokenizer.decode(kept).startswith(streamed)


def test_experts_equal_a_loop_over_experts(network: MoeForCausalLM) -> None:
    experts = network.blocks[0].experts
    x = torch.randn(6, 32, generator=torch.Generator().manual_seed(3))
    weight, index = network.blocks[0].router(x)
    expected = torch.zeros_like(x)
    for token in range(6):
        for w, e in zip(weight[token], index[token], strict=True):
            gate, up = (x[token] @ experts.gate_up_EDF[e]).chunk(2)
            expected[token] += w * ((torch.nn.functional.silu(gate) * up) @ experts.down_EFD[e])
    assert torch.allclose(experts(x, weight, index), expected, atol=1e-4)
