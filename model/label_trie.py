"""Scores an open set of labels by the probability that the model spells each one. Knows nothing of how the model was trained.

The labels' token sequences form a trie. At a node with one way on there is nothing to decide; at a node with several, the
model's next-token probabilities are renormalised over those ways. A label's score is the product along its path: the
probability of constrained generation. Only the paths to nodes with several ways are run through the model, as rows that
share the prompt's cache, and of paths that lead on to each other only the longest; so a hundred labels cost about as much as ten.

N prompts, P paths, D hidden features.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import count

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache

from model.decoder import MoeForCausalLM


@dataclass(eq=False)
class _Node:
    """A beginning that labels share, `depth` tokens long, and the tokens that follow it."""

    depth: int = 0
    ways: dict[int, _Node] = field(default_factory=dict)
    row: int = -1
    """Of the paths, the first that leads through it."""
    numbers: dict[int, int] = field(default_factory=dict)
    """Where there is something to decide: its ways in order, each with its number among those of all decisions."""


class LabelTrie:
    """The labels of one question, ready to be scored against any number of prompts."""

    def __init__(self, answers: Sequence[Sequence[int]], pad: int) -> None:
        """`answers` are distinct token sequences, each ending in a token that occurs nowhere else in it."""
        root = _Node()
        nodes = [self._path(root, answer) for answer in answers]
        passed = [[node for node in path if len(node.ways) > 1] for path in nodes]
        self._decisions = list(dict.fromkeys(node for path in passed for node in path))
        ways = count()
        for node in self._decisions:
            node.numbers = dict(zip(sorted(node.ways), ways, strict=False))
        #: for each label, the ways it takes, as indices into those of all decisions
        self._choices = [
            [node.numbers[answer[node.depth]] for node in path] for answer, path in zip(answers, passed, strict=True)
        ]
        paths = self._longest(answers, passed)
        longest = max(map(len, paths), default=0)
        self._rows = torch.tensor([[*path, *[pad] * (longest - len(path))] for path in paths], dtype=torch.long)

    @property
    def tokens(self) -> int:
        """Tokens that each prompt costs beside its own, padding among them."""
        return self._rows.numel()

    @staticmethod
    def _path(root: _Node, answer: Sequence[int]) -> list[_Node]:
        """The nodes that an answer passes, which are made where there are none, but for its end."""
        path = [root]
        for token in answer:
            path.append(path[-1].ways.setdefault(token, _Node(len(path))))
        return path[:-1]

    @staticmethod
    def _longest(answers: Sequence[Sequence[int]], passed: Sequence[Sequence[_Node]]) -> list[tuple[int, ...]]:
        """Paths that together lead through every decision below the root: the deepest first, so that none leads on to another."""
        ends = {tuple(answer[: path[-1].depth]): path for answer, path in zip(answers, passed, strict=True) if path}
        paths: list[tuple[int, ...]] = []
        for end in sorted(ends, key=lambda end: (-len(end), end)):
            if end and ends[end][-1].row < 0:
                for node in ends[end]:
                    node.row = len(paths) if node.row < 0 else node.row
                paths.append(end)
        return paths

    @torch.no_grad()
    def scores(self, network: MoeForCausalLM, prompt_NS: Tensor, mask_NS: Tensor) -> tuple[Tensor, Tensor]:
        """Probabilities of the labels (N, labels), each row summing to 1, and the experts chosen for the prompts (L, N, S, K).

        `prompt_NS` is padded on the left, `mask_NS` is 0 there.
        """
        out = network(prompt_NS, attention_mask=mask_NS, past_key_values=DynamicCache(), logits_to_keep=1)
        prompts, deep = len(prompt_NS), [node for node in self._decisions if node.depth]
        if not self._decisions:
            return torch.ones(prompts, len(self._choices)), out.experts
        logits = dict.fromkeys(self._decisions, out.logits[:, -1])
        if deep:
            paths, longest = self._rows.shape
            out.past_key_values.batch_repeat_interleave(paths)
            mask = torch.cat([mask_NS, mask_NS.new_ones(prompts, longest)], dim=1).repeat_interleave(paths, 0)
            rows = self._rows.to(prompt_NS.device).repeat(prompts, 1)
            x_BSD, _ = network.trunk(rows, attention_mask=mask, past_key_values=out.past_key_values)
            x_NPSD = x_BSD.view(prompts, paths, longest, -1)
            # Logits only where something is decided: of all tokens of all paths they would be most of the memory.
            deeper = network.lm_head(x_NPSD[:, [node.row for node in deep], [node.depth - 1 for node in deep]])
            logits |= {node: deeper[:, number] for number, node in enumerate(deep)}
        flat = [torch.log_softmax(logits[node][:, list(node.numbers)].float(), -1) for node in self._decisions]
        decided = torch.cat(flat, dim=1)
        return torch.stack([decided[:, chosen].sum(1) for chosen in self._choices], 1).exp(), out.experts
