"""Scores of one answer to a task: options by log-probabilities, written answers by comparison with the right ones.

Written answers are compared exactly, by number, or by overlap (ROUGE). Several answers to one question are combined by
majority vote: self-consistency (Wang et al. 2023, arXiv:2203.11171).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, TypeAlias

from accord import feedback
from accord.errors import InputError
from accord.results.tasks import OptionScore

Metric: TypeAlias = Callable[[str, Sequence[str]], float]
"""A score in [0, 1] of an answer given the right answers; the best match counts."""


def option_scores(
    logps: Sequence[float], tokens: Sequence[int], priors: Sequence[float] | None, by: OptionScore
) -> list[float]:
    """The score of each option of a prompt; the highest is the model's choice.

        sum   log pi(option | prompt)
        mean  log pi(option | prompt) / tokens of the option
        pmi   log pi(option | prompt) - log pi(option | the instruction without the row)

    `sum` is the log-probability that the model gives this answer and ends there. `mean` removes the advantage of short
    options, `pmi` that of options that are likely in any case (Holtzman et al. 2021, arXiv:2104.08315), using `priors`.
    An option's end of turn is one of its tokens.
    """
    if by == "pmi":
        if priors is None:
            raise ValueError("pmi needs the options' log-probabilities without the row")
        return [logp - prior for logp, prior in zip(logps, priors, strict=True)]
    return [logp / n if by == "mean" else logp for logp, n in zip(logps, tokens, strict=True)]


def exact(answer: str, references: Sequence[str]) -> float:
    """1 where the `normalized` answer equals one of the right ones, else 0."""
    from accord.data.examples import normalized

    return float(normalized(answer) in map(normalized, references))


def number(answer: str, references: Sequence[str]) -> float:
    """1 where the answer's last number equals that of a right answer (`mathematics.final_number`), else 0."""
    final_number = feedback.mathematics.final_number
    value = final_number(answer)
    return float(value is not None and value in map(final_number, references))


def rouge(kind: str) -> Metric:
    """ROUGE's F1 between the words of an answer and of the closest right answer (Lin 2004), by the package rouge-score.

    With P the share of the answer's units that are in the right answer, and R the share of the right answer's that are
    in the answer, F1 = 2PR / (P + R). Units are words (rouge-1), pairs of neighboring words (rouge-2), or the longest
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


def spoken(metric: str, answer: str, options: Sequence[str]) -> tuple[str, str] | None:
    """An answer extracted from a text, with the key under which it equals others; None where it is invalid.

    For `options` it is the option equal to the answer, `normalized`, or the longest that it begins with, as "(A) fiber"
    begins with "(A)"; for `number` it must contain a number.
    """
    from accord.data.examples import normalized

    if metric == "options":
        same = [option for option in options if normalized(option) == normalized(answer)]
        begins = [o for o in options if re.match(rf"{re.escape(o.strip())}(?!\w)", answer.strip(), re.IGNORECASE)]
        return next(((option, option) for option in [*same, *sorted(begins, key=len, reverse=True)]), None)
    key = feedback.mathematics.final_number(answer) if metric == "number" else normalized(answer)
    return None if key is None else (answer, key)


def voted(
    answers: Sequence[tuple[str, str] | None], metric: Metric, references: Sequence[str]
) -> tuple[str | None, float]:
    """The majority answer to one question and its score; None and 0 without any answer.

    `answers` come from `spoken`. If several lead, the first is returned, and the score is the mean of theirs: the
    expected score of a random one.
    """
    first = {key: answer for answer, key in reversed([a for a in answers if a is not None])}
    ahead, _ = feedback.verifiers.leaders([None if a is None else a[1] for a in answers])
    if not ahead:
        return None, 0.0
    return first[ahead[0]], sum(metric(first[key], references) for key in ahead) / len(ahead)


def metric_named(name: str) -> Metric:
    """The metric of written answers with this name; written-out options are compared exactly.

    Raises InputError where it is ROUGE and the `tasks` extra is not installed.
    """
    return {"exact": exact, "number": number, "options": exact}.get(name) or rouge(name)
