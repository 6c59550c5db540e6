"""Votes: what the samples of one prompt agree on (self-consistency, Wang et al. 2023, arXiv:2203.11171)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence


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
