"""Verifiers: rewards that compare the final answer in a completion with the one in its row.

    exact            the whole completion is the answer, white space and letter case apart
    number           the final number is the answer's, as GSM8K and MATH are marked
    regex:PATTERN    the last match (its first group, where there is one) is the answer, letter for letter
    math             the final expression equals the answer, by math-verify
    reasoning-gym    the score of the data set that the row came from, which may lie between 0 and 1

The answer stands in the column `answer`, or in the one named after an `@`: `number@solution`, `regex@label:(yes|no)`.

The final number in a text, as benchmarks of arithmetic mark it.

Votes: what the samples of one prompt agree on (self-consistency, Wang et al. 2023, arXiv:2203.11171).
"""

from __future__ import annotations

import re
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor

from accord.errors import InputError
from accord.feedback.judge import excerpt, lacking
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
    from accord.feedback.external_verifiers import mathematics

    return mathematics(column)


def _reasoning_gym(**other: str) -> Verifier:
    from accord.feedback.external_verifiers import reasoning_gym

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


_DIGITS = r"(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|(?<!\d)\.\d+"
_NUMBER = re.compile(
    rf"(?P<minus>(?<![\w)\]}}.])-)?(?P<money>[$£€]-?)?(?P<digits>{_DIGITS})"
    r"(?:/(?P<parts>\d+)|[eE](?P<exponent>[-+]?\d{1,3})(?!\d))?"
)
_MARKED = re.compile(r"####[ \t]*([-$£€\d.,/%]*\d[.,%]*)[ \t]*$", re.MULTILINE)
_FRACTION = re.compile(r"\\[dt]?frac\{(-?\d+)\}\{(\d+)\}")
_TYPESET = str.maketrans({"−": "-"})
_SPACING = re.compile(r"\{,\}|\\[,!;:]|\\(?=[$%])")
_LONGEST = 400
"""Digits in a number; no answer is longer, and what a model repeats without end is not worth the time."""


def final_number(text: str) -> str | None:
    r"""The number that a text ends on, in one form for equal numbers, or None where there is none.

    It is the last number in the last closed `\boxed{...}`; where there is none, the number after the last `####` that
    stands alone on the rest of its line; else the last number. A number may have a sign, a currency sign, separators
    of thousands, decimals and an exponent, may be a fraction of whole numbers (`3/4`, `\frac{3}{4}`), and may be
    followed by anything, such as a percent sign. So `$1,234.50`, `1234.5` and `\boxed{2469/2}` are all "1234.5".
    """
    text = _SPACING.sub(lambda m: "," if m[0] == "{,}" else "", text.translate(_TYPESET))
    text = _FRACTION.sub(r"\1/\2", text)
    answer = boxed(text)
    if answer is None:
        marked = _MARKED.findall(text)
        answer = marked[-1] if marked else text
    found = deque(_NUMBER.finditer(answer), 1)
    return _canonical(found[0]) if found else None


def boxed(text: str) -> str | None:
    r"""What stands in the last `\boxed{...}` whose braces close, or None."""
    opened: list[int | None] = []
    last = None
    for brace in re.finditer(r"\\boxed\{|[{}]", text):
        if brace[0] != "}":
            opened.append(brace.end() if len(brace[0]) > 1 else None)
        elif opened and (start := opened.pop()) is not None:
            last = text[start : brace.start()]
    return last


def _canonical(found: re.Match[str]) -> str | None:
    """The number as a decimal where it has an end, else as a fraction in lowest terms."""
    digits, parts = found["digits"].replace(",", ""), found["parts"] or "1"
    if len(digits) + len(parts) > _LONGEST or not int(parts):
        return None
    value = Fraction(digits) / int(parts) * Fraction(10) ** int(found["exponent"] or 0)
    negative = bool(found["minus"]) != ("-" in (found["money"] or ""))
    rest, places = value.denominator, 0
    while rest % 10 == 0 or rest % 5 == 0 or rest % 2 == 0:
        rest, places = rest // next(d for d in (10, 5, 2) if rest % d == 0), places + 1
    sign = "-" if negative and value else ""
    if rest != 1:
        return f"{sign}{value.numerator}/{value.denominator}"
    whole = str(value.numerator * 10**places // value.denominator).rjust(places + 1, "0")
    return sign + (f"{whole[:-places]}.{whole[-places:]}".rstrip("0").rstrip(".") if places else whole)


def leaders(answers: Sequence[str | None]) -> tuple[list[str], float]:
    """The answers that most samples give, the earliest first, and the share of all samples that give each of them.

    None is a sample without an answer: it counts among the samples and cannot lead. Where none has one, nobody leads,
    and the share is 0.

    Args:
        answers: one a sample, in a form in which equal answers are equal strings.
    """
    votes = Counter(answer for answer in answers if answer is not None)
    most = max(votes.values(), default=0)
    return [answer for answer, count in votes.items() if count == most], most / max(1, len(answers))


def majority(answers: Sequence[str | None]) -> tuple[str | None, float]:
    """The one answer that more samples give than any other, and their share; None where several lead, or nobody does.

    Of m independent samples that are right with probability p, all others giving one wrong answer, the majority of odd
    m is right with probability `sum over k > m/2 of C(m, k) p^k (1 - p)^(m - k)` (Condorcet 1785).
    """
    ahead, share = leaders(answers)
    return (ahead[0] if len(ahead) == 1 else None), share
