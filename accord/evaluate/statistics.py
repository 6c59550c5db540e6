"""Intervals for what was measured: a rate, a mean, and the mean of paired differences."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate, the confidence interval around it, and how many observations it rests on."""

    estimate: float
    low: float
    high: float
    n: int


def as_json(interval: Interval) -> dict[str, float]:
    """The interval as an object."""
    return {"estimate": interval.estimate, "low": interval.low, "high": interval.high, "n": interval.n}


def wilson(successes: float, n: int, confidence: float = 0.95) -> Interval:
    """Wilson's score interval for a rate.

    `(p + z^2/2n -+ z sqrt(p(1-p)/n + z^2/4n^2)) / (1 + z^2/n)` with p = successes / n and z the normal quantile (Wilson
    1927). It stays within [0, 1] and has a width even where all or none succeeded.

    Args:
        successes: how many of n succeeded; a tie counts half.
        n: how many there were, 1 or more.
        confidence: the coverage aimed at, in (0, 1).

    Raises:
        ValueError: there are no observations, or more successes than observations.
    """
    if n < 1:
        raise ValueError("a rate needs at least one observation")
    if not 0 <= successes <= n:
        raise ValueError(f"{successes} successes of {n} are impossible")
    rate, z = successes / n, NormalDist().inv_cdf(0.5 + _checked(confidence) / 2)
    shrink = 1 + z * z / n
    centre = (rate + z * z / (2 * n)) / shrink
    reach = z * math.sqrt(rate * (1 - rate) / n + z * z / (4 * n * n)) / shrink
    # At a rate of 0 or 1 an end is exactly the rate, which the subtraction above may miss by a rounding.
    return Interval(rate, min(rate, max(0.0, centre - reach)), max(rate, min(1.0, centre + reach)), n)


def mean_interval(values: Sequence[float] | NDArray[np.floating], *, confidence: float = 0.95) -> Interval:
    """Student's interval for a mean, `mean -+ t s / sqrt(n)` with t of n - 1 degrees of freedom.

    Exact for normal values however few, as for a score over three seeds.

    Args:
        values: (n,), independent observations, n at least 2, all finite.
        confidence: the coverage aimed at, in (0, 1).
    """
    sample = _sample(values, at_least=2)
    mean, deviation = float(sample.mean()), float(sample.std(ddof=1))
    reach = _student_quantile(_checked(confidence), len(sample) - 1) * deviation / math.sqrt(len(sample))
    return Interval(mean, mean - reach, mean + reach, len(sample))


def bootstrap_mean(
    values: Sequence[float] | NDArray[np.floating], *, confidence: float = 0.95, resamples: int = 2000, seed: int = 0
) -> Interval:
    """The percentile bootstrap interval for a mean (Efron 1979), from resamples of the observations with replacement.

    For a paired comparison pass one value a pair: the difference of two scores on one prompt, or its outcome as 1, .5
    or 0. Values that are all equal give an interval without width: for a rate near 0 or 1 use `wilson`.

    Args:
        values: (n,), independent observations, n at least 1, all finite.
        confidence: the coverage aimed at, in (0, 1).
        resamples: how many means the interval is read from.
        seed: of the resampling; the same seed gives the same interval.
    """
    sample, tail = _sample(values, at_least=1), (1 - _checked(confidence)) / 2
    generator = np.random.default_rng(seed)
    means = [sample[generator.integers(len(sample), size=len(sample))].mean() for _ in range(resamples)]
    low, high = np.quantile(means, [tail, 1 - tail])
    return Interval(float(sample.mean()), float(low), float(high), len(sample))


def _student_quantile(confidence: float, degrees: int) -> float:
    """The t with P(|T| < t) = confidence for Student's distribution.

    With T = sqrt(degrees) tan(angle) the angle's density is proportional to cos(angle)^(degrees - 1), which is smooth
    on a bounded interval; its integral is inverted on a grid that covers all but a billionth of it.
    """
    widest = min(math.pi / 2, 7 / math.sqrt(degrees))
    angles = np.linspace(0.0, widest, 20_001)
    density = np.cos(angles) ** (degrees - 1)
    cumulative = np.concatenate([[0.0], np.cumsum(density[1:] + density[:-1])])
    angle = np.interp(confidence * cumulative[-1], cumulative, angles)
    return math.sqrt(degrees) * math.tan(angle)


def _sample(values: Sequence[float] | NDArray[np.floating], at_least: int) -> NDArray[np.float64]:
    sample = np.asarray(values, dtype=np.float64)
    if sample.ndim != 1 or len(sample) < at_least:
        raise ValueError(f"an interval needs a flat list of at least {at_least} values, not shape {sample.shape}")
    if not np.isfinite(sample).all():
        raise ValueError(f"value {int(np.argmin(np.isfinite(sample))) + 1} of {len(sample)} is not finite")
    return sample


def _checked(confidence: float) -> float:
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie between 0 and 1, not {confidence}")
    return confidence
