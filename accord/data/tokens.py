"""Texts as tokens, each on its own, and those that follow another text as they would stand behind it.

Many tokenizers in SentencePiece's manner (Llama 2's, Mistral's, Phi 3's) put a space before a text: "one" is "▁one" on
its own, and "one" after a line end. What a model says follows its prompt, so it is tokenized behind the prompt's end:

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
"""Of one text; a tokenizer reads about a million a second."""

AT_ONCE = 1000
"""Texts tokenized at once: what a tokenizer makes of them takes some 150 bytes a token, while it is there."""

NEAR = 256
"""Characters of what precedes a text among which a token is looked for that begins a stretch of its own."""


def tokenize(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], befores: Sequence[str] | None = None
) -> list[Ints]:
    """The tokens of each text, without added special tokens; behind the text before it, where `befores` has one.

    Raises InputError where a text is too long to be read.
    """
    longest = max(map(len, texts), default=0)
    if longest > MOST_CHARACTERS:
        raise InputError(f"a text of {longest:,} characters is too long to be read; split it at {MOST_CHARACTERS:,}")
    if befores is not None and any(befores) and adds_space(tokenizer):
        return _behind(tokenizer, texts, befores)
    some = (list(texts[i : i + AT_ONCE]) for i in range(0, len(texts), AT_ONCE))
    return [Ints(ids) for part in some for ids in tokenizer(part, add_special_tokens=False, verbose=False)["input_ids"]]


def _behind(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], befores: Sequence[str]) -> list[Ints]:
    """The tokens of each text behind the end of what precedes it; on its own where a token would be of both."""
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
    """The end of a text from its last added token on, or, where none is near, from its last line on."""
    near = before[-NEAR:]
    last = None
    for last in begins.finditer(near):  # noqa: B007  # the last one is wanted
        pass
    if last is not None:
        return near[last.start() :]
    line = near.rstrip("\n").rpartition("\n")
    return near[len(line[0]) :]
