"""Byte-level byte-pair encoding: a tokenizer trained on text, and how far it compresses.

The vocabulary begins with the 256 bytes, so that every text has tokens and comes back from them as it was, and grows by
the pair of tokens that is most frequent within words, over and over (Sennrich et al. 2016, arXiv:1508.07909; on bytes:
Radford et al. 2019, GPT-2, whose rule for what a word is this one takes).
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
"""The end of a text, padding, and what ChatML puts around a turn."""

LEAST, MOST = 256 + len(SPECIAL), 1_000_000
"""Tokens of the smallest vocabulary, and of the largest, which no published model comes near."""

SEEN = 2
"""How often a pair must be there to become a token."""

AT_ONCE = 256
"""Texts that are encoded at once."""


@dataclass
class Compression:
    """How many tokens texts take, and how many bytes they have as UTF-8."""

    texts: int = 0
    bytes: int = 0
    tokens: int = 0

    @property
    def bytes_per_token(self) -> float:
        """Higher is better: the same text in fewer tokens."""
        return self.bytes / self.tokens


def texts_of(
    source: Source, split: str = "train", limit: int | None = None, columns: Mapping[str, str] | None = None
) -> Iterator[str]:
    """Every text of the rows that is not empty, one after the other as they are read: of a chat, what is said.

    Several sources are read one by one; a mix of them is held in memory. Raises InputError as `load_data` does, and for
    rows of tokens.
    """
    parts = parts_of(source)
    sources = [source] if len(parts) == 1 or parts[0].weight else [part.source for part in parts]
    for one in sources:
        is_empty = True
        for number, row, _, name in stream_rows(one, split, limit, columns=columns):
            for text in _said(row, f"{name}, row {number}"):
                if text:
                    is_empty = False
                    yield text
        if is_empty:
            raise InputError(f"{called(one)} holds no text")


def _said(row: Row, where: str) -> Iterator[str]:
    if isinstance(row, Tokenization):
        raise InputError(f"{where}: these are tokens, and a tokenizer is trained on text")
    completions: tuple[Text, ...] = ()
    if isinstance(row, Ranking):
        completions = row.completions
    else:
        names = ("completion", "chosen", "rejected")
        completions = tuple(getattr(row, name) for name in names if hasattr(row, name))
    for text in (row.prompt, *completions):
        yield from [text] if isinstance(text, str) else (message.content for message in text)


def train(texts: Iterable[str], size: int) -> PreTrainedTokenizerFast:
    """A tokenizer of so many tokens, or fewer where the texts have no more pairs that are there twice.

    It has an end and a padding token and ChatML for a chat template. The same texts, in any order, give the same.
    Raises InputError for a vocabulary that is too large, or too small for the bytes and the special tokens.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    if size > MOST:
        raise InputError(f"vocab_size must be at most {MOST:,}, not {size:,}")
    if size < LEAST:
        raise InputError(
            f"vocab_size must be at least {LEAST}, the 256 bytes and {len(SPECIAL)} special tokens, not {size}"
        )
    words = Tokenizer(models.BPE())
    words.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    words.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        min_frequency=SEEN,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    words.train_from_iterator(iter(texts), trainer)
    made = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=words,
        eos_token=DOCUMENT_END,
        pad_token=PAD,
        additional_special_tokens=list(SPECIAL[2:]),
        clean_up_tokenization_spaces=False,
    )
    return engine.turns.with_template(made, "chatml", "refuse")  # type: ignore[return-value]


def compression(tokenizer: PreTrainedTokenizerFast, texts: Iterable[str]) -> Compression:
    """How far a tokenizer compresses texts, without the end of any."""
    found, left = Compression(), iter(texts)
    while some := list(islice(left, AT_ONCE)):
        encoded = tokenizer.backend_tokenizer.encode_batch_fast(some, add_special_tokens=False)
        found.texts += len(some)
        found.bytes += sum(len(text.encode()) for text in some)
        found.tokens += sum(map(len, encoded))
    return found
