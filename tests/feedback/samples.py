"""Samples for rewards to score."""

from __future__ import annotations

from typing import Any

from accord.records import Completion, Message, Prompt, Sample, Text

CHAT = (Message("user", "how much ?"),)


def sample(
    text: str, row: int = 0, prompt: Text = "how much ?", tokens: tuple[int, ...] = (3,), **columns: Any
) -> Sample:
    """A completion of a prompt whose row has the columns given."""
    logprobs = (-0.5,) * len(tokens)
    return Sample(Prompt(prompt, columns), text, (1, 2), Completion(tokens, logprobs, "end"), row)
