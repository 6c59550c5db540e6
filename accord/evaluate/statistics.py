"""Intervals for what was measured: a rate, a mean, the mean of paired differences, and whatever can be resampled.

Where observations hang together, as judgments of one prompt that share its completions, they are no two draws. What is
drawn again is then the prompt with all that belongs to it (the cluster bootstrap, Davison and Hinkley 1997, section
3.8); intervals that took the pairs of a ranking of four for independent would be too narrow.

`confidence` is the coverage aimed at, in (0, 1); `resamples` how many resamples an interval is read from; one `seed`
draws the same again. Values are finite; what has no value is NaN, or None.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TypeAlias

import numpy as np
import scipy

from accord.results.base import Floats as Floats
from accord.results.base import Indices as Indices
from accord.results.base import Interval, checked_confidence
from accord.results.base import numbered as numbered
from accord.results.base import wilson as wilson

Statistic: TypeAlias = Callable[[Floats], Floats]
"""From how often each observation is in each resample, (R, n), to a number a resample, (R,), NaN for none."""

RIDGE = 0.01
"""The penalty `RIDGE / 2 * |theta|^2`: a normal prior of standard deviation 10 on every log-odds.

It keeps outcomes that are all wins or all losses finite, and moves others by less than they can be known: a log-odds of
1 from 100 outcomes by about .0005.
"""

_STEP, _ROUNDS, _CLOSE = 2.0, 100, 1e-10
"""Newton's steps are at most so long in each parameter, at most so many, and end when all are shorter than that."""

FEW = 20
"""With fewer observations an interval is not to be trusted."""

_AT_ONCE = 2**21
"""Draws that are held in memory together."""


def mean_interval(values: Sequence[float] | Floats, *, confidence: float = 0.95) -> Interval:
    """Student's interval for a mean of two values or more: `mean -+ t s / sqrt(n)` with t of n - 1 degrees of freedom.

    Exact for normal values however few, as for a score over three seeds.
    """
    sample = _sample(values, at_least=2)
    mean, deviation = float(sample.mean()), float(sample.std(ddof=1))
    quantile = float(scipy.special.stdtrit(len(sample) - 1, 0.5 + checked_confidence(confidence) / 2))
    reach = quantile * deviation / math.sqrt(len(sample))
    return Interval(mean, mean - reach, mean + reach, len(sample))


def over_seeds(values: Sequence[float]) -> Interval:
    """The mean over seeds with Student's interval; of one seed itself, which no interval is known of."""
    return mean_interval(values) if len(values) > 1 else Interval(values[0], values[0], values[0], 1)


def bootstrap_mean(
    values: Sequence[float] | Floats, *, confidence: float = 0.95, resamples: int = 2000, seed: int = 0
) -> Interval:
    """The bootstrap interval for a mean of values (n,) (Efron 1979), from resamples of them with replacement.

    For a paired comparison pass one value a pair: the difference of two scores on one prompt, or its outcome as 1, .5
    or 0. Values that are all equal give an interval without width: for a rate near 0 or 1 use `wilson`. Which
    percentiles of the resampled means are its ends, `percentile` says.
    """
    sample, n = _sample(values, at_least=1), len(values)
    means = bootstrap_values(lambda weights: weights @ sample / n, n, resamples=resamples, seed=seed)
    return percentile(float(sample.mean()), means, n, confidence=confidence)


def mean_of(shares: Sequence[float] | Floats) -> Interval:
    """The mean of one share a prompt, each in [0, 1]: Wilson's interval where each is 0 or 1, else the bootstrap's."""
    if all(share in (0, 1) for share in shares):
        return wilson(float(sum(shares)), len(shares))
    return bootstrap_mean(shares)


def bootstrap_values(statistic: Callable[[Floats], Floats], n: int, *, resamples: int = 2000, seed: int = 0) -> Floats:
    """What a statistic comes to in resamples of n observations with replacement, (resamples, ...).

    It makes of how often each observation was drawn, (R, n), a value or a row of values a resample; one seed and n give
    the same resamples to every statistic.
    """
    return np.concatenate([statistic(weights) for weights in _resampled(n, resamples, seed)])


def percentile(estimate: float, replicates: Floats, n: int, *, confidence: float = 0.95) -> Interval:
    """The expanded percentile interval of a bootstrap (Hesterberg 2015, The American Statistician 69).

    Plain percentiles are too narrow for few observations: they lack the factor n / (n - 1) of the variance, and take
    the normal quantile z for Student's t. The ends are therefore the percentiles `Phi(-+ t sqrt(n / (n - 1)))`, which
    make the interval for a mean of normal values as wide as Student's. `estimate` is the statistic of n observations,
    `replicates` (R,) that of each resample.
    """
    quantile = float(scipy.special.ndtri(0.5 + checked_confidence(confidence) / 2))
    if n > 1:
        quantile = float(scipy.special.stdtrit(n - 1, 0.5 + confidence / 2)) * math.sqrt(n / (n - 1))
    tail = float(scipy.special.ndtr(-quantile))
    low, high = np.quantile(replicates, [tail, 1 - tail])
    return Interval(estimate, float(low), float(high), n)


def central(estimate: float, draws: Floats, n: int, *, confidence: float = 0.95) -> Interval:
    """The interval between the percentiles that leave (1 - confidence) / 2 of the draws (R,) of a posterior outside."""
    tail = (1 - checked_confidence(confidence)) / 2
    low, high = np.quantile(draws, [tail, 1 - tail])
    return Interval(estimate, float(low), float(high), n)


def sign_test(wins: int, losses: int) -> float:
    """The exact two-sided p of the sign test: how probable so uneven a split is, were both outcomes equally likely.

    `min(1, 2 P(X <= min(wins, losses)))` with X binomial of wins + losses trials at 1/2. Ties are left out beforehand,
    as the test has it (Dixon and Mood 1946).
    """
    return float(scipy.stats.binomtest(wins, wins + losses).pvalue) if wins + losses else 1.0


def _resampled(n: int, resamples: int, seed: int) -> Iterator[Floats]:
    """How often each of n observations is drawn in each resample, (R, n), some resamples at a time."""
    generator, most = np.random.default_rng(seed), max(1, _AT_ONCE // n)
    for start in range(0, resamples, most):
        rows = min(most, resamples - start)
        drawn = generator.integers(n, size=(rows, n)) + n * np.arange(rows)[:, None]
        yield np.bincount(drawn.ravel(), minlength=rows * n).reshape(rows, n).astype(np.float64)


def _sample(values: Sequence[float] | Floats, at_least: int) -> Floats:
    sample = np.asarray(values, dtype=np.float64)
    if sample.ndim != 1 or len(sample) < at_least:
        raise ValueError(f"an interval needs a flat list of at least {at_least} values, not shape {sample.shape}")
    if not np.isfinite(sample).all():
        raise ValueError(f"value {int(np.argmin(np.isfinite(sample))) + 1} of {len(sample)} is not finite")
    return sample


def resampled(statistic: Statistic, clusters: Indices, *, resamples: int = 1000, seed: int = 0) -> Floats:
    """The statistic of what whole clusters, drawn with replacement, hold, (resamples,)."""
    names, cluster = np.unique(clusters, return_inverse=True)
    return bootstrap_values(lambda drawn: statistic(drawn[:, cluster]), len(names), resamples=resamples, seed=seed)


def each(statistic: Callable[[Indices], float]) -> Statistic:
    """A statistic of the observations' indices, each repeated as often as its observation was drawn."""

    def of(weights: Floats) -> Floats:
        every = np.arange(weights.shape[1])
        return np.array([statistic(np.repeat(every, times)) for times in weights.astype(np.intp)])

    return of


def bootstrap(statistic: Statistic, clusters: Indices, *, resamples: int = 1000, seed: int = 0) -> Interval | None:
    """The statistic with its 95% bootstrap interval over clusters; None where the data give it no value.

    Resamples that give it none are left out. `n` is the number of observations.
    """
    estimate = float(statistic(np.ones((1, len(clusters))))[0]) if len(clusters) else float("nan")
    if np.isnan(estimate):
        return None
    values = resampled(statistic, clusters, resamples=resamples, seed=seed)
    interval = percentile(estimate, values[~np.isnan(values)], len(np.unique(clusters)))
    return replace(interval, n=len(clusters))


def rate(outcomes: Floats, clusters: Indices, *, seed: int = 0) -> Interval | None:
    """The share of outcomes (n,) that are 1, a half counted half, with a 95% interval; None where there are none.

    Wilson's where every cluster holds one outcome, else the bootstrap over clusters. Where all outcomes are equal the
    bootstrap has no width: then it is Wilson's for as many observations as there are clusters.
    """
    if not len(outcomes):
        return None
    n = len(np.unique(clusters))
    if n == len(outcomes):
        return wilson(float(outcomes.sum()), n)
    if np.ptp(outcomes) == 0:
        bounds = wilson(float(outcomes[0]) * n, n)
        return Interval(bounds.estimate, bounds.low, bounds.high, len(outcomes))
    return mean(outcomes, clusters, seed=seed)


def mean(values: Floats, clusters: Indices, *, seed: int = 0) -> Interval | None:
    """The mean with its 95% bootstrap interval over clusters; None where there are no values."""
    names, cluster = np.unique(clusters, return_inverse=True)
    sums, sizes = np.bincount(cluster, values), np.bincount(cluster)
    interval = bootstrap(lambda weights: weights @ sums / (weights @ sizes), np.arange(len(names)), seed=seed)
    return interval and replace(interval, n=len(values))


def fit_logistic(design: Floats, wins: Floats, trials: Floats, *, ridge: float = RIDGE) -> Floats:
    """The theta that maximizes the penalized log-likelihood of every resample, (R, k), by Newton's method.

    A logistic regression on fractional outcomes, fitted for many resamples at once:

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
        chance = scipy.special.expit(theta @ design.T)
        slope = (wins - trials * chance) @ design - ridge * theta
        curvature = (trials * chance * (1 - chance)) @ squares
        step = np.linalg.solve(curvature.reshape(len(wins), *penalty.shape) + penalty, slope[:, :, None])[:, :, 0]
        theta += step.clip(-_STEP, _STEP)
        if np.abs(step).max(initial=0.0) < _CLOSE:
            break
    return theta
