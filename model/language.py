"""A model one can ask: network, tokenizer and the labels it has learned, in one folder. Knows nothing of how it was trained."""

from __future__ import annotations

import json
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast
from transformers.cache_utils import DynamicCache

from evermoe.errors import BadInput
from model.config import MoeConfig
from model.decoder import MoeForCausalLM
from model.label_trie import LabelTrie
from model.tokens import Codec

LABELS_FILE = "labels.json"
GREEDY_BELOW = 1e-4
"""Temperatures below this are 0: dividing logits by them overflows, and the draw is the likeliest token anyway."""


@dataclass(frozen=True)
class Classification:
    """The best label, every label's probability (sum 1), the routed experts that worked most on the text, and its tokens."""

    label: str
    scores: dict[str, float]
    experts: tuple[int, ...]
    tokens: int


@dataclass(frozen=True)
class Generated:
    """What a text cost: prompt tokens that were read, tokens that were made (an end mark is none), and why it ended.

    `length` says that as many as asked for were made, or that the window is full.
    """

    prompt_tokens: int
    output_tokens: int
    finish: Literal["stop", "length"]


class LanguageModel:
    """Answers with labels or with free text. `labels` are those it has learned; any others may be asked for."""

    def __init__(
        self, network: MoeForCausalLM, tokenizer: PreTrainedTokenizerFast, labels: Sequence[str], max_length: int
    ) -> None:
        self.network, self.tokenizer = network, tokenizer
        self.labels = tuple(sorted(set(labels)))
        self.codec = Codec(tokenizer, max_length)
        self._trie: tuple[tuple[str, ...], LabelTrie] | None = None

    def save(self, folder: Path) -> Path:
        """Write config, weights (safetensors), tokenizer and labels to `folder`."""
        self.network.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)
        content = {"labels": list(self.labels), "max_length": self.codec.max_length}
        (folder / LABELS_FILE).write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        return folder

    def copy(self, labels: Sequence[str] = ()) -> LanguageModel:
        """An independent copy that also knows `labels`; the tokenizer is shared, since it never changes."""
        network = MoeForCausalLM(self.network.config)
        network.load_state_dict(self.network.state_dict())
        return LanguageModel(network.eval(), self.tokenizer, [*self.labels, *labels], self.codec.max_length)

    def classify(
        self, texts: Sequence[str], labels: Sequence[str] | None = None, batch_size: int = 32
    ) -> list[Classification]:
        """Answer each text with the likeliest of `labels` (those learned, when None). Raises `BadInput` without any label."""
        asked = self.labels if labels is None else tuple(dict.fromkeys(labels))
        if not asked:
            raise BadInput("no labels to choose from; pass `labels`, or train on labelled records first")
        trie = self._trie_of(asked)
        prompts = [self.codec.prompt(text) for text in texts]
        order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
        answers: dict[int, Classification] = {}
        self.network.eval()
        for start in range(0, len(order), batch_size):
            batch = order[start : start + batch_size]
            prompt_NS, mask_NS = self._padded([prompts[i] for i in batch])
            score_NL, expert_LNSK = trie.scores(self.network, prompt_NS, mask_NS)
            for row, i in enumerate(batch):
                scores = dict(zip(asked, score_NL[row].tolist(), strict=True))
                experts = busiest(expert_LNSK[:, row, -len(prompts[i]) :], self.network.config)
                answers[i] = Classification(max(scores, key=scores.__getitem__), scores, experts, len(prompts[i]))
        return [answers[i] for i in range(len(prompts))]

    def generate(
        self,
        prompt: str,
        *,
        max_new_tokens: int = 64,
        temperature: float = 0.0,
        stop: Sequence[str] = (),
        seed: int | None = None,
    ) -> Generator[str, None, Generated]:
        """Continue `prompt`, yielding text as it comes; the generator's own value is what it cost.

        Temperature 0 is greedy; a `stop` string ends the text and is not yielded. Of a prompt longer than the window the
        end is read; new tokens get the room that the prompt leaves, at least one.
        """
        self.network.eval()
        generator = torch.Generator().manual_seed(seed) if seed is not None else None
        room = self.network.config.max_position_embeddings
        bos, *tokens = self.codec.opening(prompt)
        context = [bos, *tokens[-(room - 2) :]]
        step, cache, produced, shown = torch.tensor([context]), DynamicCache(), list[int](), 0
        finish: Literal["stop", "length"] = "length"
        held = max((len(s) for s in stop), default=1) - 1
        text = ""
        for _ in range(min(max_new_tokens, room - len(context))):
            with torch.no_grad():
                logits = self.network(step, past_key_values=cache, logits_to_keep=1).logits[0, -1].float()
            token = pick(logits, temperature, generator)
            if token in (self.codec.eos, self.codec.label):
                finish = "stop"
                break
            produced.append(token)
            text = str(self.tokenizer.decode(produced))
            cut = min((at for s in stop if s and (at := text.find(s)) >= 0), default=-1)
            if cut >= 0:
                text, finish = text[:cut], "stop"
                break
            # Text that may yet become a stop string, or half of a character, is held back until it is settled.
            settled = len(text) - held
            if settled > shown and not text.endswith("\ufffd"):
                yield text[shown:settled]
                shown = settled
            step = torch.tensor([[token]])
        if len(text) > shown:
            yield text[shown:]
        return Generated(len(context), len(produced), finish)

    def _trie_of(self, labels: tuple[str, ...]) -> LabelTrie:
        kept = self._trie
        if kept is None or kept[0] != labels:
            kept = self._trie = labels, LabelTrie([self.codec.answer(label) for label in labels], self.codec.pad)
        return kept[1]

    def _padded(self, prompts: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        longest = max(map(len, prompts))
        rows = torch.tensor([[*[self.codec.pad] * (longest - len(p)), *p] for p in prompts])
        mask = torch.tensor([[*[0] * (longest - len(p)), *[1] * len(p)] for p in prompts])
        return rows, mask


def busiest(expert_LSK: Tensor, config: MoeConfig) -> tuple[int, ...]:
    """The routed experts with most tokens over all blocks, most first, at most as many as work on one token."""
    counts = torch.bincount(expert_LSK.flatten(), minlength=config.num_experts)
    top = counts.topk(min(config.num_experts_per_tok, config.num_experts))
    return tuple(index for index, count in zip(top.indices.tolist(), top.values.tolist(), strict=True) if count)


def pick(logits_V: Tensor, temperature: float, generator: torch.Generator | None) -> int:
    """The next token: the likeliest at temperature 0 or next to it, else drawn."""
    if temperature < GREEDY_BELOW:
        return int(logits_V.argmax())
    return int(torch.multinomial(torch.softmax(logits_V / temperature, -1), 1, generator=generator))


def from_pretrained(folder: Path | str) -> LanguageModel:
    """Load what `LanguageModel.save` wrote. Raises `BadInput` where the folder is not such a model."""
    folder = Path(folder)
    try:
        content = json.loads((folder / LABELS_FILE).read_text(encoding="utf-8"))
        network = MoeForCausalLM.from_pretrained(folder, local_files_only=True).eval()
        tokenizer = PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True)
        return LanguageModel(network, tokenizer, content["labels"], content["max_length"])
    except (OSError, ValueError, KeyError) as error:
        raise BadInput(f"{folder}: not a model folder ({str(error).splitlines()[0]})") from None
