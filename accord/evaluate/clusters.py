"""Intervals where observations hang together: judgments of one prompt share its completions, and are no two draws.

What is drawn again is then the prompt with all that belongs to it (the cluster bootstrap, Davison and Hinkley 1997,
section 3.8); intervals that took the pairs of a ranking of four for independent would be too narrow.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from accord.evaluate.statistics import Interval, percentile, wilson
from accord.evaluate.statistics import bootstrap as draw

Floats = NDArray[np.float64]
Places = NDArray[np.intp]
Statistic = Callable[[Floats], Floats]
"""From how often each observation is found in each resample, (R, n), to a number a resample, (R,), NaN for none."""


def numbered(labels: Sequence[Hashable]) -> Places:
    """The cluster of every observation as a number from 0, in the order in which they appear."""
    found: dict[Hashable, int] = {}
    return np.array([found.setdefault(label, len(found)) for label in labels], dtype=np.intp)


def resampled(statistic: Statistic, clusters: Places, *, resamples: int = 1000, seed: int = 0) -> Floats:
    """The statistic of what whole clusters, drawn with replacement, hold, (resamples,).

    Args:
        statistic: of the observations in `clusters`.
        clusters: (n,), the cluster of each observation; any numbers.
        resamples: how often they are drawn.
        seed: of the draws; the same seed draws the same.
    """
    names, cluster = np.unique(clusters, return_inverse=True)
    return draw(lambda drawn: statistic(drawn[:, cluster]), len(names), resamples=resamples, seed=seed)


def each(statistic: Callable[[Places], float]) -> Statistic:
    """A statistic of the observations' places, among which a place is found as often as it was drawn."""

    def of(weights: Floats) -> Floats:
        every = np.arange(weights.shape[1])
        return np.array([statistic(np.repeat(every, times)) for times in weights.astype(np.intp)])

    return of


def bootstrap(statistic: Statistic, clusters: Places, *, resamples: int = 1000, seed: int = 0) -> Interval | None:
    """The statistic with its 95% bootstrap interval over clusters; None where the data give it no value.

    Resamples that give it none are left out. `n` is the number of observations.
    """
    estimate = float(statistic(np.ones((1, len(clusters))))[0]) if len(clusters) else float("nan")
    if np.isnan(estimate):
        return None
    values = resampled(statistic, clusters, resamples=resamples, seed=seed)
    interval = percentile(estimate, values[~np.isnan(values)], len(np.unique(clusters)))
    return replace(interval, n=len(clusters))


def rate(outcomes: Floats, clusters: Places, *, seed: int = 0) -> Interval | None:
    """The share of outcomes that are 1, a half counted half, with a 95% interval; None where there are none.

    Wilson's where every cluster holds one outcome, else the bootstrap over clusters. Where all outcomes are equal the
    bootstrap has no width: then it is Wilson's for as many observations as there are clusters.

    Args:
        outcomes: (n,), in [0, 1].
        clusters: (n,), the cluster of each.
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


def mean(values: Floats, clusters: Places, *, seed: int = 0) -> Interval | None:
    """The mean with its 95% bootstrap interval over clusters; None where there are no values."""
    return bootstrap(lambda weights: weights @ values / weights.sum(1), clusters, seed=seed)
