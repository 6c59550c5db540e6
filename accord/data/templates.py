"""Instruction templates, and the fixed text around them in prompts (`Wording`).

A template is text with `{column}` where a row's column goes; `{{` and `}}` are literal braces. An empty template asks
for an option with no text before it, such as the right one of two sentences.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from accord.data.columns import value_at
from accord.errors import InputError, located, nearest

_PART = re.compile(r"\{\{|\}\}|\{([\w. -]+)\}|[{}]")


def checked_templates(value: Any, key: str, *, may_be_empty: bool = False) -> tuple[str, ...]:
    """Read the template, or list of templates, under a key of a task file; `may_be_empty` allows empty ones.

    Raises InputError if they are not texts, have a stray brace, or name no column.
    """
    templates = [value] if isinstance(value, str) else value
    if not isinstance(templates, list) or not templates or not all(isinstance(t, str) for t in templates):
        raise InputError(f"{key!r} must be an instruction template, or a list of them.")
    if not may_be_empty and not all(t.strip() for t in templates):
        raise InputError(f"{key!r} must be an instruction template, or a list of them.")
    for template in templates:
        check_template(template)
        if template.strip() and not columns_of(template):
            raise InputError(f"{key!r} has a template without any {{column}}, the same for every row: {template!r}.")
    return tuple(templates)


def check_template(template: str) -> None:
    """Raise InputError if a brace of the template neither encloses a column nor is doubled."""
    for sign in (part[0] for part in _PART.finditer(template)):
        if sign in "{}":
            raise InputError(f"the template {template!r} has a stray {sign}: write {sign * 2} for the sign itself.")


def columns_of(template: str) -> list[str]:
    """The column paths in a template."""
    return [part[1] for part in _PART.finditer(template) if part[1] is not None]


def fill(template: str, columns: Mapping[str, Any]) -> str:
    """Fill in the row's columns and strip. Raises InputError if a column is missing, or is neither text nor number."""

    def text(path: str) -> str:
        value = value_at(columns, path)
        if not isinstance(value, str | int | float):
            raise InputError(f"the column {path!r} must hold text or a number, not {type(value).__name__}.")
        return str(value)

    return _replaced(template, text)


def content_free(template: str) -> str:
    """The template with empty columns: the content-free prompt that calibrates options by their prior."""
    return _replaced(template, lambda path: "")


def _replaced(template: str, value: Any) -> str:
    return _PART.sub(lambda part: part[0][0] if part[1] is None else value(part[1]), template).strip()


@dataclass(frozen=True, slots=True)
class Wording:
    """The fixed text shared by the prompts of all tasks in a file.

    `separator` goes between exemplars. `trigger` (Kojima et al. 2022, arXiv:2205.11916) asks for a chain of thought,
    `answer_phrase` (Wei et al. 2022, arXiv:2201.11903) precedes its answer. `inverse` are the templates that ask for
    the question given the `{answer}`, `inverse_cot` those that also give the `{rationale}`.
    """

    separator: str = "\n\n"
    trigger: str = "Let's think step by step."
    answer_phrase: str = "So the answer is"
    inverse: tuple[str, ...] = ("Answer: {answer}\n\nWhich question has this answer?",)
    inverse_cot: tuple[str, ...] = ("Reasoning: {rationale}\nAnswer: {answer}\n\nWhich question was reasoned about?",)


DEFAULT_WORDING = Wording()
"""The wording of files that give none."""

INVERSIONS = {"inverse": {"answer"}, "inverse_cot": {"answer", "rationale"}}
"""The columns that each kind of inverse template must name."""


def read_wording(given: Any) -> Wording:
    """Read a file's `formats:`. Raises InputError if a key is unknown or its value invalid."""
    known = [each.name for each in fields(Wording)]
    if not isinstance(given, Mapping):
        raise InputError(f"this must be a mapping with some of {', '.join(known)}.")
    read: dict[str, Any] = {}
    for key, value in given.items():
        if key not in known:
            raise InputError(f"unknown key {key!r}{nearest(str(key), known)}; there are {', '.join(known)}.")
        read[key] = value
        if key in INVERSIONS:
            read[key] = checked_templates(value, key)
            for template in read[key]:
                _require_columns(template, INVERSIONS[key])
        elif not isinstance(value, str) or not (value.strip() or key == "trigger" or (value and key == "separator")):
            raise InputError(f"{key!r} must be text that is not empty, not {value!r}.")
    return Wording(**read)


def _require_columns(template: str, wanted: set[str]) -> None:
    present = set(columns_of(template))
    with located(f"the template {template!r} "):
        if missing := sorted(wanted - present):
            raise InputError(f"lacks {' and '.join(f'{{{name}}}' for name in missing)}.")
        if other := sorted(present - wanted):
            raise InputError(
                f"may name {' and '.join(f'{{{name}}}' for name in sorted(wanted))}, and not {other[0]!r}."
            )
