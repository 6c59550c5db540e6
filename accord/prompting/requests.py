"""Requests to a language model and its replies: the interface between judges or generators and models."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from accord.records import Text


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """One request. A prompt of messages is a chat; a plain text is continued."""

    prompt: Text
    max_tokens: int
    """The most tokens of the reply; 0 where only the choices' probabilities are wanted."""
    temperature: float = 0.0
    """Divides the logits; 0 takes the likeliest token."""
    top_p: float = 1.0
    stop: tuple[str, ...] = ()
    """The reply ends before the first of these strings."""
    seed: int = 0
    """Sampling depends on the request alone, this seed included: equal requests have equal replies."""
    choices: tuple[str, ...] = ()
    """Texts such as A and B: the probabilities that the reply begins with them are wanted."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Reply:
    """A reply: a text, or the reason why there is none."""

    text: str | None
    reason: str = ""
    """Why there is no text; the kind of failure comes first, before a colon."""
    is_cut: bool = False
    """Whether `max_tokens` cut the text."""
    choices: dict[str, float] | None = field(default=None)
    """The probability that the reply begins with each choice, as far as known; None where unknown.

    Where one choice begins another, as 1 does 10, the shorter one's probability excludes the longer one."""
    tokens_in: int = 0
    tokens_out: int = 0


class Prompted(Protocol):
    """A model that answers requests.

    `name` is its name for people. `on_reply` is called with each reply as it arrives, and the index of its request, so
    that nothing is lost if the work ends: from one thread at a time, in any order.
    """

    name: str

    def __call__(
        self, requests: Sequence[Request], on_reply: Callable[[int, Reply], None] | None = None
    ) -> list[Reply]:
        """A reply for each request, in order."""
        ...


def without_reasoning(text: str) -> str:
    """The text after a leading block of reasoning, <think> ... </think>; empty where the block is not closed.

    Some chat templates open the block in the prompt, so that a reply only closes it.
    """
    head, end, rest = text.rpartition("</think>")
    if end and (re.match(r"\s*<think>", head) or "<think>" not in head):
        return rest.lstrip()
    return "" if re.match(r"\s*<think>", text) else text
