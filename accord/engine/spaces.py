"""The space that SentencePiece tokenizers put before a text and strip from what they decode."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_known: WeakKeyDictionary[PreTrainedTokenizerBase, bool] = WeakKeyDictionary()


def adds_space(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether a tokenizer puts a space before a text, tested by a letter that has other tokens after a newline than
    alone."""
    if tokenizer not in _known:
        texts = ["a", "\n", "\na"]
        try:
            alone, end, both = tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
        except Exception:  # a small vocabulary may lack both texts and an unknown token
            alone = end = both = []
        _known[tokenizer] = both[: len(end)] == end and both[len(end) :] != alone
    return _known[tokenizer]


def decoded(tokenizer: PreTrainedTokenizerBase, tokens: Sequence[int], before: Sequence[int] = ()) -> str:
    """The text of tokens, without special tokens, as it stands after the tokens `before`, keeping its first space."""
    if before and adds_space(tokenizer):
        head, both = (str(tokenizer.decode([*before[-1:], *t], skip_special_tokens=True)) for t in ((), tokens))
        if both.startswith(head):
            return both[len(head) :]
    return str(tokenizer.decode(list(tokens), skip_special_tokens=True))
