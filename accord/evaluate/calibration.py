"""Do people agree as often as a model of preferences says they will?

The confidence of a pair is the probability the model gives to the completion that it prefers, 1/2 or more; the outcome
is whether people preferred that one too. A calibrated model is right in 70% of the pairs on which its confidence is .7.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from accord.evaluate.accuracy import Trial
from accord.evaluate.clusters import Floats, Places, bootstrap, rate, resampled
from accord.evaluate.logistic import fit
from accord.evaluate.statistics import Interval

BINS = 10
"""Bins of equal mass, as many as leave `A_BIN` pairs in each."""

A_BIN = 20
"""Pairs that a bin should have at least."""

DRAWS = 1000
"""Data sets that are drawn to see how large the error of a calibrated model would look."""


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
        if_calibrated: what `plain` would be on average for a calibrated model of these confidences.
        slope: what the log-odds should be multiplied by to fit the judgments best; below 1 the model is too sure.
    """

    bins: list[Bin]
    ece: Interval
    plain: float
    if_calibrated: float
    slope: Interval | None


def calibration(trial: Trial, chance: Floats, *, seed: int = 0) -> Calibration | None:
    """The calibration on the judgments that are no ties; None where there are none.

    The error is corrected as the bootstrap does it: what resampling adds to it once more is taken off, 2 e - mean of
    e*, with the interval between 2 e less the upper and lower quantile of e* (Davison and Hinkley 1997, section 2.1
    and equation 5.6), cut at 0. Resampled are prompts with all their pairs.

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
    count = bins_for(len(confidence))

    def error(places: Places) -> float:
        return calibration_error(confidence[places], agreed[places], count)

    plain = error(np.arange(len(confidence)))
    again = resampled(error, strict.clusters, seed=seed)
    high, low = np.quantile(again, [0.025, 0.975])
    corrected = [float(np.clip(2 * plain - e, 0, 1)) for e in (again.mean(), low, high)]
    return Calibration(
        [
            Bin(float(confidence[some].mean()), interval)
            for some in _binned(confidence, count)
            if (interval := rate(agreed[some], strict.clusters[some])) is not None
        ],
        Interval(corrected[0], min(corrected[:2]), max(corrected[0], corrected[2]), len(confidence)),
        plain,
        _if_calibrated(confidence, count, seed),
        _slope(strict, first),
    )


def bins_for(pairs: int) -> int:
    """How many bins so many pairs are shared among."""
    return int(np.clip(pairs // A_BIN, 1, BINS))


def calibration_error(confidence: Floats, agreed: Floats, bins: int) -> float:
    """The sum over bins of equal mass of their share times |mean of agreed - mean of confidence|.

    The expected calibration error of Naeini et al. (2015, AAAI, "Obtaining well calibrated probabilities using Bayesian
    binning"), with bins of equal mass instead of equal width.

    Args:
        confidence: (n,), in [0, 1].
        agreed: (n,), the outcomes, 1 or 0.
        bins: how many bins, at most n.
    """
    gap = (agreed - confidence)[np.argsort(confidence, kind="stable")]
    ends = np.cumsum([len(some) for some in np.array_split(gap, bins)])
    return float(np.abs(np.add.reduceat(gap, np.concatenate([[0], ends[:-1]]))).sum() / len(gap))


def _binned(confidence: Floats, bins: int) -> list[Places]:
    return np.array_split(np.argsort(confidence, kind="stable"), bins)


def _if_calibrated(confidence: Floats, bins: int, seed: int) -> float:
    """The mean error over outcomes drawn with exactly these confidences."""
    generator = np.random.default_rng(seed)
    draws = [(generator.random(len(confidence)) < confidence).astype(np.float64) for _ in range(DRAWS)]
    return float(np.mean([calibration_error(confidence, agreed, bins) for agreed in draws]))


def _slope(strict: Trial, first: Floats) -> Interval | None:
    """The factor of the log-odds of greatest likelihood; None where they are not finite, or no factor is best."""
    with np.errstate(divide="ignore"):
        odds = np.log(first) - np.log1p(-first)
    if not np.isfinite(odds).all():
        return None
    signed = odds * np.sign(strict.labels - 0.5)
    return bootstrap(lambda places: fitted_slope(signed[places]), strict.clusters)


def fitted_slope(signed: Floats) -> float:
    """The b of greatest likelihood, the mean of log sigmoid(b z), nearly: `logistic.fit` has a small penalty.

    NaN where all z that are not 0 have one sign, since then no finite b is best.

    Args:
        signed: (n,), z, the log-odds of what people preferred.
    """
    if not (signed.max() > 0 > signed.min()):
        return float("nan")
    size = float(np.sqrt((signed**2).mean()))  # the fit's penalty is for numbers of size 1
    once = np.ones((1, len(signed)))
    return float(fit((signed / size)[:, None], once, once)[0, 0]) / size
