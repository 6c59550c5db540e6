"""Do people agree as often as a model of preferences says they will?

The confidence of a pair is the probability the model gives to the completion that it prefers, 1/2 or more; the outcome
is whether people preferred that one too. A calibrated model is right in 70% of the pairs on which its confidence is .7.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from accord.evaluate.accuracy import Trial
from accord.evaluate.ratings import fit
from accord.evaluate.statistics import Floats, Interval, bootstrap, rate, resampled

BINS = 10
"""Bins of equal mass, as many as leave `A_BIN` pairs in each."""

A_BIN = 20
"""Pairs that a bin should have at least."""


@dataclass(frozen=True, slots=True)
class Bin:
    """Pairs of similar confidence: its mean, and how often people agreed."""

    confidence: float
    frequency: Interval


@dataclass(frozen=True, slots=True)
class Calibration:
    """The reliability curve, and how far it lies from the diagonal.

    Attributes:
        bins: from the least confident to the most.
        ece: the expected calibration error, corrected for its bias, and its 95% interval.
        plain: the same as it is usually computed, sum over bins of share * |frequency - confidence|, which is above 0
            even for a calibrated model, since frequencies of few pairs scatter.
        if_calibrated: what `plain` would be on average for a calibrated model, from that scatter alone.
        slope: what the log-odds should be multiplied by to fit the judgments best; below 1 the model is too sure.
    """

    bins: list[Bin]
    ece: Interval
    plain: float
    if_calibrated: float
    slope: Interval | None


def calibration(trial: Trial, chance: Floats, *, seed: int = 0) -> Calibration | None:
    """The calibration on the judgments that are no ties; None where there are none.

    The error is that of Naeini et al. (2015, AAAI, "Obtaining well calibrated probabilities using Bayesian binning"),
    the share of a bin times |frequency - confidence|, with bins of equal mass instead of equal width. `corrected` takes
    its bias off; what scatter there is, resamples of prompts with all their pairs show, while the bins stay.

    Args:
        trial: judgments and leads.
        chance: (P,), the probability given to the first completion of each.
        seed: of the resampling.
    """
    strict = trial.strict
    if not len(strict.lead):
        return None
    first = chance[trial.labels != 0.5]
    confidence = np.maximum(first, 1 - first)
    agreed = np.where(first == 0.5, 0.5, (first > 0.5) == (strict.labels == 1)).astype(np.float64)
    bins = np.array_split(np.argsort(confidence, kind="stable"), bins_for(len(confidence)))
    gaps = np.zeros((len(confidence), len(bins)))
    for i, some in enumerate(bins):
        gaps[some, i] = (agreed - confidence)[some]
    measured = gaps.sum(0) / len(gaps)
    scatter = resampled(lambda drawn: drawn @ gaps / drawn.sum(1)[:, None], strict.clusters, seed=seed) - measured
    return Calibration(
        [
            Bin(float(confidence[some].mean()), interval)
            for some in bins
            if (interval := rate(agreed[some], strict.clusters[some])) is not None
        ],
        replace(corrected(measured, scatter), n=len(confidence)),
        float(np.abs(measured).sum()),
        float(np.abs(scatter).sum(1).mean()),
        _slope(strict, first),
    )


def bins_for(pairs: int) -> int:
    """How many bins so many pairs are shared among."""
    return int(np.clip(pairs // A_BIN, 1, BINS))


def corrected(measured: Floats, scatter: Floats) -> Interval:
    """The sum of |gaps| that were measured with scatter: without the bias that the scatter gives it, and its interval.

    The sum is always above 0. So the true gaps are taken to be t times those measured, and t is sought at which the sum
    that was measured would be the median, the upper and the lower limit of what 95% of data sets show (the inversion of
    a test, along one line). Gaps no larger than scatter alone would make them have t = 0.

    Args:
        measured: (B,), each bin's share of the pairs times its frequency less its confidence.
        scatter: (R, B), by how much resamples of the data miss them.
    """
    seen = float(np.abs(measured).sum())

    def factor(quantile: float) -> float:
        """The t at which this quantile of the sums is the one seen, 0 where it is above that already."""
        low, high = 0.0, 1.0

        def excess(t: float) -> float:
            return float(np.quantile(np.abs(t * measured + scatter).sum(1), quantile)) - seen

        if seen == 0 or excess(0.0) >= 0:
            return 0.0
        while excess(high) < 0:
            low, high = high, 2 * high
        for _ in range(20):
            middle = (low + high) / 2
            low, high = (middle, high) if excess(middle) < 0 else (low, middle)
        return high

    estimate, low, high = (min(1.0, factor(q) * seen) for q in (0.5, 0.975, 0.025))
    return Interval(estimate, low, high, 0)


def _slope(strict: Trial, first: Floats) -> Interval | None:
    """The factor of the log-odds of greatest likelihood; None where they are not finite, or no factor is best."""
    with np.errstate(divide="ignore"):
        odds = np.log(first) - np.log1p(-first)
    if not np.isfinite(odds).all():
        return None
    signed = odds * np.sign(strict.labels - 0.5)
    return bootstrap(lambda weights: fitted_slope(weights, signed), strict.clusters)


def fitted_slope(weights: Floats, signed: Floats) -> Floats:
    """The b of greatest likelihood, the mean of log sigmoid(b z), nearly, (R,): `logistic.fit` has a small penalty.

    NaN where all z that are not 0 have one sign, since then no finite b is best.

    Args:
        weights: (R, n), how often each pair is found in each resample.
        signed: (n,), z, the log-odds of what people preferred.
    """
    size = float(np.sqrt((signed**2).mean())) or 1.0  # the penalty is for numbers of size 1
    slopes = fit((signed / size)[:, None], weights, weights)[:, 0] / size
    mixed = (weights @ (signed > 0) > 0) & (weights @ (signed < 0) > 0)
    return np.where(mixed, slopes, np.nan)
