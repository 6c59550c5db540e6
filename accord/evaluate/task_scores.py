"""How one answer to a task is scored: options by a model's log-probabilities, a written answer by the right ones.

A written answer agrees with the right ones exactly, in its number, or by overlap with them (ROUGE).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, TypeAlias

from accord import feedback
from accord.errors import InputError
from accord.results.tasks import OptionScore

Metric: TypeAlias = Callable[[str, Sequence[str]], float]
"""A score in [0, 1] of an answer given the right answers, of which the nearest counts."""


def option_scores(
    logps: Sequence[float], tokens: Sequence[int], priors: Sequence[float] | None, by: OptionScore
) -> list[float]:
    """The score of each option of a prompt; the highest is the model's choice.

        sum   log pi(option | prompt)
        mean  log pi(option | prompt) / tokens of the option
        pmi   log pi(option | prompt) - log pi(option | the instruction without the row)

    `sum` is the probability that the model gives this answer and ends there. `mean` takes the advantage from short
    options, `pmi` from options that are likely whatever is asked (Holtzman et al. 2021, arXiv:2104.08315), by `priors`.
    An option's end of turn is one of its tokens.
    """
    if by == "pmi":
        if priors is None:
            raise ValueError("pmi needs the options' log-probabilities without the row")
        return [logp - prior for logp, prior in zip(logps, priors, strict=True)]
    return [logp / n if by == "mean" else logp for logp, n in zip(logps, tokens, strict=True)]


def exact(answer: str, references: Sequence[str]) -> float:
    """1 where the answer is one of the right ones, `normalized`, else 0."""
    from accord.data.examples import normalized

    return float(normalized(answer) in map(normalized, references))


def number(answer: str, references: Sequence[str]) -> float:
    """1 where the answer ends on the same number as one of the right answers (`mathematics.final_number`), else 0."""
    final_number = feedback.mathematics.final_number
    said = final_number(answer)
    return float(said is not None and said in map(final_number, references))


def rouge(kind: str) -> Metric:
    """ROUGE's F1 between the words of an answer and of the nearest right answer (Lin 2004), by the package rouge-score.

    With P the share of the answer's units that the right answer has, and R the share of the right answer's that the
    answer has, F1 = 2PR / (P + R). Units are words (rouge-1), pairs of neighboring words (rouge-2), or the longest
    common subsequence of words (rouge-l). Words are runs of a-z and 0-9 in lower case, not stemmed.

    Raises InputError where the `tasks` extra is not installed.
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

    Raises InputError where it is ROUGE, and the `tasks` extra is not installed.
    """
    return {"exact": exact, "number": number}.get(name) or rouge(name)
