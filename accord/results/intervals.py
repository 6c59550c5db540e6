"""Estimates with their 95% intervals: Wilson's for rates, Student's for means, both also for dependent observations.

`accord.evaluate.statistics` has those that are resampled.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from math import nan, sqrt
from typing import TypeAlias

import numpy as np
import scipy
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[np.float64]
Indices: TypeAlias = NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate with its 95% interval. `f"{interval:.2f}"` reads `0.71 [0.65, 0.77]`.

    Values of a million or more, as at a nearly open end, are shown as powers of ten.
    """

    estimate: float
    """The value measured."""
    low: float
    """The lower end."""
    high: float
    """The upper end."""
    n: int = 0
    """The number of observations."""

    def __format__(self, spec: str) -> str:
        spec = spec or ".3f"
        if spec.endswith("%"):
            low, high = (f"{100 * end:{spec[:-1]}f}" for end in (self.low, self.high))
            return f"{self.estimate:{spec}} [{low}, {high}]"
        estimate, low, high = (f"{v:{spec if abs(v) < 1e6 else '.0e'}}" for v in (self.estimate, self.low, self.high))
        return f"{estimate} [{low}, {high}]"

    def mirrored(self) -> Interval:
        """The interval of the complement, 1 - share.

        Rounded to 12 digits: 1 - 0.8625 is 0.13749999999999996, which would print as 13.7% beside 86.3%.
        """
        estimate, low, high = (round(1.0 - value, 12) for value in (self.estimate, self.high, self.low))
        return Interval(estimate, low, high, self.n)


def shown(interval: Interval | None, spec: str = ".3f") -> str:
    """An interval as text; "" for None."""
    return "" if interval is None else format(interval, spec)


def wilson(successes: float, n: float, confidence: float = 0.95) -> Interval:
    """Wilson's score interval for a rate.

    `(p + z^2/2n -+ z sqrt(p(1-p)/n + z^2/4n^2)) / (1 + z^2/n)` with p = successes / n and z the normal quantile (Wilson
    1927). It stays within [0, 1] and has positive width even at 0 or n successes. A tie counts half.

    Raises ValueError where there are no observations, or more successes than observations.
    """
    if n < 1:
        raise ValueError("a rate needs at least one observation")
    if not 0 <= successes <= n:
        raise ValueError(f"{successes} successes of {n} are impossible")
    rate, z = successes / n, float(scipy.special.ndtri(0.5 + checked_confidence(confidence) / 2))
    shrink = 1 + z * z / n
    center = (rate + z * z / (2 * n)) / shrink
    reach = z * sqrt(rate * (1 - rate) / n + z * z / (4 * n * n)) / shrink
    # At a rate of 0 or 1 an end is exactly the rate, which the subtraction above may miss by a rounding.
    return Interval(rate, min(rate, max(0.0, center - reach)), max(rate, min(1.0, center + reach)), int(n))


def cluster_mean(sums: Floats, counts: Floats) -> Interval:
    """The mean of values that are dependent within G clusters, from each cluster's sum y_g and count n_g, (G,).

        R = sum y_g / sum n_g,   s^2 = G / (G - 1) * sum (y_g - R n_g)^2 / (sum n_g)^2,   R -+ t s

    The linearized ratio estimator (Cochran 1977, Sampling Techniques, chapter 6) with Student's t of G - 1 degrees of
    freedom; with clusters of one value it is Student's interval. For a single cluster the ends are NaN. `n` is G.
    """
    clusters, total = len(sums), float(counts.sum())
    mean = float(sums.sum()) / total
    if clusters < 2:
        return Interval(mean, nan, nan, clusters)
    spread = float(np.square(sums - mean * counts).sum()) * clusters / (clusters - 1)
    reach = float(scipy.special.stdtrit(clusters - 1, 0.975)) * sqrt(spread) / total
    return Interval(mean, mean - reach, mean + reach, clusters)


def cluster_rate(sums: Floats, counts: Floats) -> Interval:
    """The share of outcomes that are 1 (a tie counts half) in clusters, from each cluster's sum and count, (G,).

    Wilson's interval at the effective sample size p(1 - p) / s^2, with the s^2 of `cluster_mean` without its factor G /
    (G - 1) (Franco et al. 2019, Journal of Survey Statistics and Methodology 7), clipped to between one and the number
    of observations; it is G where all outcomes are equal. With clusters of one outcome it is `wilson`.
    """
    total, worth = float(counts.sum()), float(len(sums))
    share = float(sums.sum()) / total
    if worth > 1 and 0 < share < 1:
        variance = float(np.square(sums - share * counts).sum()) / total**2
        worth = min(total, max(1.0, share * (1 - share) / variance)) if variance else total
    return replace(wilson(share * worth, worth), estimate=share, n=len(sums))


def numbered(labels: Sequence[Hashable]) -> Indices:
    """The cluster of every observation as an index from 0, in order of first appearance."""
    numbers: dict[Hashable, int] = {}
    return np.array([numbers.setdefault(label, len(numbers)) for label in labels], dtype=np.intp)


def checked_confidence(confidence: float) -> float:
    """The confidence level; ValueError unless it lies in (0, 1)."""
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie between 0 and 1, not {confidence}")
    return confidence
