"""Verifiers: rewards that compare the final answer in a completion with the one in its row.

    exact            the whole completion is the answer, apart from white space and letter case
    number           the final number equals the answer's, as GSM8K and MATH are graded
    regex:PATTERN    the last match (its first group, if it has one) is the answer, letter for letter
    math             the final expression equals the answer, by math-verify
    reasoning-gym    the score by the data set that the row came from, between 0 and 1
    constraints      the completion meets all constraints in its row (`accord.feedback.constraints`)
    truthful         1 for the answer, 0 for saying that it is not known, -1 for anything else

The answer is in the column `answer`, or in the one named after an `@`: `number@solution`, `regex@label:(yes|no)`.

Final answers can also be voted on, as equal ones are equal strings: the answer that most samples of a prompt share is
that of self-consistency (Wang et al. 2023, arXiv:2203.11171).
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import regex as timed
import torch
from torch import Tensor

from accord.data.columns import value_at
from accord.errors import InputError, located, nearest
from accord.feedback import constraints as checks
from accord.feedback import mathematics, reasoning
from accord.feedback.knowing import does_not_know, same_words
from accord.feedback.mathematics import final_number
from accord.feedback.reward import excerpt, lacking, row_named
from accord.records import Prompt, Sample

PATTERN_SECONDS = 1
"""The most seconds for a pattern: nested repetitions may take forever. (The package regex has a limit, re has none.)"""

ANSWER = "answer"
"""The default column of a row's answer."""


@dataclass(frozen=True, slots=True)
class Verifier:
    """A reward of 1 for a completion whose final answer is its row's, else 0, unless `grade` says otherwise.

    Raises InputError, naming the row and its columns, where the answer's column is missing or holds no answer.
    """

    name: str
    """Its name in messages."""
    answer: Callable[[str], str | None]
    """The final answer in a text, in a form in which equal answers are equal strings; None where there is none."""
    gold: Callable[[Mapping[str, Any]], Any]
    """The right answer in a row's columns; raises InputError where there is none."""
    grade: Callable[[str, Any], float]
    """The score of a text, given the value of `gold`."""
    column: str = ANSWER
    """The column that a row must have."""

    def __call__(self, samples: Sequence[Sample]) -> Tensor:
        gold = {id(s.prompt): self.check(s.prompt, s.row) for s in {id(s.prompt): s for s in samples}.values()}
        return torch.tensor([self.grade(s.text, gold[id(s.prompt)]) for s in samples], dtype=torch.float32)

    def check(self, prompt: Prompt, row: int) -> Any:
        """The row's right answer; InputError where it has none."""
        value = _at(prompt.columns, self.column)
        if value is None:
            there = [name for name, value in prompt.columns.items() if value is not None]
            raise lacking(f"the verifier {self.name}", self.column, there, row)
        with located(f"{row_named(row)}, for the verifier {self.name}: "):
            return self.gold({**prompt.columns, self.column: value})


def _at(columns: Mapping[str, Any], path: str) -> Any:
    """The value in a column, or at a path into one such as reward_model.ground_truth; None where there is none."""
    try:
        return value_at(columns, path)
    except InputError:
        return None


def verifier_named(spec: str) -> Verifier:
    """The verifier with a name: `number`, `exact@label`, `regex:PATTERN`, `regex@label:PATTERN`.

    Raises InputError where there is none, its pattern is missing or malformed, or its extra is not installed.
    """
    head, colon, pattern = spec.partition(":")
    name, at, column = head.partition("@")
    if name not in VERIFIERS:
        hint = nearest(name, VERIFIERS) or f": they are {', '.join(VERIFIERS)}"
        raise InputError(f"there is no verifier {name!r}{hint}")
    if at and not column:
        raise InputError(f"the verifier {spec!r} names no column after its @")
    if colon and name != "regex":
        raise InputError(f"the verifier {name} takes no pattern; write {name} instead of {spec!r}")
    return VERIFIERS[name](*([pattern] if name == "regex" else []), **({"column": column} if at else {}))


def exact(column: str = ANSWER) -> Verifier:
    """1 where the whole completion is the answer, apart from letter case and the amount of white space."""

    def answer(text: str) -> str | None:
        return " ".join(text.split()).casefold() or None

    return _compared("exact", answer, answer, column)


def number(column: str = ANSWER) -> Verifier:
    """1 where the final number in the completion equals that in the answer (`final_number`)."""
    return _compared("number", final_number, final_number, column)


def regex(pattern: str, column: str = ANSWER) -> Verifier:
    """1 where the last match of `pattern`, or its first group if it has one, is the answer, letter for letter.

    A text on which the pattern takes longer than a second has no answer.
    """
    if not pattern:
        raise InputError("the verifier regex needs a pattern: write regex:PATTERN")
    try:
        compiled = timed.compile(pattern)
    except timed.error as error:
        raise InputError(f"the pattern {pattern!r} is not a regular expression ({error})") from None

    def answer(text: str) -> str | None:
        try:
            last = deque(compiled.finditer(text, timeout=PATTERN_SECONDS), 1)
        except TimeoutError:
            return None
        return last[0][min(compiled.groups, 1)] if last else None

    return _compared(f"regex:{pattern}", answer, lambda text: text, column)


def math(column: str = ANSWER) -> Verifier:
    r"""1 where the final expression in the completion equals the answer's, by math-verify: 1/2 is `\frac{2}{4}`.

    A `\boxed{...}` takes precedence over other expressions. The answer's column may hold an expression, with or without
    dollar signs, or a solution that ends with one; for GSM8K's, what follows `####`. Each parse and each comparison is
    stopped after 5 seconds, as no answer, on POSIX's main thread; elsewhere there is no limit.

    Raises InputError where the extra is not installed, and for a row whose answer holds no expression.
    """
    mathematics.require_math_verify()
    return _compared("math", mathematics.final_expression, mathematics.right_expressions, column, mathematics.equals)


def reasoning_gym(**other: str) -> Verifier:
    """The score, in [0, 1], of the completion by the row's own data set; `accord.data.load` made the row.

    The answer is the content of the last `<answer>...</answer>`, or the whole completion without one. A scorer that
    takes longer than 5 seconds (on POSIX's main thread) or cannot read an answer gives 0.

    Raises InputError where the extra is not installed, and for a row that is not reasoning-gym's.
    """
    if other:
        raise InputError("the verifier reasoning-gym reads the columns of its own rows: give it no column")
    reasoning.require_reasoning_gym()
    return Verifier("reasoning-gym", reasoning.final_answer, reasoning.entry_of, reasoning.score, "metadata")


def constraints(column: str = "constraints") -> Verifier:
    """1 where the completion meets all constraints in its row, such as `{words: {at_most: 20}, case: lower}`.

    This is IFEval's strict prompt-level accuracy (Zhou et al. 2023, arXiv:2311.07911); `accord.feedback.constraints`
    has the checks.
    """

    def grade(text: str, right: tuple[checks.Constraint, ...]) -> float:
        return float(all(one.holds(text) for one in right))

    return Verifier(
        "constraints", lambda text: text.strip() or None, lambda columns: checks.parse(columns[column]), grade, column
    )


def truthful(column: str = ANSWER) -> Verifier:
    """1 where the completion is the answer, 0 where it says that it does not know, and -1 otherwise.

    The ternary reward of TruthRL (Wei et al. 2025, arXiv:2509.25760). A model that is right with probability p expects
    p - (1 - p) = 2p - 1 from an answer, so the optimum answers where p > 1/2, and says that it does not know where
    p < 1/2. The completion is the answer where it has exactly its words: naming all candidates is wrong, and so is
    saying nothing, which would otherwise be the easiest way not to be wrong.
    """

    def answer(text: str) -> str | None:
        spoken = " ".join(checks.words(text)).casefold()
        return None if not spoken or does_not_know(text) else spoken

    def grade(text: str, right: str) -> float:
        if same_words(text, right):
            return 1.0
        return 0.0 if does_not_know(text) else -1.0

    def right(text: str) -> str | None:
        return text if checks.words(text) else None

    return replace(_compared("truthful", answer, right, column), grade=grade)


def _compared(
    name: str,
    answer: Callable[[str], str | None],
    right: Callable[[str], Any],
    column: str,
    equals: Callable[[str, Any], bool] | None = None,
) -> Verifier:
    """A verifier that compares strings, or by `equals`: the completion's answer with `right` of the column's text."""

    def gold(columns: Mapping[str, Any]) -> Any:
        value = columns[column]
        if not isinstance(value, (str, int, float)):
            raise InputError(f"'{column}' must be text or a number, not of type {type(value).__name__}")
        answer = right(str(value))
        if answer is None:
            what = "answer" if equals is None else "expression"
            raise InputError(f"there is no {what} in '{column}' ({excerpt(repr(value))})")
        return answer

    def grade(text: str, right: Any) -> float:
        return float(answer(text) == right if equals is None else equals(text, right))

    return Verifier(name, answer, gold, grade, column)


VERIFIERS: dict[str, Callable[..., Verifier]] = {
    "exact": exact,
    "number": number,
    "regex": regex,
    "math": math,
    "reasoning-gym": reasoning_gym,
    "constraints": constraints,
    "truthful": truthful,
}
"""Verifiers by name; `math` and `reasoning-gym` need the `verify` extra."""


def leaders(answers: Sequence[str | None]) -> tuple[list[str], float]:
    """The answers that most samples give, the earliest first, and the share of samples that give each of them.

    `answers` has one entry per sample, equal strings for equal answers. None is a sample without an answer: it counts
    as a sample but cannot lead. Where no sample has an answer, there are no leaders, and the share is 0.
    """
    votes = Counter(answer for answer in answers if answer is not None)
    most = max(votes.values(), default=0)
    return [answer for answer, count in votes.items() if count == most], most / max(1, len(answers))


def majority(answers: Sequence[str | None]) -> tuple[str | None, float]:
    """The answer that more samples give than any other, and its share; None where several lead, or none does.

    With m independent samples, each right with probability p, and all others giving one wrong answer, the majority of
    an odd m is right with probability `sum over k > m/2 of C(m, k) p^k (1 - p)^(m - k)` (Condorcet 1785).
    """
    ahead, share = leaders(answers)
    return (ahead[0] if len(ahead) == 1 else None), share
