"""Implicit prompts: what two whole dialogues, or two whole texts, have in common."""

from __future__ import annotations

from collections.abc import Sequence

from accord.errors import InputError
from accord.records import Message


def split_dialogues(
    first: tuple[Message, ...], second: tuple[Message, ...]
) -> tuple[tuple[Message, ...], tuple[Message, ...], tuple[Message, ...]]:
    """The prompt and the two completions of two dialogues that begin alike.

    The prompt is the longest common prefix of turns after which both go on with an assistant turn.
    """
    end = min(_shared(first, second), len(first) - 1, len(second) - 1)
    while end >= 0 and not first[end].role == second[end].role == "assistant":
        end -= 1
    if end < 0:
        raise InputError("'chosen' and 'rejected' have no common prompt after which both have an assistant turn")
    if end == 0:
        raise InputError("'chosen' and 'rejected' begin with an assistant turn, so there is no prompt before it")
    return first[:end], first[end:], second[end:]


def split_strings(first: str, second: str) -> tuple[str, str, str]:
    """The prompt and the two completions of two plain texts that begin alike.

    The prompt is the longest common prefix of whole words that leaves a word to each; the white space after it stays
    with the completions, as sub-word tokenizers want it. Texts that do not begin alike have the empty prompt.
    """
    end = min(_shared(first, second), len(first.rstrip()) - 1, len(second.rstrip()) - 1)
    while end > 0 and not first[end - 1].isspace():
        end -= 1
    prompt = first[: max(end, 0)].rstrip()
    return prompt, first[len(prompt) :], second[len(prompt) :]


def _shared(first: Sequence[object], second: Sequence[object]) -> int:
    """How many elements the two have in common before they part."""
    for place, (a, b) in enumerate(zip(first, second, strict=False)):
        if a != b:
            return place
    return min(len(first), len(second))
