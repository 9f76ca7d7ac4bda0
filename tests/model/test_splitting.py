"""Cutting tokens while a model learns: what is cut, what stays whole, and that a seed repeats it."""

from __future__ import annotations

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import Unigram
from transformers import PreTrainedTokenizerFast

from evermoe.errors import BadInput
from model.splitting import SplittingCodec
from model.tokens import Codec, train_tokenizer

TEXTS = ["the router drops a token", "the router keeps every token", "naïve 東京 tokens 🚂"] * 3


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return train_tokenizer(TEXTS, 400)


def test_a_cut_text_spells_the_same_in_more_tokens(tokenizer) -> None:
    whole, cut = Codec(tokenizer, 500), SplittingCodec(tokenizer, 500, 0.5)
    torch.manual_seed(1)
    for text in TEXTS[:3]:
        tokens = cut.prompt(text)
        assert len(tokens) > len(whole.prompt(text))
        assert tokenizer.decode(tokens[1:-1]) == text
        assert (tokens[0], tokens[-1]) == (tokenizer.bos_token_id, whole.label)


def test_every_turn_cuts_otherwise_and_a_seed_repeats_them(tokenizer) -> None:
    cut = SplittingCodec(tokenizer, 500, 0.3)
    torch.manual_seed(1)
    first = [cut.prompt(TEXTS[0]) for _ in range(5)]
    torch.manual_seed(1)
    assert [cut.prompt(TEXTS[0]) for _ in range(5)] == first
    assert len({tuple(tokens) for tokens in first}) > 1


def test_as_many_tokens_are_cut_as_were_asked_for(tokenizer) -> None:
    whole, cut = Codec(tokenizer, 500), SplittingCodec(tokenizer, 500, 0.1)
    torch.manual_seed(1)
    longer = sum(len(cut.prompt(TEXTS[0])) - len(whole.prompt(TEXTS[0])) for _ in range(2000))
    merged = sum(len(tokenizer.decode([token])) > 1 for token in whole.text(TEXTS[0]))
    assert 0.1 * merged * 2000 < longer < 0.14 * merged * 2000  # pieces are cut again


def test_answers_stay_whole_and_a_text_no_longer_than_it_may_be(tokenizer) -> None:
    cut = SplittingCodec(tokenizer, 6, 0.9)
    assert cut.answer("router") == Codec(tokenizer, 6).answer("router")
    assert all(len(cut.prompt(text)) == 8 for text in TEXTS[:3])


@pytest.mark.parametrize("share", [-0.1, 1.0, float("nan")])
def test_a_share_that_is_none_is_refused(tokenizer, share: float) -> None:
    with pytest.raises(BadInput, match=r"token_split .* is no share from 0 to below 1"):
        SplittingCodec(tokenizer, 10, share)


def test_a_tokenizer_that_merges_nothing_is_refused() -> None:
    pieces = Tokenizer(Unigram([("<eos>", 0.0), ("a", -1.0)], unk_id=0, byte_fallback=False))
    with pytest.raises(BadInput, match="Unigram: set it to 0"):
        SplittingCodec(PreTrainedTokenizerFast(tokenizer_object=pieces, eos_token="<eos>"), 10, 0.1)
