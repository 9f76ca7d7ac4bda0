"""Scores an open set of labels by the probability that the model spells each one. Knows nothing of how the model was trained.

The labels' token sequences form a trie. At a node with one way on there is nothing to decide; at a node with several, the
model's next-token probabilities are renormalised over those ways. A label's score is the product along its path: the
probability of constrained generation. Only the paths to nodes with several ways are run through the model, as rows that
share the prompt's cache, so a hundred labels cost about as much as ten.

N prompts, P paths to branching nodes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache

from model.decoder import MoeForCausalLM


@dataclass
class _Node:
    path: tuple[int, ...] = ()
    ways: dict[int, _Node] = field(default_factory=dict)


class LabelTrie:
    """The labels of one question, ready to be scored against any number of prompts."""

    def __init__(self, answers: Sequence[Sequence[int]], pad: int) -> None:
        """`answers` are distinct token sequences, each ending in a token that occurs nowhere else in it."""
        root = _Node()
        for answer in answers:
            node = root
            for token in answer:
                node = node.ways.setdefault(token, _Node((*node.path, token)))
        branching = self._branching(root)
        self.decisions = [(node.path, tuple(sorted(node.ways))) for node in branching]
        choice = {
            (path, token): index
            for index, (path, token) in enumerate((path, token) for path, ways in self.decisions for token in ways)
        }
        #: for each label, the decisions on its path, as indices into the flat list of (path, way)
        self.choices = [
            [choice[key] for i, token in enumerate(answer) if (key := (tuple(answer[:i]), token)) in choice]
            for answer in answers
        ]
        longest = max((len(path) for path, _ in self.decisions), default=0)
        self.rows = torch.tensor(
            [[*path, *[pad] * (longest - len(path))] for path, _ in self.decisions if path], dtype=torch.long
        )

    @staticmethod
    def _branching(root: _Node) -> list[_Node]:
        found, waiting = [], [root]
        while waiting:
            node = waiting.pop()
            if len(node.ways) > 1:
                found.append(node)
            waiting.extend(node.ways.values())
        return sorted(found, key=lambda node: (len(node.path), node.path))

    @torch.no_grad()
    def scores(self, network: MoeForCausalLM, prompt_NS: Tensor, mask_NS: Tensor) -> tuple[Tensor, Tensor]:
        """Probabilities of the labels (N, labels), each row summing to 1, and the experts chosen for the prompts (L, N, S, K).

        `prompt_NS` is padded on the left, `mask_NS` is 0 there.
        """
        out = network(prompt_NS, attention_mask=mask_NS, past_key_values=DynamicCache(), logits_to_keep=1)
        prompts = len(prompt_NS)
        logits: dict[tuple[int, ...], Tensor] = {(): out.logits[:, -1]}
        if len(self.rows):
            paths, longest = self.rows.shape
            out.past_key_values.batch_repeat_interleave(paths)
            mask = torch.cat([mask_NS, mask_NS.new_ones(prompts, longest)], dim=1).repeat_interleave(paths, 0)
            rows = self.rows.to(prompt_NS.device).repeat(prompts, 1)
            deeper = network(rows, attention_mask=mask, past_key_values=out.past_key_values).logits
            deeper = deeper.view(prompts, paths, longest, -1)
            for row, path in enumerate(path for path, _ in self.decisions if path):
                logits[path] = deeper[:, row, len(path) - 1]
        flat = [torch.log_softmax(logits[path][:, list(ways)].float(), -1) for path, ways in self.decisions]
        if not flat:
            return torch.ones(prompts, len(self.choices)), out.experts
        decided = torch.cat(flat, dim=1)
        return torch.stack([decided[:, chosen].sum(1) for chosen in self.choices], 1).exp(), out.experts
