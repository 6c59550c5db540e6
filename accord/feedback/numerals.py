r"""The final number in a text, as benchmarks of arithmetic mark it."""

from __future__ import annotations

import re
from collections import deque
from fractions import Fraction

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
