"""How well one written answer agrees with the right ones: exactly, in its number, or by overlap with them (ROUGE)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, TypeAlias

from accord.data.examples import normalized
from accord.errors import InputError
from accord.feedback.mathematics import final_number

Metric: TypeAlias = Callable[[str, Sequence[str]], float]
"""A score in [0, 1] of an answer beside the right answers, of which the nearest counts."""


def exact(answer: str, references: Sequence[str]) -> float:
    """1 where the answer is one of the right ones, `normalized`, else 0."""
    return float(normalized(answer) in map(normalized, references))


def number(answer: str, references: Sequence[str]) -> float:
    """1 where the answer ends on the same number as one of the right answers (`numerals.final_number`), else 0."""
    found = final_number(answer)
    return float(found is not None and found in map(final_number, references))


def rouge(kind: str) -> Metric:
    """ROUGE's F1 between the words of an answer and of the nearest right answer (Lin 2004), by the package rouge-score.

    With P the share of the answer's units that the right answer has, and R the share of the right answer's that the
    answer has, F1 = 2PR / (P + R). Units are words (rouge-1), pairs of neighboring words (rouge-2), or the longest
    common subsequence of words (rouge-l). Words are runs of a-z and 0-9 in lower case, not stemmed.

    Raises:
        InputError: the `tasks` extra is not installed.
    """
    name = kind.replace("-", "").replace("rougel", "rougeL")
    scorer = _scorer(name)
    return lambda answer, references: max(scorer.score(right, answer)[name].fmeasure for right in references)


@cache
def _scorer(name: str) -> Any:
    try:
        from rouge_score.rouge_scorer import RougeScorer
    except ImportError:
        raise InputError("ROUGE needs the tasks extra: pip install rouge-score") from None
    return RougeScorer([name])


def metric_named(name: str) -> Metric:
    """The metric of written answers that a task names.

    Raises:
        InputError: it is ROUGE, and the `tasks` extra is not installed.
    """
    return {"exact": exact, "number": number}.get(name) or rouge(name)
