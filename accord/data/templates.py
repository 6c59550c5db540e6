"""Instruction templates, and the words that prompts are put together with (`Wording`).

A template is text with `{column}` where a row's column goes, and `{{` and `}}` where a brace is meant. An empty one
asks for an option without a word before it, such as the right one of two sentences.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from accord.data.columns import value_at
from accord.errors import InputError, located, nearest

_PART = re.compile(r"\{\{|\}\}|\{([\w. -]+)\}|[{}]")


def checked_templates(given: Any, key: str, *, may_be_empty: bool = False) -> tuple[str, ...]:
    """A template, or several, as a file has them under a key; one may be empty with `may_be_empty`.

    Raises InputError where they are no texts, hold a stray brace, or name no column.
    """
    templates = [given] if isinstance(given, str) else given
    if not isinstance(templates, list) or not templates or not all(isinstance(t, str) for t in templates):
        raise InputError(f"{key!r} must be an instruction template, or a list of them.")
    if not may_be_empty and not all(t.strip() for t in templates):
        raise InputError(f"{key!r} must be an instruction template, or a list of them.")
    for template in templates:
        check_template(template)
        if template.strip() and not columns_of(template):
            raise InputError(f"{key!r} has a template without a {{column}}, which says nothing of a row: {template!r}.")
    return tuple(templates)


def check_template(template: str) -> None:
    """Raise InputError where a brace of the template neither names a column nor is doubled."""
    for sign in (part[0] for part in _PART.finditer(template)):
        if sign in "{}":
            raise InputError(f"the template {template!r} has a stray {sign}: write {sign * 2} for the sign itself.")


def columns_of(template: str) -> list[str]:
    """The columns that a template names."""
    return [part[1] for part in _PART.finditer(template) if part[1] is not None]


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


@dataclass(frozen=True, slots=True)
class Wording:
    """What the prompts of all tasks of a file have in common.

    `separator` stands between exemplars. `trigger` (Kojima et al. 2022, arXiv:2205.11916) asks for a chain of thought,
    in which `answer_phrase` (Wei et al. 2022, arXiv:2201.11903) stands before the answer. `inverse` are the templates
    that ask for the question of an `{answer}`, `inverse_cot` those that tell its `{rationale}` too.
    """

    separator: str = "\n\n"
    trigger: str = "Let's think step by step."
    answer_phrase: str = "So the answer is"
    inverse: tuple[str, ...] = ("Answer: {answer}\n\nWhich question has this answer?",)
    inverse_cot: tuple[str, ...] = ("Reasoning: {rationale}\nAnswer: {answer}\n\nWhich question was reasoned about?",)


USUAL = Wording()
"""The wording where a file gives none."""

INVERSIONS = {"inverse": {"answer"}, "inverse_cot": {"answer", "rationale"}}
"""The columns of each sort of template that asks for a question."""


def read_wording(given: Any) -> Wording:
    """The wording that a file gives; InputError where a key is unknown, or does not hold what it should."""
    known = [each.name for each in fields(Wording)]
    if not isinstance(given, Mapping):
        raise InputError(f"it must be a mapping with some of {', '.join(known)}.")
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
    found = set(columns_of(template))
    with located(f"the template {template!r} "):
        if missing := sorted(wanted - found):
            raise InputError(f"lacks {' and '.join(f'{{{name}}}' for name in missing)}.")
        if other := sorted(found - wanted):
            raise InputError(
                f"may name {' and '.join(f'{{{name}}}' for name in sorted(wanted))}, and not {other[0]!r}."
            )
