"""Cuts tokens into the pieces they were merged from, at random, while a model learns: no word is learned by its one token alone.

Knows a byte-pair tokenizer and no network. Source: StochasTok (Sims et al., arXiv 2506.01687), here with each token cut by a
chance of its own; it does to a tokenizer that is there what BPE-dropout (arXiv 1910.13267) does by leaving out merges.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

import torch
from transformers import PreTrainedTokenizerFast

from evermoe.errors import BadInput
from model.tokens import Codec

Pieces = tuple[int, int]


class SplittingCodec(Codec):
    """A codec that cuts each token of a prompt in two with probability `share`, and its pieces again by the same chance.

    A text may have no more tokens for it: of a long one, what is cut pushes out the end. Answers stay whole, since they are what
    is predicted. Draws from torch's generator of the processor, which a run seeds and its checkpoints keep; under `torchrun` each
    rank draws for its own part of a batch. Raises `BadInput` for a share outside [0, 1) and for a tokenizer that merges nothing.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast, max_length: int, share: float) -> None:
        super().__init__(tokenizer, max_length)
        if not 0 <= share < 1:
            raise BadInput(f"token_split {share} is no share from 0 to below 1")
        self.share, self._pieces = share, pieces_of(tokenizer)

    def prompt(self, text: str) -> list[int]:
        whole = self.text(text)[: self.max_length]
        return [*self.start, *self._cut(whole)[: self.max_length], *self.mark]

    def _cut(self, tokens: Sequence[int]) -> list[int]:
        found: list[int] = []
        for token, chance in zip(tokens, torch.rand(len(tokens)).tolist(), strict=True):
            pieces = self._pieces.get(token) if chance < self.share else None
            found += [token] if pieces is None else self._cut(pieces)
        return found


def pieces_of(tokenizer: PreTrainedTokenizerFast) -> dict[int, Pieces]:
    """Each merged token and the two it is made of. Raises `BadInput` where the tokenizer is of another kind."""
    model = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    if model.get("type") != "BPE":
        raise BadInput(
            f"token_split cuts the tokens of byte-pair tokenizers, and this one is {model.get('type')}: set it to 0"
        )
    tokens = model["vocab"]
    # Of two ways to make a token the first to be learned is the one that is used.
    return {tokens[left + right]: (tokens[left], tokens[right]) for left, right in reversed(model["merges"])}
