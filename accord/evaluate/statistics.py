"""Confidence intervals for rates, means, paired differences, and any statistic that can be resampled.

Dependent observations, such as judgments of one prompt that share its completions, form a cluster. The bootstrap then
resamples whole clusters (Davison and Hinkley 1997, section 3.8); intervals that treated the pairs of a ranking of four
as independent would be too narrow.

`confidence` is the nominal coverage, in (0, 1); `resamples` the number of bootstrap resamples; a `seed` makes them
reproducible. Values are finite; missing ones are NaN or None.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TypeAlias

import numpy as np
import scipy

from accord.results.intervals import Floats as Floats
from accord.results.intervals import Indices as Indices
from accord.results.intervals import Interval, checked_confidence
from accord.results.intervals import numbered as numbered
from accord.results.intervals import wilson as wilson

Statistic: TypeAlias = Callable[[Floats], Floats]
"""From how often each observation is in each resample, (R, n), to one number per resample, (R,), NaN for none."""

RIDGE = 0.01
"""The penalty `RIDGE / 2 * |theta|^2`: a normal prior of standard deviation 10 on every log-odds.

It keeps estimates finite where outcomes are all wins or all losses, and moves others by much less than their
uncertainty: a log-odds of 1 from 100 outcomes by about .0005.
"""

_STEP, _ROUNDS, _CLOSE = 2.0, 100, 1e-10
"""Newton's method: maximum step per parameter, maximum number of steps, and the step size at which it ends."""

FEW = 20
"""Intervals from fewer observations are unreliable."""

_AT_ONCE = 2**21
"""Maximum number of draws held in memory together."""


def mean_interval(values: Sequence[float] | Floats, *, confidence: float = 0.95) -> Interval:
    """Student's interval for the mean of two or more values: `mean -+ t s / sqrt(n)` with n - 1 degrees of freedom.

    Exact for normal values in any number, as for a score over three seeds.
    """
    sample = _sample(values, at_least=2)
    mean, deviation = float(sample.mean()), float(sample.std(ddof=1))
    quantile = float(scipy.special.stdtrit(len(sample) - 1, 0.5 + checked_confidence(confidence) / 2))
    reach = quantile * deviation / math.sqrt(len(sample))
    return Interval(mean, mean - reach, mean + reach, len(sample))


def over_seeds(values: Sequence[float]) -> Interval:
    """The mean over seeds with Student's interval; a single seed gives an interval of zero width."""
    return mean_interval(values) if len(values) > 1 else Interval(values[0], values[0], values[0], 1)


def bootstrap_mean(
    values: Sequence[float] | Floats, *, confidence: float = 0.95, resamples: int = 2000, seed: int = 0
) -> Interval:
    """The bootstrap interval for the mean of values (n,) (Efron 1979).

    For a paired comparison pass one value per pair: the difference of two scores on one prompt, or its outcome as 1, .5
    or 0. Equal values give an interval of zero width: for a rate near 0 or 1 use `wilson`. `percentile` defines the
    ends.
    """
    sample, n = _sample(values, at_least=1), len(values)
    means = bootstrap_values(lambda weights: weights @ sample / n, n, resamples=resamples, seed=seed)
    return percentile(float(sample.mean()), means, n, confidence=confidence)


def mean_of(shares: Sequence[float] | Floats) -> Interval:
    """The mean of one share per prompt, each in [0, 1]: Wilson's interval if all are 0 or 1, else the bootstrap's."""
    if all(share in (0, 1) for share in shares):
        return wilson(float(sum(shares)), len(shares))
    return bootstrap_mean(shares)


def bootstrap_values(statistic: Callable[[Floats], Floats], n: int, *, resamples: int = 2000, seed: int = 0) -> Floats:
    """A statistic on resamples of n observations with replacement, (resamples, ...).

    The statistic gets how often each observation was drawn, (R, n), and returns a value or a row of values per
    resample. The same seed and n give the same resamples to every statistic.
    """
    return np.concatenate([statistic(weights) for weights in _resampled(n, resamples, seed)])


def percentile(estimate: float, replicates: Floats, n: int, *, confidence: float = 0.95) -> Interval:
    """The expanded percentile interval of a bootstrap (Hesterberg 2015, The American Statistician 69).

    Plain percentiles are too narrow for few observations: they lack the factor n / (n - 1) of the variance and use the
    normal quantile z in place of Student's t. The ends are therefore the percentiles `Phi(-+ t sqrt(n / (n - 1)))`,
    which make the interval for a mean of normal values as wide as Student's. `estimate` is the statistic of the n
    observations, `replicates` (R,) that of each resample.
    """
    quantile = float(scipy.special.ndtri(0.5 + checked_confidence(confidence) / 2))
    if n > 1:
        quantile = float(scipy.special.stdtrit(n - 1, 0.5 + confidence / 2)) * math.sqrt(n / (n - 1))
    tail = float(scipy.special.ndtr(-quantile))
    low, high = np.quantile(replicates, [tail, 1 - tail])
    return Interval(estimate, float(low), float(high), n)


def central(estimate: float, draws: Floats, n: int, *, confidence: float = 0.95) -> Interval:
    """The central credible interval of posterior draws (R,): (1 - confidence) / 2 lie outside at either end."""
    tail = (1 - checked_confidence(confidence)) / 2
    low, high = np.quantile(draws, [tail, 1 - tail])
    return Interval(estimate, float(low), float(high), n)


def sign_test(wins: int, losses: int) -> float:
    """The exact two-sided p-value of the sign test: P(a split at least so uneven) if both outcomes are equally likely.

    `min(1, 2 P(X <= min(wins, losses)))` with X binomial of wins + losses trials at 1/2. Ties are left out beforehand,
    as in the test (Dixon and Mood 1946).
    """
    return float(scipy.stats.binomtest(wins, wins + losses).pvalue) if wins + losses else 1.0


def _resampled(n: int, resamples: int, seed: int) -> Iterator[Floats]:
    """How often each of n observations is drawn in each resample, (R, n), in chunks of resamples."""
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
    """The statistic on resamples of whole clusters, (resamples,)."""
    names, cluster = np.unique(clusters, return_inverse=True)
    return bootstrap_values(lambda drawn: statistic(drawn[:, cluster]), len(names), resamples=resamples, seed=seed)


def each(statistic: Callable[[Indices], float]) -> Statistic:
    """A `Statistic` from a function of the drawn observations' indices, each repeated as often as drawn."""

    def of(weights: Floats) -> Floats:
        every = np.arange(weights.shape[1])
        return np.array([statistic(np.repeat(every, times)) for times in weights.astype(np.intp)])

    return of


def bootstrap(statistic: Statistic, clusters: Indices, *, resamples: int = 1000, seed: int = 0) -> Interval | None:
    """The statistic with its 95% bootstrap interval over clusters; None where it is NaN on the data.

    Resamples where it is NaN are left out. `n` is the number of observations.
    """
    estimate = float(statistic(np.ones((1, len(clusters))))[0]) if len(clusters) else float("nan")
    if np.isnan(estimate):
        return None
    values = resampled(statistic, clusters, resamples=resamples, seed=seed)
    interval = percentile(estimate, values[~np.isnan(values)], len(np.unique(clusters)))
    return replace(interval, n=len(clusters))


def rate(outcomes: Floats, clusters: Indices, *, seed: int = 0) -> Interval | None:
    """The share of outcomes (n,) that are 1 (a half counts half), with a 95% interval; None where there are none.

    Wilson's interval where every cluster holds one outcome, else the bootstrap over clusters. If all outcomes are equal
    the bootstrap has zero width: then it is Wilson's for as many observations as there are clusters.
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
        wins: (R, m), the wins of each in each resample, between 0 and its trials; a tie is half a win.
        trials: (R, m), the trials of each.
        ridge: the penalty, positive, so that there is a unique finite maximum.
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
