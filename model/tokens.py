"""Text to tokens: a byte-level BPE learned from the base data, and the shape of a training sequence. Knows no tensors.

A sequence is `<|bos|> text <|label|> label <|eos|>`; free text is the same without the label part.
"""

from __future__ import annotations

from collections.abc import Iterable

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

PAD, BOS, LABEL, EOS = "<|pad|>", "<|bos|>", "<|label|>", "<|eos|>"


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
    """Encodes prompts and labels for one tokenizer. `max_length` bounds the text's tokens; longer texts keep their beginning."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, max_length: int) -> None:
        self.tokenizer, self.max_length = tokenizer, max_length
        self.pad, self.bos, self.eos = tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id
        self.label = tokenizer.convert_tokens_to_ids(LABEL)
        # A user who writes "<|label|>" in a text writes nine characters, not our token.
        tokenizer.backend_tokenizer.encode_special_tokens = True

    def text(self, text: str) -> list[int]:
        """Tokens of plain text, special tokens written out in it taken as ordinary characters."""
        return self.tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).ids

    def prompt(self, text: str) -> list[int]:
        """The sequence up to the point where the label is to be predicted."""
        return [self.bos, *self.text(text)[: self.max_length], self.label]

    def answer(self, label: str) -> list[int]:
        """The tokens that answer with `label`."""
        return [*self.text(label), self.eos]

    def opening(self, text: str) -> list[int]:
        """The sequence of a free text to be continued."""
        return [self.bos, *self.text(text)[-self.max_length :]]
