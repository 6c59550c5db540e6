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
    return pairwise_accuracy([[[(a > b) - (a < b) for b in row] for a in row] for row in scores], ranks)


def pairwise_accuracy(leads: Sequence[Sequence[Sequence[float]]], ranks: Sequence[Sequence[int]]) -> Accuracy:
    """The same of a model that compares completions without scoring them.

    Args:
        leads: for each row the lead of its completion i over j at [i][j], such as the log-odds; 0 where neither leads.
        ranks: as in `accuracy`.
    """
    right = ties = pairs = 0
    for row, order in zip(leads, ranks, strict=True):
        for i, over in enumerate(row):
            for j, lead in enumerate(over):
                if order[i] < order[j]:
                    pairs += 1
                    right += lead > 0
                    ties += lead == 0
    return Accuracy(wilson(right + ties / 2, pairs), ties)
