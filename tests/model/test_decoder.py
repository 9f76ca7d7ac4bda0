"""The decoder looks at nothing it should not, and its cache changes nothing, whichever axes and routes it has."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, pipeline
from transformers.cache_utils import DynamicCache

from model import MoeConfig, MoeForCausalLM, from_pretrained

PLAIN: dict[str, Any] = {}
SHARED_KEYS = {"num_key_value_heads": 2, "head_dim": 6, "attention_bias": True, "qk_norm": False}
WINDOW = {"attention_window": 5}
SEGMENTS = {"attention_segment": 3, "segment_end_token_ids": (7, 8)}
FEW_SEGMENTS = SEGMENTS | {"max_segments": 2}
GATE = {"channel_gate": True}
DYNAMIC = {"min_experts_per_tok": 2, "max_experts_per_tok": 8, "expert_communication": 4}
ALL = WINDOW | SEGMENTS | GATE | DYNAMIC
CONFIGS = {
    "plain": PLAIN,
    "shared keys": SHARED_KEYS,
    "window": WINDOW,
    "segments": SEGMENTS,
    "few segments": WINDOW | FEW_SEGMENTS,
    "gate": GATE,
    "dynamic": DYNAMIC,
    "all": ALL,
    "softmax and a dense layer": {"router_score": "softmax", "dense_layers": (0,), "intermediate_size": 24},
}


@cache
def network_of(name: str) -> MoeForCausalLM:
    """A network of which every part has something to say."""
    torch.manual_seed(0)
    sizes: dict[str, Any] = {
        "vocab_size": 50,
        "hidden_size": 32,
        "num_attention_heads": 4,
        "num_experts": 16,
        "num_experts_per_tok": 4,
        "moe_intermediate_size": 8,
        "initializer_range": 0.3,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    network = MoeForCausalLM(MoeConfig(**sizes | CONFIGS[name])).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            if not parameter.any():
                parameter.normal_(std=0.3)
    return network


@pytest.fixture(params=CONFIGS)
def network(request: pytest.FixtureRequest) -> MoeForCausalLM:
    return network_of(request.param)


def tokens_of(seed: int, rows: int, length: int) -> torch.Tensor:
    return torch.randint(3, 50, (rows, length), generator=torch.Generator().manual_seed(seed))


@settings(max_examples=60, deadline=None)
@given(name=st.sampled_from(list(CONFIGS)), seed=st.integers(0, 10_000), length=st.integers(2, 24), data=st.data())
def test_later_tokens_other_rows_and_padding_leave_earlier_logits_alone(
    name: str, seed: int, length: int, data
) -> None:
    network = network_of(name)
    at, padding = data.draw(st.integers(1, length - 1)), data.draw(st.integers(0, 9))
    tokens, changed = tokens_of(seed, 3, length), tokens_of(seed + 1, 3, length)
    changed[0, :at] = tokens[0, :at]
    padded = torch.cat([torch.zeros(3, padding, dtype=torch.long), changed], dim=1)
    mask = (torch.arange(padding + length) >= padding).long().expand(3, -1)
    with torch.no_grad():
        before = network(tokens).logits[0, :at]
        after = network(changed).logits[0, :at]
        beside_padding = network(padded, attention_mask=mask).logits[0, padding : padding + at]
    assert torch.allclose(before, after, atol=2e-5)
    assert torch.allclose(before, beside_padding, atol=2e-5)


def test_later_tokens_are_seen_by_the_tokens_after_them(network: MoeForCausalLM) -> None:
    tokens = tokens_of(3, 1, 12)
    changed = tokens.clone()
    changed[0, 8] = 3 + (tokens[0, 8] - 2) % 47
    with torch.no_grad():
        difference = (network(tokens).logits - network(changed).logits).abs().amax(-1)[0]
    assert difference[:8].max() < 2e-5
    assert difference[8:].min() > 1e-3


@settings(max_examples=60, deadline=None)
@given(name=st.sampled_from(list(CONFIGS)), cuts=st.lists(st.integers(1, 22), min_size=1, max_size=6, unique=True))
def test_the_cache_gives_the_logits_of_the_whole_sequence(name: str, cuts: list[int]) -> None:
    network, tokens, past, pieces = network_of(name), tokens_of(2, 2, 23), DynamicCache(), []
    with torch.no_grad():
        for start, end in zip([0, *sorted(cuts)], [*sorted(cuts), 23], strict=True):
            pieces.append(network(tokens[:, start:end], past_key_values=past).logits)
        assert torch.allclose(network(tokens).logits, torch.cat(pieces, dim=1), atol=5e-5)


def test_a_cache_with_padding_can_be_repeated_and_reordered(network: MoeForCausalLM) -> None:
    tokens, padding = tokens_of(4, 2, 14), 4
    padded = torch.cat([torch.zeros(2, padding, dtype=torch.long), tokens], dim=1)
    mask = (torch.arange(padding + 14) >= padding).long().expand(2, -1)
    past = DynamicCache()
    with torch.no_grad():
        network(padded[:, :12], attention_mask=mask[:, :12], past_key_values=past)
        past.batch_repeat_interleave(2)
        past.reorder_cache(torch.tensor([3, 0]))
        rest = network(padded[[1, 0], 12:], attention_mask=mask, past_key_values=past).logits
        assert torch.allclose(rest, network(tokens[[1, 0]]).logits[:, 8:], atol=5e-5)


def test_a_cache_of_another_model_is_refused() -> None:
    past = DynamicCache()
    past.update(torch.zeros(1, 4, 3, 8), torch.zeros(1, 4, 3, 8), 0)
    with pytest.raises(TypeError, match="another model"):
        network_of("plain")(tokens_of(0, 1, 3), past_key_values=past)


def test_each_token_uses_experts_within_its_bounds() -> None:
    with torch.no_grad():
        fixed, dynamic = (network_of(name)(tokens_of(5, 2, 20)).experts for name in ("plain", "dynamic"))
    assert fixed.shape == (2, 2, 20, 4)
    assert dynamic.shape == (2, 2, 20, 8)
    for chosen in (fixed, dynamic):
        rows = [[expert for expert in row if expert >= 0] for row in chosen.reshape(-1, chosen.shape[-1]).tolist()]
        assert all(len(set(row)) == len(row) for row in rows)
    counts = (dynamic >= 0).sum(-1)
    assert 2 <= counts.min() < counts.max() <= 8


def test_what_is_saved_is_what_is_loaded(network: MoeForCausalLM, tmp_path) -> None:
    with torch.no_grad():
        for name, buffer in network.named_buffers():
            if any(part in name for part in ("bias", "threshold", "error")):
                buffer.add_(0.01)
    network.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    assert network.state_dict().keys() == loaded.state_dict().keys()
    assert all(torch.equal(tensor, loaded.state_dict()[name]) for name, tensor in network.state_dict().items())
    with torch.no_grad():
        assert torch.equal(network(tokens_of(6, 1, 9)).logits, loaded(tokens_of(6, 1, 9)).logits)


def test_transformers_loads_and_generates_what_we_saved(tiny_model_folder) -> None:
    ours = from_pretrained(tiny_model_folder)
    theirs = AutoModelForCausalLM.from_pretrained(tiny_model_folder)
    prompt = torch.tensor([ours.codec.opening("fix the vlan")])
    generated = theirs.generate(prompt, max_new_tokens=8, do_sample=False)[0, prompt.shape[1] :]
    special = {ours.codec.eos, ours.codec.label}
    kept = [token for token in generated.tolist() if token not in special]
    streamed = "".join(ours.generate("fix the vlan", max_new_tokens=8))
    assert ours.tokenizer.decode(kept).startswith(streamed)


def test_a_pipeline_continues_text(tiny_model_folder) -> None:
    pipe = pipeline("text-generation", model=str(tiny_model_folder))
    found = pipe("fix the vlan", max_new_tokens=4, do_sample=False)
    assert found[0]["generated_text"].startswith("fix the vlan")


def test_beams_keep_their_own_past() -> None:
    network, tokens = network_of("all"), tokens_of(7, 2, 9)
    beams = network.generate(tokens, max_new_tokens=6, num_beams=3, do_sample=False, eos_token_id=None)
    slow = network.generate(tokens, max_new_tokens=6, num_beams=3, do_sample=False, eos_token_id=None, use_cache=False)
    assert torch.equal(beams, slow)


def test_training_leaves_tokens_blank_by_chance_and_answering_leaves_none() -> None:
    torch.manual_seed(0)
    sizes = {
        "vocab_size": 50,
        "hidden_size": 32,
        "num_experts": 8,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 8,
    }
    network = MoeForCausalLM(MoeConfig(**sizes, token_dropout=0.5))
    token_BS = torch.randint(3, 50, (64, 16))
    seen: list[torch.Tensor] = []
    network.blocks[0].register_forward_pre_hook(lambda block, given: seen.append(given[0]))
    with torch.no_grad():
        network.train()(token_BS)
        network.eval()(token_BS)
    blank = [(x_BSD == 0).all(-1).float().mean().item() for x_BSD in seen]
    assert 0.4 < blank[0] < 0.6
    assert blank[1] == 0
    kept = ~(seen[0] == 0).all(-1)
    assert torch.equal(seen[0][kept], seen[1][kept])
