"""What GRPO's samples are scored by, a function as both libraries take one."""

from __future__ import annotations

from typing import Any


def length(completions: list[str], **columns: Any) -> list[float]:
    """The longer a text, the better: its characters."""
    return [float(len(text)) for text in completions]
