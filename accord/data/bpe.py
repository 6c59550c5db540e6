"""Byte-level byte-pair encoding (BPE): train a tokenizer on text, and measure its compression.

The vocabulary starts with the 256 bytes, so that every text can be encoded without loss, and grows by merging the most
frequent pair of tokens within words (Sennrich et al. 2016, arXiv:1508.07909). Words are split by GPT-2's rule (Radford
et al. 2019).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

from accord import engine
from accord.data.load import Source, stream_rows
from accord.data.mix import called, parts_of
from accord.data.readers import DOCUMENT_END
from accord.errors import InputError
from accord.records import Ranking, Row, Text, Tokenization

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

PAD = "<|pad|>"
SPECIAL = (DOCUMENT_END, PAD, "<|im_start|>", "<|im_end|>")
"""The end of a text, padding, and ChatML's marks around a turn."""

MIN_SIZE, MAX_SIZE = 256 + len(SPECIAL), 1_000_000
"""The bounds of the vocabulary size; no published model comes near the upper one."""

MIN_FREQUENCY = 2
"""The occurrences that a pair needs to become a token."""

ENCODE_BATCH = 256
"""The number of texts encoded per call."""


@dataclass
class Compression:
    """The number of texts, their UTF-8 bytes, and their tokens."""

    texts: int = 0
    bytes: int = 0
    tokens: int = 0

    @property
    def bytes_per_token(self) -> float:
        """UTF-8 bytes per token; higher means better compression."""
        return self.bytes / self.tokens


def texts_of(
    source: Source, split: str = "train", limit: int | None = None, columns: Mapping[str, str] | None = None
) -> Iterator[str]:
    """Yield the non-empty texts of the rows as they are read; of a chat, the messages' contents.

    Several sources are read one by one; a weighted mix is held in memory. Raises InputError as `load_data` does, and
    for rows of tokens.
    """
    parts = parts_of(source)
    sources = [source] if len(parts) == 1 or parts[0].weight else [part.source for part in parts]
    for one in sources:
        is_empty = True
        for number, row, _, name in stream_rows(one, split, limit, columns=columns):
            for text in _texts_in(row, f"{name}, row {number}"):
                if text:
                    is_empty = False
                    yield text
        if is_empty:
            raise InputError(f"{called(one)} holds no text")


def _texts_in(row: Row, where: str) -> Iterator[str]:
    if isinstance(row, Tokenization):
        raise InputError(f"{where}: the row holds tokens, and a tokenizer is trained on text: give rows of text")
    completions: tuple[Text, ...] = ()
    if isinstance(row, Ranking):
        completions = row.completions
    else:
        names = ("completion", "chosen", "rejected")
        completions = tuple(getattr(row, name) for name in names if hasattr(row, name))
    for text in (row.prompt, *completions):
        yield from [text] if isinstance(text, str) else (message.content for message in text)


def require_size(vocab_size: int) -> None:
    """Raise InputError if a vocabulary is too large, or too small for the bytes and special tokens."""
    if vocab_size > MAX_SIZE:
        raise InputError(f"vocab_size must be at most {MAX_SIZE:,}, not {vocab_size:,}")
    if vocab_size < MIN_SIZE:
        raise InputError(
            f"vocab_size must be at least {MIN_SIZE}, the 256 bytes and {len(SPECIAL)} special tokens, not {vocab_size}"
        )


def train(texts: Iterable[str], size: int) -> PreTrainedTokenizerFast:
    """Train a tokenizer of `size` tokens, or fewer if the texts have no more pairs of `MIN_FREQUENCY`.

    It has an end-of-text token, a padding token, and ChatML as its chat template. The result does not depend on the
    order of the texts. Raises InputError as `require_size` does.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    require_size(size)
    words = Tokenizer(models.BPE())
    words.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    words.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        min_frequency=MIN_FREQUENCY,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    words.train_from_iterator(iter(texts), trainer)
    trained = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=words,
        eos_token=DOCUMENT_END,
        pad_token=PAD,
        additional_special_tokens=list(SPECIAL[2:]),
        clean_up_tokenization_spaces=False,
    )
    return engine.templates.with_template(trained, "chatml", "refuse")  # type: ignore[return-value]


def compression(tokenizer: PreTrainedTokenizerFast, texts: Iterable[str]) -> Compression:
    """Measure a tokenizer's compression of texts, without end-of-text tokens."""
    total, left = Compression(), iter(texts)
    while some := list(islice(left, ENCODE_BATCH)):
        encoded = tokenizer.backend_tokenizer.encode_batch_fast(some, add_special_tokens=False)
        total.texts += len(some)
        total.bytes += sum(len(text.encode()) for text in some)
        total.tokens += sum(map(len, encoded))
    return total
