"""A model one can ask: network, tokenizer and the labels it has learned, in one folder. Knows nothing of how it was trained."""

from __future__ import annotations

import copy
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
from model.folders import Contents, Layout, read_folder, write_folder
from model.label_trie import LabelTrie
from model.tokens import TOKENIZER, Codec, require_match, room_for_text

MOST_LABEL_TOKENS = 16_384
"""Of labels that somebody asks for, the tokens that tell them apart: with the base trained here, some seconds of one core."""
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
    cut: bool = False
    """Whether it ended at one of the `stop` strings, and not where the model would have it end."""


class LanguageModel:
    """Answers with labels or with free text. `labels` are those it has learned; any others may be asked for."""

    def __init__(
        self,
        network: MoeForCausalLM,
        tokenizer: PreTrainedTokenizerFast | None,
        labels: Sequence[str],
        max_length: int,
        temperature: float = 1.0,
    ) -> None:
        """`tokenizer` is None where only the network is there: it can be run, saved and copied, and nothing be asked of it.
        `temperature` softens the scores of labels, or sharpens them below 1 (`calibration.py`).

        Raises `BadInput` for a tokenizer that was not made for the network.
        """
        self.network = network
        self.labels = tuple(sorted(set(labels)))
        self.max_length = max_length
        self.temperature = temperature
        self._codec = None if tokenizer is None else Codec(tokenizer, max_length)
        self._stops = frozenset(ends_of_text(network))
        self._trie: tuple[tuple[str, ...], LabelTrie] | None = None
        if tokenizer is not None and self._codec is not None:
            require_match(tokenizer, network.config, self._stops)
            self._stops |= self._codec.stops
            fill_in_padding(network, self._codec.pad)

    @property
    def codec(self) -> Codec:
        """Text to tokens. Raises `BadInput` where there is no tokenizer."""
        if self._codec is None:
            raise BadInput(
                f"the model came without a tokenizer, so it reads no text; put its {TOKENIZER} beside its weights"
            )
        return self._codec

    @property
    def tokenizer(self) -> PreTrainedTokenizerFast:
        """The tokenizer. Raises `BadInput` where there is none."""
        return self.codec.tokenizer

    def save(self, folder: Path | str, layout: Layout = "evermoe") -> Path:
        """Write config, weights (safetensors), tokenizer, labels and a manifest of their checksums to `folder`.

        With layout `qwen3_moe`, stock `transformers` and the serving engines load it as a Qwen3-MoE. Raises `BadInput` where the
        network is more than that format can say.
        """
        folder = Path(folder)
        held = Contents(self.network, self._tokenizer, self.labels, self.max_length, self.temperature)
        write_folder(folder, held, layout)
        return folder

    def copy(self, labels: Sequence[str] = ()) -> LanguageModel:
        """An independent copy that also knows `labels`; the tokenizer is shared, since it never changes."""
        network = copy.deepcopy(self.network).eval()
        return LanguageModel(network, self._tokenizer, [*self.labels, *labels], self.max_length, self.temperature)

    def at(self, temperature: float) -> LanguageModel:
        """The same model, as certain as this temperature says; the network is shared."""
        return LanguageModel(self.network, self._tokenizer, self.labels, self.max_length, temperature)

    def classify(
        self, texts: Sequence[str], labels: Sequence[str] | None = None, batch_size: int = 32
    ) -> list[Classification]:
        """Answer each text with the likeliest of `labels` (those learned, when None).

        Raises `BadInput` without any label, and for labels of the asker's whose likeness costs more than `MOST_LABEL_TOKENS`.
        """
        asked = self.labels if labels is None else tuple(dict.fromkeys(labels))
        if not asked:
            raise BadInput("no labels to choose from; pass `labels`, or train on labelled records first")
        trie = self._trie_of(asked, bounded=labels is not None)
        prompts = [self.codec.prompt(text) for text in texts]
        order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
        answers: dict[int, Classification] = {}
        self.network.eval()
        for start in range(0, len(order), batch_size):
            batch = order[start : start + batch_size]
            prompt_NS, mask_NS = self._padded([prompts[i] for i in batch])
            score_NL, expert_LNSK = trie.scores(self.network, prompt_NS, mask_NS)
            told_NL = tempered(score_NL, self.temperature)
            for row, i in enumerate(batch):
                scores = dict(zip(asked, told_NL[row].tolist(), strict=True))
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
        """Continue `prompt`, yielding what each token adds, which may be nothing yet; the generator's own value is what it cost.

        Temperature 0 is greedy; a `stop` string ends the text and is not yielded. Of a prompt longer than the window the
        end is read; new tokens get the room that the prompt leaves, at least one.
        """
        self.network.eval()
        generator = torch.Generator().manual_seed(seed) if seed is not None else None
        room = self.network.config.max_position_embeddings
        opening, lead = self.codec.opening(prompt), len(self.codec.start)
        context = [*opening[:lead], *opening[lead:][-(room - 1 - lead) :]]
        step, cache, produced, shown = torch.tensor([context]), DynamicCache(), list[int](), 0
        finish: Literal["stop", "length"] = "length"
        is_cut = False
        held = max((len(s) for s in stop), default=1) - 1
        text = ""
        for _ in range(min(max_new_tokens, room - len(context))):
            with torch.no_grad():
                logits = self.network(step, past_key_values=cache, logits_to_keep=1).logits[0, -1].float()
            token = pick(logits, temperature, generator)
            if token in self._stops:
                finish = "stop"
                break
            produced.append(token)
            text = str(self.tokenizer.decode(produced))
            cut = min((at for s in stop if s and (at := text.find(s)) >= 0), default=-1)
            if cut >= 0:
                text, finish, is_cut = text[:cut], "stop", True
                break
            # Text that may yet become a stop string, or half of a character, is held back until it is settled.
            settled = shown if text.endswith("\ufffd") else max(shown, len(text) - held)
            yield text[shown:settled]
            shown = settled
            step = torch.tensor([[token]])
        if len(text) > shown:
            yield text[shown:]
        return Generated(len(context), len(produced), finish, is_cut)

    @property
    def _tokenizer(self) -> PreTrainedTokenizerFast | None:
        return None if self._codec is None else self._codec.tokenizer

    def _trie_of(self, labels: tuple[str, ...], *, bounded: bool) -> LabelTrie:
        kept = self._trie
        if kept is None or kept[0] != labels:
            answers = [self.codec.answer(label) for label in labels]
            if bounded:  # before the trie is made, whose nodes cost memory too
                check_length(sum(map(len, answers)), 4 * MOST_LABEL_TOKENS)
            kept = labels, LabelTrie(answers, self.codec.pad)
            if bounded:
                check_length(kept[1].tokens, MOST_LABEL_TOKENS)
            self._trie = kept
        return kept[1]

    def _padded(self, prompts: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        longest = max(map(len, prompts))
        rows = torch.tensor([[*[self.codec.pad] * (longest - len(p)), *p] for p in prompts])
        mask = torch.tensor([[*[0] * (longest - len(p)), *[1] * len(p)] for p in prompts])
        return rows, mask


def check_length(tokens: int, most: int) -> None:
    """Raise `BadInput` where labels are more than may be told apart for one asker."""
    if tokens > most:
        raise BadInput(
            f"telling these labels apart takes {tokens:,} tokens, {most:,} at most; ask with fewer, with shorter ones, or "
            "with such as begin less alike"
        )


def tempered(score_NL: Tensor, temperature: float) -> Tensor:
    """Probabilities (N, L) whose logarithms are divided by `temperature`, each row summing to 1 again."""
    return score_NL if temperature == 1.0 else torch.softmax(score_NL.log() / temperature, -1)


def busiest(expert_LSK: Tensor, config: MoeConfig) -> tuple[int, ...]:
    """The routed experts with most tokens over all blocks, most first, at most as many as work on one token."""
    counts = torch.bincount(expert_LSK.flatten() + 1, minlength=config.num_experts + 1)[1:]
    top = counts.topk(min(config.num_experts_per_tok, config.num_experts))
    return tuple(index for index, count in zip(top.indices.tolist(), top.values.tolist(), strict=True) if count)


def pick(logits_V: Tensor, temperature: float, generator: torch.Generator | None) -> int:
    """The next token: the likeliest at temperature 0 or next to it, else drawn."""
    if temperature < GREEDY_BELOW:
        return int(logits_V.argmax())
    return int(torch.multinomial(torch.softmax(logits_V / temperature, -1), 1, generator=generator))


def ends_of_text(network: MoeForCausalLM) -> list[int]:
    """The tokens that end a text, as its generation configuration says."""
    named = network.generation_config.eos_token_id if network.generation_config is not None else None
    return [named] if isinstance(named, int) else list(named or ())


def fill_in_padding(network: MoeForCausalLM, pad: int) -> None:
    """Say which token is padding, where the network's configuration does not."""
    for config in (network.config, network.generation_config):
        if config is not None and config.pad_token_id is None:
            config.pad_token_id = pad


def from_pretrained(folder: Path | str) -> LanguageModel:
    """Load what `LanguageModel.save` wrote, or a Qwen3-MoE checkpoint as it is.

    Raises `BadInput` where the folder is no such model, is damaged, or its parts do not belong together.
    """
    held = read_folder(Path(folder))
    max_length = held.max_length or room_for_text(held.network.config.max_position_embeddings)
    try:
        return LanguageModel(held.network, held.tokenizer, held.labels, max_length, held.temperature)
    except BadInput as error:
        raise BadInput(f"{folder}: {error}") from None
