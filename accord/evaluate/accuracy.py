"""How often a model of preferences agrees with held-out judgments."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from accord.evaluate.statistics import Interval, wilson


@dataclass(frozen=True, slots=True)
class Accuracy:
    """The share of pairs ordered as people ordered them, with Wilson's 95% interval; equal scores count half."""

    accuracy: Interval
    ties: int


def accuracy(scores: Sequence[Sequence[float]], ranks: Sequence[Sequence[int]]) -> Accuracy:
    """Over every pair of different rank within a row: is the score of the better one higher?

    Args:
        scores: for each row the scores of its completions.
        ranks: their ranks, 0 best; pairs of equal rank are not asked about.

    Raises:
        ValueError: no pair has different ranks.
    """
    right = ties = pairs = 0
    for row, order in zip(scores, ranks, strict=True):
        for i, better in enumerate(row):
            for j, worse in enumerate(row):
                if order[i] < order[j]:
                    pairs += 1
                    right += better > worse
                    ties += better == worse
    return Accuracy(wilson(right + ties / 2, pairs), ties)
