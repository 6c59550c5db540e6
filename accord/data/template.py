"""Instruction templates: text with `{column}` where a row's column goes, `{{` and `}}` where a brace is meant."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from accord.errors import InputError

_PART = re.compile(r"\{\{|\}\}|\{([\w. -]+)\}|[{}]")


def check_template(template: str) -> None:
    """Raise InputError where a brace of the template neither names a column nor is doubled."""
    for part in _PART.finditer(template):
        if part[0] in "{}":
            raise InputError(
                f"the template {template!r} has a stray {part[0]}: write {part[0] * 2} for the sign itself."
            )


def fill(template: str, columns: Mapping[str, Any]) -> str:
    """The template with the row's columns in it, white space at its ends removed.

    Raises:
        InputError: a column is not there, or is neither text nor a number.
    """
    return _replaced(template, lambda path: text_at(columns, path))


def blank(template: str) -> str:
    """The template with nothing in the place of its columns: what an answer is likely to be before the row is read."""
    return _replaced(template, lambda path: "")


def text_at(columns: Mapping[str, Any], path: str) -> str:
    """The text or number at a column or at a path such as `instances.0.input`.

    Raises:
        InputError: there is nothing, or something else.
    """
    value = value_at(columns, path)
    if not isinstance(value, str | int | float):
        raise InputError(f"the column {path!r} must hold text or a number, not {type(value).__name__}")
    return str(value)


def value_at(columns: Mapping[str, Any], path: str) -> Any:
    """What is at a column, or at a path from a column into its value.

    Raises:
        InputError: there is nothing.
    """
    if path in columns:
        return columns[path]
    value: Any = columns
    for key in path.split("."):
        if isinstance(value, Mapping) and key in value:
            value = value[key]
        elif isinstance(value, Sequence) and not isinstance(value, str) and key.isdecimal() and int(key) < len(value):
            value = value[int(key)]
        else:
            raise InputError(f"there is no column {path!r}; the row has {', '.join(map(str, columns))}")
    return value


def _replaced(template: str, value: Any) -> str:
    return _PART.sub(lambda part: part[0][0] if part[1] is None else value(part[1]), template).strip()
