"""The reward of GRPO's samples, as a function that both libraries take."""

from __future__ import annotations

from typing import Any


def length(completions: list[str], **columns: Any) -> list[float]:
    """The number of characters of each text."""
    return [float(len(text)) for text in completions]
