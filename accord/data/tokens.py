"""Tokenize texts, alone or as the continuation of another text.

Many SentencePiece-style tokenizers (Llama 2, Mistral, Phi 3) prepend a space: "one" is "▁one" alone, but "one" after a
line end. A completion follows its prompt, so it is tokenized together with the prompt's end:

    "<|assistant|>\\n" + "one"  ->  <|assistant|> \\n one  ->  one
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from accord.arrays import Ints
from accord.engine.spaces import adds_space
from accord.errors import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MOST_CHARACTERS = 10_000_000
"""The longest text allowed; a tokenizer reads about a million characters a second."""

AT_ONCE = 1000
"""Texts tokenized per call; the tokenizer's output takes some 150 bytes a token until it is converted."""

NEAR = 256
"""The characters at the end of the preceding text that are searched for an added token."""


def tokenize(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], befores: Sequence[str] | None = None
) -> list[Ints]:
    """The tokens of each text, without added special tokens, as the continuation of the text before it in `befores`.

    Raises InputError for a text of more than `MOST_CHARACTERS`.
    """
    longest = max(map(len, texts), default=0)
    if longest > MOST_CHARACTERS:
        raise InputError(f"a text of {longest:,} characters is too long: split it at {MOST_CHARACTERS:,}")
    if befores is not None and any(befores) and adds_space(tokenizer):
        return _behind(tokenizer, texts, befores)
    some = (list(texts[i : i + AT_ONCE]) for i in range(0, len(texts), AT_ONCE))
    return [Ints(ids) for part in some for ids in tokenizer(part, add_special_tokens=False, verbose=False)["input_ids"]]


def _behind(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], befores: Sequence[str]) -> list[Ints]:
    """The tokens of each text after the end of its preceding text; tokenized alone if a token would span both."""
    added = sorted((token.content for token in tokenizer.added_tokens_decoder.values()), key=len, reverse=True)
    begins = re.compile("|".join(map(re.escape, filter(None, added))) or "(?!)")
    ends = [_end(before, begins) for before in befores]
    distinct = list(dict.fromkeys(ends))
    known = dict(zip(distinct, tokenize(tokenizer, distinct), strict=True))
    both = tokenize(tokenizer, [end + text for end, text in zip(ends, texts, strict=True)])
    mixed = [i for i, end in enumerate(ends) if both[i][: len(known[end])] != known[end]]
    alone = dict(zip(mixed, tokenize(tokenizer, [texts[i] for i in mixed]), strict=True))
    return [alone[i] if i in alone else Ints(both[i][len(known[end]) :]) for i, end in enumerate(ends)]


def _end(before: str, begins: re.Pattern[str]) -> str:
    """The end of a text, from its last added token or, if none is near, from its last line."""
    near = before[-NEAR:]
    last = None
    for last in begins.finditer(near):  # noqa: B007  # the last one is wanted
        pass
    if last is not None:
        return near[last.start() :]
    line = near.rstrip("\n").rpartition("\n")
    return near[len(line[0]) :]
