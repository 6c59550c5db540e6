"""Several models on one scale: the Bradley-Terry ratings of all pairs' win rates.

    P(i beats j) = sigmoid(r_i - r_j)

The ratings maximise the likelihood of the verdicts (Bradley and Terry 1952, Zermelo 1929), a tie being half a win for
either, with the small penalty of `accord.evaluate.logistic`. The penalty also settles what the likelihood leaves open:
ratings sum to 0, so that each is a model's log-odds against one of mean rating. Elo's scale is the same times
400 / ln 10: 400 points more are odds of 10 to 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import log

import numpy as np
from numpy.typing import NDArray

from accord.evaluate.logistic import RIDGE, fit
from accord.evaluate.statistics import Interval, bootstrap, percentile

ELO = 400 / log(10)
"""Elo points a unit of log-odds."""


@dataclass(frozen=True, slots=True)
class Standing:
    """A model's rating, in log-odds over the mean of all."""

    name: str
    rating: Interval

    @property
    def elo(self) -> Interval:
        """The rating in Elo points over the mean."""
        r = self.rating
        return Interval(r.estimate * ELO, r.low * ELO, r.high * ELO, r.n)


def board(
    names: Sequence[str],
    pairs: Sequence[tuple[int, int]],
    wins: NDArray[np.float64],
    *,
    ridge: float = RIDGE,
    resamples: int = 2000,
    seed: int = 0,
) -> list[Standing]:
    """The ratings, the best first, with 95% intervals: every resample takes the same prompts for all pairs.

    Args:
        names: the K models.
        pairs: which two models each of the M pairs is of, by their places in `names`.
        wins: (M, n), the probability on every prompt that the pair's first model beats its second; NaN where there is
            no valid verdict.
        ridge: the penalty's weight.
        resamples: how many refits the intervals are read from.
        seed: of the resampling.
    """
    design = np.zeros((len(pairs), len(names)))
    for row, (first, second) in zip(design, pairs, strict=True):
        row[first], row[second] = 1.0, -1.0
    valid = ~np.isnan(wins)
    won = np.where(valid, wins, 0.0)

    def ratings(weights: NDArray[np.float64]) -> NDArray[np.float64]:
        return fit(design, weights @ won.T, weights @ valid.T, ridge=ridge)

    n = wins.shape[1]
    estimates = ratings(np.ones((1, n)))[0]
    replicates = bootstrap(ratings, n, resamples=resamples, seed=seed)
    standings = [
        Standing(name, percentile(float(estimate), column, n))
        for name, estimate, column in zip(names, estimates, replicates.T, strict=True)
    ]
    return sorted(standings, key=lambda s: -s.rating.estimate)
