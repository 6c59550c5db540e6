"""Several models on one scale: the Bradley-Terry ratings of all pairs' win rates.

    P(i beats j) = sigmoid(r_i - r_j)

The ratings maximize the likelihood of the verdicts (Bradley and Terry 1952, Zermelo 1929), a tie being half a win for
either, with the small penalty of `accord.evaluate.ratings`. The penalty also settles what the likelihood leaves open:
ratings sum to 0, so that each is a model's log-odds against one of mean rating. Elo's scale is the same times
400 / ln 10: 400 points more are odds of 10 to 1.

The win rate that is left when length is taken away (Dubois et al. 2024, arXiv:2404.04475).

A judge that likes long answers lets a model win by saying more. A logistic regression of the verdict on the difference
of lengths says how much of the win rate that is:

    P(model wins on prompt x) = sigmoid(a + b tanh(d_x / s))        d_x = length of its answer - length of the other's

with s the standard deviation of d over the prompts. The length-controlled win rate is what it predicts for answers of
one length, sigmoid(a). It is 1/2 for a model against itself, and the two rates of a pair sum to 1.

Departures from the paper: there is no term for how hard each prompt is, which the paper estimates from the verdicts on
many models, so the rate is sigmoid(a) and no mean over prompts; each pair of models has a regression of its own;
lengths are in characters; and the penalty is a small ridge (`accord.evaluate.ratings`).

Logistic regression on fractional outcomes, fitted for many resamples at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import log

import numpy as np
from numpy.typing import NDArray

from accord.evaluate.statistics import Interval, bootstrap_values, percentile, wilson

RIDGE = 0.01
"""The penalty `RIDGE / 2 * |theta|^2`: a normal prior of standard deviation 10 on every log-odds.

It keeps outcomes that are all wins or all losses finite, and moves others by less than they can be known: a log-odds of
1 from 100 outcomes by about .0005.
"""

_STEP, _ROUNDS, _CLOSE = 2.0, 100, 1e-10
"""Newton's steps are at most so long in each parameter, at most so many, and end when all are shorter than that."""


def sigmoid(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """1 / (1 + exp(-x)), without overflow."""
    return np.exp(-np.logaddexp(0.0, -x))


def fit(
    design: NDArray[np.float64], wins: NDArray[np.float64], trials: NDArray[np.float64], *, ridge: float = RIDGE
) -> NDArray[np.float64]:
    """The theta that maximizes the penalized log-likelihood of every resample, (R, k), by Newton's method.

        sum over i of  wins_i log sigmoid(x_i . theta) + (trials_i - wins_i) log sigmoid(-x_i . theta)
            - ridge / 2 |theta|^2

    Args:
        design: (m, k), the x_i, finite.
        wins: (R, m), how much each was won in each resample, between 0 and its trials; a tie is half a win.
        trials: (R, m), how often each was tried.
        ridge: the penalty, positive, so that the maximum is finite and the only one.
    """
    squares = (design[:, :, None] * design[:, None, :]).reshape(len(design), -1)
    theta = np.zeros((len(wins), design.shape[1]))
    penalty = ridge * np.eye(design.shape[1])
    for _ in range(_ROUNDS):
        chance = sigmoid(theta @ design.T)
        slope = (wins - trials * chance) @ design - ridge * theta
        curvature = (trials * chance * (1 - chance)) @ squares
        step = np.linalg.solve(curvature.reshape(len(wins), *penalty.shape) + penalty, slope[:, :, None])[:, :, 0]
        theta += step.clip(-_STEP, _STEP)
        if np.abs(step).max(initial=0.0) < _CLOSE:
            break
    return theta


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
    replicates = bootstrap_values(ratings, n, resamples=resamples, seed=seed)
    standings = [
        Standing(name, percentile(float(estimate), column, n))
        for name, estimate, column in zip(names, estimates, replicates.T, strict=True)
    ]
    return sorted(standings, key=lambda s: -s.rating.estimate)


def length_controlled(
    wins: NDArray[np.float64], differences: NDArray[np.float64], *, resamples: int = 2000, seed: int = 0
) -> Interval | None:
    """The length-controlled win rate with its 95% interval, from refits to resamples of the prompts.

    None where all differences are equal, so that nothing tells what length did from what the models did. Where every
    verdict is a win, or every one a loss, length has decided nothing, and the rate is the win rate with Wilson's
    interval. The scale s is that of the observations in every resample.

    Args:
        wins: (n,), the judge's probability on every prompt that the model's answer beats the other's.
        differences: (n,), length of the model's answer less that of the other.
        resamples: how many refits the interval is read from.
        seed: of the resampling.
    """
    n, scale = len(wins), differences.std() if len(differences) else 0.0
    if not scale:
        return None
    if wins.min() == 1 or wins.max() == 0:
        return wilson(float(wins.sum()), n)
    design = np.stack([np.ones(n), np.tanh(differences / scale)], axis=1)

    def rate(weights: NDArray[np.float64]) -> NDArray[np.float64]:
        return sigmoid(fit(design, weights * wins, weights)[:, 0])

    replicates = bootstrap_values(rate, n, resamples=resamples, seed=seed)
    return percentile(float(rate(np.ones((1, n)))[0]), replicates, n)
