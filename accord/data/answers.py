"""How answers are compared where they are to be the same: as options of a task, and for exact match."""

from __future__ import annotations

MARKS = ".!?,;:"
"""The punctuation that does not count at an answer's end."""


def normalised(text: str) -> str:
    """The text as answers are compared: letter case, white space and punctuation at the end (`MARKS`) do not count.

    A run of white space is one space. A text of nothing but punctuation is left as it is.
    """
    plain = " ".join(text.split()).casefold()
    return plain.rstrip(MARKS + " ") or plain
