"""Answers to the data sets of reasoning-gym, each scored by the data set's own scorer, from the `verify` extra.

Some scorers run an answer as Python code, which must not be done with text from a model: these get only answers that
are arithmetic or lists and call nothing (`GUARDS`).
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

from accord.errors import InputError
from accord.limits import within

SECONDS = 5
"""The most seconds for a scorer; beyond it the score is 0."""

_TAGGED = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)


def require_reasoning_gym() -> None:
    """Raise InputError where reasoning-gym is not installed."""
    try:
        import reasoning_gym  # noqa: F401
    except ImportError:
        raise InputError("the verifier reasoning-gym needs the verify extra: pip install reasoning-gym") from None


def final_answer(text: str) -> str | None:
    """The content of the last `<answer>...</answer>`, or the whole text without one; None where that is empty."""
    tagged = _TAGGED.findall(text)
    return (tagged[-1] if tagged else text).strip() or None


def entry_of(columns: Mapping[str, Any]) -> Mapping[str, Any]:
    """The row as the scorer reads it; InputError where the scorer would run parts of the row as code."""
    from reasoning_gym.factory import DATASETS

    metadata = columns["metadata"]
    name = metadata.get("source_dataset") if isinstance(metadata, Mapping) else None
    if not isinstance(name, str) or name not in DATASETS or name == "composite":
        raise InputError("its metadata name no data set of reasoning-gym; read the rows by --data reasoning-gym:NAME")
    entry = {"question": columns.get("question"), "answer": columns.get("answer"), "metadata": metadata}
    key, harmless = _RUN_OF_ROWS.get(name, ("", _calls_nothing))
    value = (entry if key == "answer" else metadata).get(key, "")
    if not isinstance(value, str) or not harmless(value):
        raise InputError(f"its {key} is not of the form that {name} has, and reasoning-gym would run it as a program")
    return entry


def score(text: str, entry: Mapping[str, Any]) -> float:
    """The score, in [0, 1], of the text by the row's own data set; 0 where no answer can be read."""
    name, answer = entry["metadata"]["source_dataset"], final_answer(text)
    if answer is not None and name in GUARDS and not GUARDS[name](answer):
        answer = None
    try:
        with within(SECONDS):
            return float(_scorer(name)(answer, entry))
    except Exception:  # scorers raise errors of many kinds on malformed answers
        return 0.0


@lru_cache
def _scorer(name: str) -> Callable[[str | None, Mapping[str, Any]], float]:
    from reasoning_gym import get_score_answer_fn

    return get_score_answer_fn(name)


def _is_algebra(answer: str) -> bool:
    """Whether it has only numbers, single letters, elementary functions, operations and small powers."""
    if not answer.isascii() or re.search(rf"[^A-Za-z\d\s.+\-*/^(),]|\.\s*[A-Za-z]|\*\s*\*(?!{_POWER})", answer):
        return False
    return all(len(name) == 1 or _FUNCTION.fullmatch(name) for name in re.findall(r"[A-Za-z]\w*", answer))


def _calls_nothing(answer: str) -> bool:
    """Whether it is not Python at all, or only literals and names in brackets, joined by operators."""
    try:
        return all(isinstance(node, _INERT) for node in ast.walk(ast.parse(answer.strip(), mode="eval")))
    except (SyntaxError, ValueError):
        return True
    except (MemoryError, RecursionError):
        return False


_ARITHMETIC = re.compile(r"(?:[\d\s.+\-/()]|\*(?!\s*\*))*")
"""Numbers and the four operations; without powers, which could run forever."""
_BITWISE = re.compile(r"(?:0x[\da-f]+|[\d\s+\-()]|<<|>>|\*(?!\s*\*))*")
_NO_LONG_NUMBER = re.compile(r"(?:(?!\d{4}).)*", re.DOTALL)
_POWER = r"\s*(?:-?\d{1,2}\b|\(\s*-?\d{1,2}(?:\s*/\s*\d{1,2})?\s*\))(?!\s*\*\s*\*)"
_FUNCTION = re.compile("a?(?:sin|cos|tan)h?|sec|csc|cot|exp|log|ln|sqrt|pi|Abs")
_INERT = (ast.Expression, ast.expr_context, ast.Constant, ast.Name, ast.List, ast.Tuple, ast.UnaryOp, ast.USub)

GUARDS: dict[str, Callable[[str], object]] = {
    "binary_matrix": _calls_nothing,
    "countdown": _ARITHMETIC.fullmatch,
    "intermediate_integration": _is_algebra,
    "n_queens": _calls_nothing,
    "polynomial_multiplication": _is_algebra,
    "puzzle24": _ARITHMETIC.fullmatch,
    "rubiks_cube": _NO_LONG_NUMBER.fullmatch,
    "simple_integration": _is_algebra,
    "spiral_matrix": _calls_nothing,
    "string_insertion": _calls_nothing,
}
"""Data sets whose scorers evaluate answers (or repeat a move as often as one says), and the answers they may get."""

_RUN_OF_ROWS: dict[str, tuple[str, Callable[[str], object]]] = {
    "bitwise_arithmetic": ("problem", _BITWISE.fullmatch),
    "intermediate_integration": ("integrand", _is_algebra),
    "number_sorting": ("answer", _calls_nothing),
    "polynomial_multiplication": ("answer", _is_algebra),
    "simple_integration": ("integrand", _is_algebra),
}
"""Data sets whose scorers also evaluate a part of the row, the key of that part, and the values it may have."""
