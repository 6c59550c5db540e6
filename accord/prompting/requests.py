"""What a language model is asked, and what it replies: the seam between those who ask and the models that answer."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from accord.records import Text


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """One question. A prompt of messages is a chat; a plain text is continued."""

    prompt: Text
    max_tokens: int
    """Of the reply; 0 where only the choices are wanted, and no text."""
    temperature: float = 0.0
    """Divides the logits; 0 takes the likeliest token."""
    top_p: float = 1.0
    stop: tuple[str, ...] = ()
    """The reply ends before the first of these texts."""
    seed: int = 0
    """What is drawn depends on the request alone, this included: the same request has the same reply."""
    choices: tuple[str, ...] = ()
    """Texts with which the reply may begin, such as A and B, whose probabilities are wanted."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Reply:
    """What came back: a text, or why there is none."""

    text: str | None
    reason: str = ""
    """Why there is no text: who could not be reached, or refused."""
    is_cut: bool = False
    """Whether the text was ended by `max_tokens`."""
    choices: dict[str, float] | None = field(default=None)
    """The probability that the reply begins with each choice, as far as the model tells; None where it does not.

    Of one choice that begins another, such as 1 and 10, it is that of the shorter one and not the longer."""
    tokens_in: int = 0
    tokens_out: int = 0


class Prompted(Protocol):
    """A model that is asked by prompts.

    `name` says which it is, for a reader. `on_reply` is told of every reply when it is there, with its request's
    place, so that nothing is lost where the work is ended: from one thread at a time, in any order.
    """

    name: str

    def __call__(
        self, requests: Sequence[Request], on_reply: Callable[[int, Reply], None] | None = None
    ) -> list[Reply]:
        """A reply for each request, in order."""
        ...


def without_reasoning(text: str) -> str:
    """The text after a block of reasoning that it begins with, <think> ... </think>; empty where that has no end.

    Some chat templates open the block in the prompt, so that a reply only ends it.
    """
    head, end, rest = text.rpartition("</think>")
    if end and (re.match(r"\s*<think>", head) or "<think>" not in head):
        return rest.lstrip()
    return "" if re.match(r"\s*<think>", text) else text
