"""Text to tokens: a byte-level BPE learned from the base data, or the tokenizer that came with somebody else's model, and the
shape of a training sequence. Knows no tensors.

A sequence is `<|bos|> text <|label|> label <|eos|>`; free text is the same without the label part. With a tokenizer that has no
such tokens, a text begins as that tokenizer begins one, and the label follows an arrow in ordinary characters.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import AutoTokenizer, PretrainedConfig, PreTrainedTokenizerFast

from evermoe.errors import BadInput

PAD, BOS, LABEL, EOS = "<|pad|>", "<|bos|>", "<|label|>", "<|eos|>"
ARROW = "\n=>"
"""Stands before a label where the tokenizer has no token for that; the label follows after a space, as a word does."""

TOKENIZER = "tokenizer.json"
OTHER_FORMS = ("tokenizer.model", "vocab.json", "vocab.txt", "spiece.model")


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """Learn a byte-level BPE of at most `vocab_size` tokens; any Unicode text has an encoding."""
    bpe = Tokenizer(models.BPE())
    bpe.normalizer = normalizers.NFC()
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    bpe.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=vocab_size,
            special_tokens=[PAD, BOS, LABEL, EOS],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        pad_token=PAD,
        bos_token=BOS,
        eos_token=EOS,
        extra_special_tokens=[LABEL],
        padding_side="left",
    )


class Codec:
    """Encodes prompts and labels for one tokenizer. `max_length` bounds the text's tokens; longer texts keep their beginning.

    `start` comes before every text, `mark` between a text and its label, `eos` ends a label; `stops` end a generated text.
    Raises `BadInput` for a tokenizer that cannot end a text.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast, max_length: int) -> None:
        if tokenizer.eos_token_id is None:
            raise BadInput("the tokenizer has no end-of-text token (eos_token), so no answer could end; give it one")
        self.tokenizer, self.max_length = tokenizer, max_length
        self.bos, self.eos = tokenizer.bos_token_id, tokenizer.eos_token_id
        self.pad = self.eos if tokenizer.pad_token_id is None else tokenizer.pad_token_id
        # A user who writes "<|label|>" in a text writes nine characters, not our token.
        tokenizer.backend_tokenizer.encode_special_tokens = True
        tokenizer.backend_tokenizer.no_truncation()
        tokenizer.backend_tokenizer.no_padding()
        self.label: int | None = tokenizer.get_vocab().get(LABEL)
        self.start: tuple[int, ...]
        self.mark: tuple[int, ...]
        if self.label is not None:
            self.start, self.mark, self._gap = (self.bos,), (self.label,), ""
            self.stops = frozenset({self.eos, self.label})
        else:
            begins = tokenizer.backend_tokenizer.encode("a", add_special_tokens=True).ids[:1]
            self.start = (self.bos,) if begins == [self.bos] else ()
            self.mark, self._gap = tuple(self.text(ARROW)) or (self.eos,), " "
            self.stops = frozenset({self.eos})

    def text(self, text: str) -> list[int]:
        """Tokens of plain text, special tokens written out in it taken as ordinary characters."""
        return self.tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).ids

    def prompt(self, text: str) -> list[int]:
        """The sequence up to the point where the label is to be predicted."""
        return [*self.start, *self.text(text)[: self.max_length], *self.mark]

    def answer(self, label: str) -> list[int]:
        """The tokens that answer with `label`. The last one occurs nowhere else in it."""
        return [*(token for token in self.text(self._gap + label) if token != self.eos), self.eos]

    def opening(self, text: str) -> list[int]:
        """The sequence of a free text to be continued. It has a token even where the text has none."""
        return [*self.start, *self.text(text)[-self.max_length :]] or [self.eos]


def room_for_text(context: int) -> int:
    """Tokens of a text that fits a context of so many tokens, with some left for what is to come."""
    return max(1, context - min(64, context // 2))


def load_tokenizer(folder: Path) -> PreTrainedTokenizerFast | None:
    """The tokenizer of a folder; None where it has none. Raises `BadInput` for one that cannot be read."""
    try:
        if (folder / TOKENIZER).exists():
            return PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True)
        if not any((folder / name).exists() for name in OTHER_FORMS):
            return None
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # `tokenizers` raises nothing more special than that
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise BadInput(f"{folder}: its tokenizer cannot be read ({reason}); restore it") from None
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise BadInput(f"{folder}: its tokenizer is of a slow kind, without {TOKENIZER}; save it as a fast one first")
    return tokenizer


def require_match(tokenizer: PreTrainedTokenizerFast, config: PretrainedConfig, eos: Iterable[int] = ()) -> None:
    """Raise `BadInput` where tokenizer and configuration were not made for each other.

    `eos` are further tokens that end a text, from the generation configuration. A token that one side does not name at all
    is no contradiction.
    """
    largest = max(tokenizer.get_vocab().values())
    if largest >= config.vocab_size:
        raise BadInput(
            f"the tokenizer does not match the model: it has tokens up to {largest}, and the model knows {config.vocab_size}"
        )
    ends = config.eos_token_id if isinstance(config.eos_token_id, list) else [config.eos_token_id]
    allowed = {"pad": [config.pad_token_id], "bos": [config.bos_token_id], "eos": [*ends, *eos]}
    for name, ids in allowed.items():
        token, known = getattr(tokenizer, f"{name}_token_id"), [one for one in ids if one is not None and one >= 0]
        if token is not None and known and token not in known:
            raise BadInput(
                f"the tokenizer does not match the model: its {name} token is {token}, the model's {known[0]} (config.json)"
            )
