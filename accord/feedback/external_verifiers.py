"""Verifying mathematics by what an expression means: math-verify, through the `verify` extra.

Verifying answers to the data sets of reasoning-gym, each by its own scorer, through the `verify` extra.
"""

from __future__ import annotations

import ast
import logging
import re
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

from accord.errors import InputError
from accord.feedback.judge import excerpt
from accord.feedback.verifiers import ANSWER, Verifier, text_in

_SECONDS = 5
"""A model can write an expression that no computer gets to the end of."""

_AS_IT_IS = re.compile(r"\$|\\[(\[]|\\boxed|^[^\\]*[A-Za-z]{3}")
"""Answers with delimiters of their own, or with words, as in `3 dollars`; others are an expression and no more."""


def mathematics(column: str = ANSWER) -> Verifier:
    r"""1 where the final expression in the completion equals the answer's, by math-verify: 1/2 is `\frac{2}{4}`.

    A `\boxed{...}` comes before whatever else looks like an answer. The answer's column may hold an expression, with or
    without dollar signs, or a solution that ends on one; of GSM8K's, what follows `####`. Each parse and each
    comparison stops after 5 seconds, as no answer, on POSIX's main thread; elsewhere there is no limit.

    Raises InputError where the extra is not installed, and for a row whose answer holds no expression.
    """
    try:
        import math_verify  # noqa: F401
    except ImportError:
        raise InputError("the verifier math needs the verify extra: pip install math-verify") from None
    for module in ("grader", "parser"):  # that there is no limit, or that one was reached, is nothing to report
        logging.getLogger(f"math_verify.{module}").setLevel(logging.ERROR)

    def gold(columns: Mapping[str, Any]) -> list[Any]:
        text = text_in(columns, column).rpartition("####")[2].replace(r"\$", "").strip()
        found = _parsed(text if _AS_IT_IS.search(text) else f"${text}$")
        if not found:
            raise InputError(f"there is no expression in '{column}' ({excerpt(repr(columns[column]))})")
        return found

    return Verifier("math", _math_answer, gold, _grade_math, column)


def _grade_math(text: str, gold: list[Any]) -> float:
    from math_verify import verify

    return float(verify(gold, _parsed(text), timeout_seconds=_math_limit()))


def _math_answer(text: str) -> str | None:
    """The final expression: numbers exactly, other expressions multiplied out."""
    from math_verify.errors import TimeoutException
    from math_verify.utils import timeout

    found = _parsed(text)
    if not found:
        return None
    try:
        return str(timeout(_math_limit())(_canonical)(found[0]))
    except (TimeoutException, TypeError, ValueError, AttributeError):  # too long, or nothing to multiply out
        return str(found[0])


def _canonical(expression: Any) -> Any:
    import sympy

    if isinstance(expression, sympy.Eq) and expression.lhs.is_Symbol:
        expression = expression.rhs
    return sympy.expand(sympy.nsimplify(expression.doit(), rational=True))


def _parsed(text: str) -> list[Any]:
    """The final expression in a text, as sympy has it and as it was written; empty where there is none."""
    from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse

    targets = [LatexExtractionConfig(boxed_match_priority=0), ExprExtractionConfig()]
    found: list[Any] = parse(text, targets, parsing_timeout=_math_limit())
    return found


def _math_limit() -> int | None:
    """math-verify's limits are signals, which only the main thread can have."""
    return _SECONDS if threading.current_thread() is threading.main_thread() else None


_TAGGED = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)


def reasoning_gym() -> Verifier:
    """The score, in [0, 1], that a row's own data set gives the completion: `accord.data.load` made the row.

    The answer is what stands in the last `<answer>...</answer>`, or the whole completion where there is none. Some
    scorers run an answer as Python code, which the words of a model must not be: theirs get only answers that are
    arithmetic or lists and call nothing (`GUARDS`). A scorer that takes longer than 5 seconds (on POSIX's main thread)
    or cannot read an answer gives 0.

    Raises InputError where the extra is not installed, and for a row that is none of reasoning-gym's.
    """
    try:
        import reasoning_gym  # noqa: F401
    except ImportError:
        raise InputError("the verifier reasoning-gym needs the verify extra: pip install reasoning-gym") from None
    return Verifier("reasoning-gym", _puzzle_answer, _entry, _grade_puzzle, "metadata")


def _puzzle_answer(text: str) -> str | None:
    tagged = _TAGGED.findall(text)
    return (tagged[-1] if tagged else text).strip() or None


def _entry(columns: Mapping[str, Any]) -> Mapping[str, Any]:
    """The row as the scorer reads it, refused where the scorer would run what it holds."""
    from reasoning_gym.factory import DATASETS

    metadata = columns["metadata"]
    name = metadata.get("source_dataset") if isinstance(metadata, Mapping) else None
    if not isinstance(name, str) or name not in DATASETS or name == "composite":
        raise InputError("its metadata name no data set of reasoning-gym, so read it as --data reasoning-gym:NAME")
    entry = {"question": columns.get("question"), "answer": columns.get("answer"), "metadata": metadata}
    key, harmless = _RUN_OF_ROWS.get(name, ("", _calls_nothing))
    value = (entry if key == "answer" else metadata).get(key, "")
    if not isinstance(value, str) or not harmless(value):
        raise InputError(f"its {key} is none that {name} has, and reasoning-gym would run it as a program")
    return entry


def _grade_puzzle(text: str, entry: Mapping[str, Any]) -> float:
    name, answer = entry["metadata"]["source_dataset"], _puzzle_answer(text)
    if answer is not None and name in GUARDS and not GUARDS[name](answer):
        answer = None
    try:
        with _limit(_SECONDS):
            return float(_scorer(name)(answer, entry))
    except Exception:  # scorers raise whatever their parsing of a wrong answer raises
        return 0.0


@lru_cache
def _scorer(name: str) -> Callable[[str | None, Mapping[str, Any]], float]:
    from reasoning_gym import get_score_answer_fn

    return get_score_answer_fn(name)


def _is_arithmetic(answer: str) -> bool:
    """Numbers and the four operations: nothing that could run for ever either."""
    return re.fullmatch(r"(?:[\d\s.+\-/()]|\*(?!\s*\*))*", answer) is not None


def _is_algebra(answer: str) -> bool:
    """Numbers, single letters, elementary functions, operations and small powers."""
    if not answer.isascii() or re.search(rf"[^A-Za-z\d\s.+\-*/^(),]|\.\s*[A-Za-z]|\*\s*\*(?!{_POWER})", answer):
        return False
    return all(len(name) == 1 or _FUNCTION.fullmatch(name) for name in re.findall(r"[A-Za-z]\w*", answer))


def _calls_nothing(answer: str) -> bool:
    """Not Python at all, or a literal, or names and literals in brackets, joined by operators."""
    try:
        nodes = ast.walk(ast.parse(answer.strip(), mode="eval"))
        return all(isinstance(node, _INERT) for node in nodes)
    except (SyntaxError, ValueError):
        return True
    except (MemoryError, RecursionError):
        return False


def _is_bitwise(problem: str) -> bool:
    return re.fullmatch(r"(?:0x[\da-f]+|[\d\s+\-()]|<<|>>|\*(?!\s*\*))*", problem) is not None


def _has_no_long_number(answer: str) -> bool:
    return re.search(r"\d{4}", answer) is None


_POWER = r"\s*(?:-?\d{1,2}\b|\(\s*-?\d{1,2}(?:\s*/\s*\d{1,2})?\s*\))(?!\s*\*\s*\*)"
_FUNCTION = re.compile("a?(?:sin|cos|tan)h?|sec|csc|cot|exp|log|ln|sqrt|pi|Abs")
_INERT = (ast.Expression, ast.expr_context, ast.Constant, ast.Name, ast.List, ast.Tuple, ast.UnaryOp, ast.USub)

GUARDS: dict[str, Callable[[str], bool]] = {
    "binary_matrix": _calls_nothing,
    "countdown": _is_arithmetic,
    "intermediate_integration": _is_algebra,
    "n_queens": _calls_nothing,
    "polynomial_multiplication": _is_algebra,
    "puzzle24": _is_arithmetic,
    "rubiks_cube": _has_no_long_number,
    "simple_integration": _is_algebra,
    "spiral_matrix": _calls_nothing,
    "string_insertion": _calls_nothing,
}
"""The data sets whose scorers evaluate answers (or repeat a move as often as told), and what an answer may be."""

_RUN_OF_ROWS: dict[str, tuple[str, Callable[[str], bool]]] = {
    "bitwise_arithmetic": ("problem", _is_bitwise),
    "intermediate_integration": ("integrand", _is_algebra),
    "number_sorting": ("answer", _calls_nothing),
    "polynomial_multiplication": ("answer", _is_algebra),
    "simple_integration": ("integrand", _is_algebra),
}
"""The data sets whose scorers evaluate a part of the row too, which part that is, and what it may be."""


@contextmanager
def _limit(seconds: float) -> Iterator[None]:
    """Raise TimeoutError in what takes longer, and again every second, as scorers may catch it.

    Without effect where there are no alarms, as on any thread but the main one.
    """
    if not hasattr(signal, "setitimer") or threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(*_: object) -> None:
        raise TimeoutError

    before, left = signal.signal(signal.SIGALRM, stop), signal.setitimer(signal.ITIMER_REAL, seconds, 1)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, *left)
        signal.signal(signal.SIGALRM, before)
