"""Verifiers: rewards that compare the final answer in a completion with the one in its row.

    exact            the whole completion is the answer, white space and letter case apart
    number           the final number is the answer's, as GSM8K and MATH are marked
    regex:PATTERN    the last match (its first group, where there is one) is the answer, letter for letter
    math             the final expression equals the answer, by math-verify
    reasoning-gym    the score of the data set that the row came from, which may lie between 0 and 1

The answer stands in the column `answer`, or in the one named after an `@`: `number@solution`, `regex@label:(yes|no)`.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

import torch
from torch import Tensor

from accord.errors import InputError
from accord.feedback.numbers import excerpt, lacking
from accord.feedback.numerals import final_number
from accord.records import Prompt, Sample

ANSWER = "answer"
"""The column that holds a row's answer unless another is named."""


@dataclass(frozen=True, slots=True)
class Verifier:
    """A reward of 1 for a completion whose final answer is its row's, else 0 (or what `grade` says between them).

    Raises InputError, naming the row and its columns, where the answer's column is missing or holds no answer.
    """

    name: str
    """What messages call it."""
    answer: Callable[[str], str | None]
    """The final answer in a text, in a form in which equal answers are equal strings; None where there is none."""
    gold: Callable[[Mapping[str, Any]], Any]
    """The right answer in a row's columns; InputError says why there is none."""
    grade: Callable[[str, Any], float]
    """The score of a text, by what `gold` gave."""
    column: str = ANSWER
    """The column without which there is no right answer."""

    def __call__(self, samples: Sequence[Sample]) -> Tensor:
        """One score a sample, (C,) float32."""
        gold = {id(s.prompt): self._gold(s.prompt, s.row) for s in {id(s.prompt): s for s in samples}.values()}
        return torch.tensor([self.grade(s.text, gold[id(s.prompt)]) for s in samples], dtype=torch.float32)

    def check(self, prompt: Prompt, row: int) -> None:
        """Raise InputError where the row has no right answer."""
        self._gold(prompt, row)

    def _gold(self, prompt: Prompt, row: int) -> Any:
        if prompt.columns.get(self.column) is None:
            there = [name for name, value in prompt.columns.items() if value is not None]
            raise lacking(f"the verifier {self.name}", self.column, there, row)
        try:
            return self.gold(prompt.columns)
        except InputError as error:
            where = f"row {row + 1}" if row >= 0 else "the row"
            raise InputError(f"{where}, for the verifier {self.name}: {error}") from None


def verifier_named(spec: str) -> Verifier:
    """The verifier that a name stands for: `number`, `exact@label`, `regex:PATTERN`, `regex@label:PATTERN`.

    Raises:
        InputError: there is no such verifier, its pattern is missing or malformed, or its extra is not installed.
    """
    head, colon, pattern = spec.partition(":")
    name, at, column = head.partition("@")
    if name not in VERIFIERS:
        near = get_close_matches(name, VERIFIERS, 1, 0.5)
        hint = f"; did you mean {near[0]}?" if near else f": they are {', '.join(VERIFIERS)}"
        raise InputError(f"there is no verifier {name!r}{hint}")
    if at and not column:
        raise InputError(f"the verifier {spec!r} names no column after its @")
    if colon and name != "regex":
        raise InputError(f"the verifier {name} takes no pattern, so {spec!r} means nothing")
    return VERIFIERS[name](*([pattern] if name == "regex" else []), **({"column": column} if at else {}))


def exact(column: str = ANSWER) -> Verifier:
    """1 where the whole completion is the answer, but for letter case and for how much white space there is."""

    def answer(text: str) -> str | None:
        return " ".join(text.split()).casefold() or None

    return _compared("exact", answer, answer, column)


def number(column: str = ANSWER) -> Verifier:
    """1 where the final number in the completion equals that in the answer (`numerals.final_number`)."""
    return _compared("number", final_number, final_number, column)


def regex(pattern: str, column: str = ANSWER) -> Verifier:
    """1 where the last match of `pattern`, or its first group if it has one, is the answer, letter for letter."""
    if not pattern:
        raise InputError("the verifier regex needs a pattern: write regex:PATTERN")
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise InputError(f"the pattern {pattern!r} is not a regular expression ({error})") from None

    def answer(text: str) -> str | None:
        found = deque(compiled.finditer(text), 1)
        return found[0][min(compiled.groups, 1)] if found else None

    return _compared(f"regex:{pattern}", answer, lambda text: text, column)


def text_in(columns: Mapping[str, Any], column: str) -> str:
    """The column's value as text; InputError where it is neither text nor a number."""
    value = columns[column]
    if not isinstance(value, (str, int, float)):
        raise InputError(f"'{column}' must be text or a number, not of type {type(value).__name__}")
    return str(value)


def _compared(
    name: str, answer: Callable[[str], str | None], right: Callable[[str], str | None], column: str
) -> Verifier:
    """A verifier that compares strings: what `answer` finds in a completion with what `right` makes of the column."""

    def gold(columns: Mapping[str, Any]) -> str:
        found = right(text_in(columns, column))
        if found is None:
            raise InputError(f"there is no answer in '{column}' ({excerpt(repr(columns[column]))})")
        return found

    return Verifier(name, answer, gold, lambda text, right: float(answer(text) == right), column)


def _math(column: str = ANSWER) -> Verifier:
    from accord.feedback.expressions import mathematics

    return mathematics(column)


def _reasoning_gym(**other: str) -> Verifier:
    from accord.feedback.reasoning import reasoning_gym

    if other:
        raise InputError("the verifier reasoning-gym reads the columns that its rows come with, so name none")
    return reasoning_gym()


VERIFIERS: dict[str, Callable[..., Verifier]] = {
    "exact": exact,
    "number": number,
    "regex": regex,
    "math": _math,
    "reasoning-gym": _reasoning_gym,
}
"""Verifiers by name; the last two need the `verify` extra."""
