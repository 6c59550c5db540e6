"""Final answers in mathematical texts, in a canonical form in which equal answers are equal strings.

Numbers are read as benchmarks of arithmetic do; expressions by math-verify, from the `verify` extra.
"""

from __future__ import annotations

import logging
import re
import threading
from collections import deque
from decimal import Context, Decimal, Inexact
from fractions import Fraction
from typing import Any

from accord.errors import InputError

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
"""The most digits of a number; longer ones are endless repetitions by a model, and not worth the time."""
_EXACT = Context(prec=4000, traps=[Inexact])
"""Enough digits for any decimal from `_LONGEST` digits, an exponent of three and a divisor, if it terminates."""


def final_number(text: str) -> str | None:
    r"""The final number in a text, in a canonical form, or None where there is none.

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
    last = deque(_NUMBER.finditer(answer), 1)
    return _canonical_number(last[0]) if last else None


def boxed(text: str) -> str | None:
    r"""The content of the last `\boxed{...}` whose braces close, or None."""
    opened: list[int | None] = []
    last = None
    for brace in re.finditer(r"\\boxed\{|[{}]", text):
        if brace[0] != "}":
            opened.append(brace.end() if len(brace[0]) > 1 else None)
        elif opened and (start := opened.pop()) is not None:
            last = text[start : brace.start()]
    return last


def _canonical_number(match: re.Match[str]) -> str | None:
    """The number as a decimal where that terminates, else as a fraction in lowest terms."""
    digits, parts = match["digits"].replace(",", ""), match["parts"] or "1"
    if len(digits) + len(parts) > _LONGEST or not int(parts):
        return None
    value = Fraction(digits) / int(parts) * Fraction(10) ** int(match["exponent"] or 0)
    if bool(match["minus"]) != ("-" in (match["money"] or "")):
        value = -value
    try:
        return f"{_EXACT.divide(Decimal(value.numerator), Decimal(value.denominator)).normalize(_EXACT):f}"
    except Inexact:
        return str(value)


SECONDS = 5
"""The most seconds for an expression: a model can write one that takes forever."""

_AS_IT_IS = re.compile(r"\$|\\[(\[]|\\boxed|^[^\\]*[A-Za-z]{3}")
"""Answers with delimiters of their own, or with words, as in `3 dollars`; any other is a bare expression."""


def require_math_verify() -> None:
    """Raise InputError where math-verify is not installed."""
    try:
        import math_verify  # noqa: F401
    except ImportError:
        raise InputError("the verifier math needs the verify extra: pip install math-verify") from None
    logging.getLogger("math_verify").setLevel(logging.ERROR)  # its warnings about time limits need no attention


def expressions(text: str) -> list[Any]:
    """The final expression in a text, as sympy parsed it and as a string; empty where there is none."""
    from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse

    targets = [LatexExtractionConfig(boxed_match_priority=0), ExprExtractionConfig()]
    return list(parse(text, targets, parsing_timeout=_limit()))


def right_expressions(answer: str) -> list[Any] | None:
    """As `expressions`, for a right answer: a bare expression, or a solution of GSM8K's; None where there is none."""
    text = answer.rpartition("####")[2].replace(r"\$", "").strip()
    return expressions(text if _AS_IT_IS.search(text) else f"${text}$") or None


def equals(text: str, right: list[Any]) -> bool:
    """Whether the final expression in a text equals the right answer's expressions."""
    from math_verify import verify

    return bool(verify(right, expressions(text), timeout_seconds=_limit()))


def final_expression(text: str) -> str | None:
    """The final expression in a canonical form: numbers exact, other expressions expanded."""
    from math_verify.errors import TimeoutException
    from math_verify.utils import timeout

    parsed = expressions(text)
    if not parsed:
        return None
    try:
        return str(timeout(_limit())(_canonical_expression)(parsed[0]))
    except (TimeoutException, TypeError, ValueError, AttributeError):  # too long, or it cannot be expanded
        return str(parsed[0])


def _canonical_expression(expression: Any) -> Any:
    import sympy

    if isinstance(expression, sympy.Eq) and expression.lhs.is_Symbol:
        expression = expression.rhs
    return sympy.expand(sympy.nsimplify(expression.doit(), rational=True))


def _limit() -> int | None:
    """The time limit; None outside the main thread, since math-verify's limits are signals."""
    return SECONDS if threading.current_thread() is threading.main_thread() else None
