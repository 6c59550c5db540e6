"""Calibration of a preference model's probabilities on judgments, with the bias of its error removed.

The confidence of a pair is the probability that the model gives to the completion it prefers, 1/2 or more; the outcome
is whether people preferred that completion too. A calibrated model is right on 70% of the pairs with confidence .7.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import scipy

from accord.evaluate.accuracy import Predictions
from accord.evaluate.statistics import Floats, bootstrap, fit_logistic, mean, rate, resampled
from accord.results.comparisons import Bin, Calibration
from accord.results.intervals import Interval

BINS = 10
"""Bins of equal mass, at most, as many as leave `A_BIN` pairs in each."""

A_BIN = 20
"""Minimum number of pairs per bin."""


def calibration(predictions: Predictions, chance: Floats, *, seed: int = 0) -> Calibration | None:
    """The calibration on the judgments that are not ties; None where there are none.

    The error is the expected calibration error of Naeini et al. (2015, AAAI, "Obtaining well calibrated probabilities
    using Bayesian binning"), sum over bins of the bin's share times |frequency - confidence|, with bins of equal mass
    instead of equal width. `corrected` removes its bias, using the scatter between resamples of prompts (with all their
    pairs) in fixed bins. `chance` (P,) is the probability given to the first completion of each pair.
    """
    strict = predictions.strict
    if not len(strict.lead):
        return None
    first = chance[predictions.labels != 0.5]  # (S,), without ties
    confidence = np.maximum(first, 1 - first)  # (S,)
    agreed = np.where(first == 0.5, 0.5, np.where(first > 0.5, strict.labels, 1 - strict.labels))  # (S,)
    bins = np.array_split(np.argsort(confidence, kind="stable"), bins_for(len(confidence)))
    # Row i is judgment i's contribution to its bin's gap: the mean over rows (B,) is each bin's share of the judgments
    # times (frequency - confidence), and a weighted mean is the same for a resample.
    gaps = np.zeros((len(confidence), len(bins)))
    for i, some in enumerate(bins):
        gaps[some, i] = (agreed - confidence)[some]
    measured = gaps.sum(0) / len(gaps)  # (B,)
    # (R, B): weights (R, S) times gaps (S, B) over the size of each resample, minus the gaps of the data.
    scatter = resampled(lambda drawn: drawn @ gaps / drawn.sum(1)[:, None], strict.clusters, seed=seed) - measured
    return Calibration(
        bins=[
            Bin(confidence=float(confidence[some].mean()), frequency=interval)
            for some in bins
            if (interval := rate(agreed[some], strict.clusters[some])) is not None
        ],
        ece=replace(corrected(measured, scatter), n=len(confidence)),
        plain_ece=float(np.abs(measured).sum()),
        if_calibrated=float(np.abs(scatter).sum(1).mean()),
        slope=_slope(strict, first),
        log_loss=log_loss(strict, first),
        label_entropy=float(_cross_entropy(strict.labels, strict.labels).mean()) if strict.is_soft else None,
    )


def bins_for(pairs: int) -> int:
    """The number of bins for `pairs` pairs."""
    return int(np.clip(pairs // A_BIN, 1, BINS))


def corrected(measured: Floats, scatter: Floats) -> Interval:
    """The sum of |gaps| measured with noise, corrected for the bias due to the noise, with its interval.

    The measured sum is always above 0. The true gaps are assumed to be t times the measured ones, and t is chosen such
    that the measured sum would be the median, the upper and the lower limit of 95% of data sets (inversion of a test
    along one line). Gaps no larger than noise alone would produce have t = 0.

    With true gaps g and the noise e of one data set, the measurement is sum |g + e|. As |.| is convex, its mean over e
    exceeds sum |g|, most where g is near 0: that is the bias. The deviations of resamples from the data estimate those
    of data sets from the truth, so under g = t * measured the sums of other data sets are

        S_r(t) = sum over b of |t measured_b + scatter_rb|        r = 1 .. R

    Q_q(t), the q-quantile of S_r(t) over r, increases with t once t is large. The t with Q_q(t) = S, the measured sum,
    is the truth for which S lies at the q-quantile: q = .5 gives the estimate t S, q = .975 the lower end and q = .025
    the upper end. Where Q_q(0) >= S already, t is 0. `measured` (B,) is each bin's share of the pairs times its
    frequency minus its confidence; `scatter` (R, B) are the deviations of resamples from it.
    """
    seen = float(np.abs(measured).sum())

    def factor(quantile: float) -> float:
        """The t at which this quantile of the sums equals the measured one; 0 where it exceeds it at t = 0."""
        low, high = 0.0, 1.0

        def excess(t: float) -> float:
            sums = np.abs(t * measured + scatter).sum(1)  # (R,)
            return float(np.quantile(sums, quantile)) - seen

        if seen == 0 or excess(0.0) >= 0:
            return 0.0
        while excess(high) < 0:
            low, high = high, 2 * high
        for _ in range(20):  # bisect to a millionth of the bracket
            middle = (low + high) / 2
            low, high = (middle, high) if excess(middle) < 0 else (low, middle)
        return high

    # A calibration error is a mean distance between probabilities, at most 1.
    estimate, low, high = (min(1.0, factor(q) * seen) for q in (0.5, 0.975, 0.025))
    return Interval(estimate, low, high, 0)


def _slope(strict: Predictions, first: Floats) -> Interval | None:
    """The maximum-likelihood factor on the log-odds; None where they are infinite or no factor is best."""
    with np.errstate(divide="ignore"):
        odds = np.log(first) - np.log1p(-first)
    if not np.isfinite(odds).all():
        return None
    signed, sure = odds * np.sign(strict.labels - 0.5), np.maximum(strict.labels, 1 - strict.labels)
    return bootstrap(lambda weights: fitted_slope(weights, signed, sure), strict.clusters)


def fitted_slope(weights: Floats, signed: Floats, sure: Floats | float = 1.0) -> Floats:
    """The b that maximizes the mean of log sigmoid(b z), (R,), up to the small penalty of `fit_logistic`.

    z is `signed` (n,), the log-odds of what people preferred; `weights` (R, n) is how often each pair is in each
    resample. Where people preferred it with probability `sure` (n,), the objective is the mean of p log sigmoid(b z) +
    (1 - p) log sigmoid(-b z). NaN where all nonzero z have one sign and are certain, so that no finite b is best.
    """
    size = float(np.sqrt((signed**2).mean())) or 1.0  # the penalty is for numbers of size 1
    slopes = fit_logistic((signed / size)[:, None], weights * sure, weights)[:, 0] / size
    won, lost = (np.where(signed * sign > 0, sure, 0) + np.where(signed * sign < 0, 1 - sure, 0) for sign in (1, -1))
    return np.where((weights @ won > 0) & (weights @ lost > 0), slopes, np.nan)


def log_loss(predictions: Predictions, chance: Floats) -> Interval | None:
    """The mean of -p log q - (1 - p) log(1 - q), in nats, with the label p and q = `chance` (P,), the model's P(first).

    None where it is infinite: the model was certain and wrong.
    """
    losses = _cross_entropy(predictions.labels, chance)
    return mean(losses, predictions.clusters) if np.isfinite(losses).all() else None


def _cross_entropy(p: Floats, q: Floats) -> Floats:
    return np.asarray(-scipy.special.xlogy(p, q) - scipy.special.xlog1py(1 - p, -q))
