"""Instruction templates: text with `{column}` where a row's column goes, `{{` and `}}` where a brace is meant.

An empty one asks for an option without a word before it, such as the right one of two sentences.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from accord.data.columns import value_at
from accord.errors import InputError

_PART = re.compile(r"\{\{|\}\}|\{([\w. -]+)\}|[{}]")


def check_template(template: str) -> None:
    """Raise InputError where a brace of the template neither names a column nor is doubled."""
    for sign in (part[0] for part in _PART.finditer(template)):
        if sign in "{}":
            raise InputError(f"the template {template!r} has a stray {sign}: write {sign * 2} for the sign itself.")


def fill(template: str, columns: Mapping[str, Any]) -> str:
    """The template with the row's columns in it, stripped; InputError where one is not there, or no text or number."""

    def text(path: str) -> str:
        value = value_at(columns, path)
        if not isinstance(value, str | int | float):
            raise InputError(f"the column {path!r} must hold text or a number, not {type(value).__name__}.")
        return str(value)

    return _replaced(template, text)


def blank(template: str) -> str:
    """The template with nothing in the place of its columns: what an answer is likely to be before the row is read."""
    return _replaced(template, lambda path: "")


def _replaced(template: str, value: Any) -> str:
    return _PART.sub(lambda part: part[0][0] if part[1] is None else value(part[1]), template).strip()
