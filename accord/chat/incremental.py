"""The text of tokens that arrive one by one, in pieces that add up to the text of them all."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

BYTE = re.compile(r"<0x[0-9A-F]{2}>")
"""The name of a token for a byte."""


class IncrementalDecoder:
    """Decodes tokens as they arrive.

    The whole is decoded anew each time, since a token's text may depend on those before it (a space between words, the
    rest of a character). Text that later tokens may still change is held back: an incomplete character, which decodes
    to U+FFFD, a run of SentencePiece's tokens for bytes, all of which do if one is wrong, and a beginning that a
    tokenizer's clean-up rewrites.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer
        self.tokens: list[int] = []
        self.certain = ""
        self.in_bytes = False

    def add(self, token: int) -> str:
        """The text that became certain with one more token."""
        self.tokens.append(token)
        if token not in self.tokenizer.all_special_ids:  # which are left out, so that a run goes on after them
            self.in_bytes = BYTE.fullmatch(str(self.tokenizer.convert_ids_to_tokens(token))) is not None
        return "" if self.in_bytes else self._more(waiting="\ufffd")

    def rest(self) -> str:
        """The text still held back, when no more tokens come."""
        return self._more(waiting="")

    def _more(self, waiting: str) -> str:
        text = str(self.tokenizer.decode(self.tokens, skip_special_tokens=True)).rstrip(waiting)
        if not text.startswith(self.certain):
            return ""
        piece, self.certain = text[len(self.certain) :], text
        return piece
