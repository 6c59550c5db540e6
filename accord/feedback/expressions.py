"""Verifying mathematics by what an expression means: math-verify, through the `verify` extra."""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Mapping
from typing import Any

from accord.errors import InputError
from accord.feedback.numbers import excerpt
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

    return Verifier("math", _answer, gold, _grade, column)


def _grade(text: str, gold: list[Any]) -> float:
    from math_verify import verify

    return float(verify(gold, _parsed(text), timeout_seconds=_limit()))


def _answer(text: str) -> str | None:
    """The final expression: numbers exactly, other expressions multiplied out."""
    from math_verify.errors import TimeoutException
    from math_verify.utils import timeout

    found = _parsed(text)
    if not found:
        return None
    try:
        return str(timeout(_limit())(_canonical)(found[0]))
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
    found: list[Any] = parse(text, targets, parsing_timeout=_limit())
    return found


def _limit() -> int | None:
    """math-verify's limits are signals, which only the main thread can have."""
    return _SECONDS if threading.current_thread() is threading.main_thread() else None
