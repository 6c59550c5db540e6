"""A trial: how often a model of preferences agrees with held-out judgments, where, and how well calibrated it is.

The confidence of a pair is the probability the model gives to the completion that it prefers, 1/2 or more; the outcome
is whether people preferred that one too. A calibrated model is right in 70% of the pairs on which its confidence is .7.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import scipy

from accord.evaluate.statistics import Floats, Indices, bootstrap, each, fit_logistic, mean, numbered, rate, resampled
from accord.records import Text
from accord.results.base import Interval
from accord.results.comparisons import Bin, Calibration, Part

if TYPE_CHECKING:
    from accord.data.judgments import Judgment

MARGINS = 4
"""Parts of equal size by how far one completion leads the other."""

EQUAL = 0.1
"""Completions whose lengths differ by no more than this share of the longer one's are about equally long."""

BINS = 10
"""Bins of equal mass, as many as leave `A_BIN` pairs in each."""

A_BIN = 20
"""Pairs that a bin should have at least."""


@dataclass(frozen=True)
class Trial:
    """Judgments, and the lead of the first completion over the second in each, (P,), finite.

    `clusters` says which judgments hang together: those of one prompt, as they share its completions; of rows without
    a prompt, or where there is only one, those of one row.
    """

    judgments: Sequence[Judgment]
    lead: Floats

    @cached_property
    def labels(self) -> Floats:
        """1 where people preferred the first, 0 the second, .5 neither; or the probability that the first is better."""
        return np.array([j.label for j in self.judgments])

    @property
    def is_soft(self) -> bool:
        """Whether some labels are probabilities."""
        return not np.isin(self.labels, (0.0, 0.5, 1.0)).all()

    @cached_property
    def clusters(self) -> Indices:
        prompts = numbered([j.prompt or ("", j.row) for j in self.judgments])
        return prompts if len(np.unique(prompts)) > 1 else numbered([j.row for j in self.judgments])

    @cached_property
    def strict(self) -> Trial:
        """The judgments that are no ties."""
        return self.where(self.labels != 0.5)

    @cached_property
    def margin(self) -> Floats:
        """The lead of the completion that people preferred."""
        return self.lead * np.sign(self.labels - 0.5)

    @cached_property
    def right(self) -> Floats:
        """1 where that completion leads, 0 where it trails, .5 where neither leads."""
        return 0.5 + 0.5 * np.sign(self.margin)

    @cached_property
    def lengths(self) -> Floats:
        """The characters of the first completion and of the second, (P, 2)."""
        return np.array([(length(j.first), length(j.second)) for j in self.judgments], dtype=np.float64).reshape(-1, 2)

    def where(self, chosen: np.ndarray) -> Trial:
        """The judgments with these indices, or where this is true."""
        indices = np.arange(len(self.judgments))[chosen]
        return Trial([self.judgments[i] for i in indices], self.lead[indices])

    @cached_property
    def weights(self) -> Floats:
        """What makes up for having drawn some judgments sooner than others; 1 where the data do not say."""
        return np.array([j.weight for j in self.judgments])

    def accuracy(self) -> Interval | None:
        """The share of strict judgments whose better completion leads, an equal lead counted half; None without any.

        Where judgments have weights it is their weighted mean.
        """
        strict = self.strict
        if (strict.weights == 1).all():
            return rate(strict.right, strict.clusters)
        right = strict.weights * strict.right
        return bootstrap(lambda drawn: drawn @ right / (drawn @ strict.weights), strict.clusters)


def by_margin(trial: Trial, parts: int = MARGINS) -> list[Part]:
    """The accuracy by how far one completion leads, in parts of equal size, from the closest to the clearest."""
    strict = trial.strict
    size = np.abs(strict.lead)
    shares = [share for share in np.array_split(np.argsort(size, kind="stable"), parts) if len(share)]
    return [_part(f"{size[share[0]]:.2f} to {size[share[-1]]:.2f}", strict.where(share)) for share in shares]


def by_length(trial: Trial) -> list[Part]:
    """The accuracy where people preferred the longer completion, one about as long as the other, and the shorter."""
    strict = trial.strict
    longer = (strict.lengths[:, 0] - strict.lengths[:, 1]) * np.sign(strict.labels - 0.5)
    unequal = np.abs(longer) > EQUAL * strict.lengths.max(1, initial=0)
    parts = {"chosen longer": unequal & (longer > 0), "about equal": ~unequal, "chosen shorter": unequal & (longer < 0)}
    return [_part(label, strict.where(some)) for label, some in parts.items() if some.any()]


def by_source(trial: Trial) -> list[Part]:
    """The accuracy on the judgments of every source, where rows name any, the most frequent first."""
    strict = trial.strict
    named = np.array([j.source for j in strict.judgments])
    sources, counts = np.unique(named[named != ""], return_counts=True)
    return [
        _part(str(source), strict.where(named == source))
        for source, _ in sorted(zip(sources, counts, strict=True), key=lambda s: (-s[1], s[0]))
    ]


def nearer_on_ties(trial: Trial) -> Interval | None:
    """The chance that the lead is smaller on a pair that people tied than on one they did not; None without both.

    It is 1/2 for whatever knows nothing of ties and 1 for what sets them all apart (the area under the curve of Mann
    and Whitney), whatever the unit of the lead.
    """
    size, tied = np.abs(trial.lead), trial.labels == 0.5

    def chance(drawn: Indices) -> float:
        ties, others = size[drawn[tied[drawn]]], np.sort(size[drawn[~tied[drawn]]])
        if not len(ties) or not len(others):
            return float("nan")
        above = len(others) - np.searchsorted(others, ties, "right")
        equal = len(others) - np.searchsorted(others, ties, "left") - above
        return float((above + equal / 2).mean() / len(others))

    return bootstrap(each(chance), trial.clusters)


def length_correlation(trial: Trial) -> Interval | None:
    """Spearman's correlation of the lead with the difference in length; None where either never varies.

    Both are differences within one prompt, so prompts that ask for longer answers and have higher scores add nothing.
    Every pair enters in both orders, so that it does not matter which completion the data put first.
    """
    longer = trial.lengths[:, 0] - trial.lengths[:, 1]

    def correlation(drawn: Indices) -> float:
        lead, length = (np.concatenate([v[drawn], -v[drawn]]) for v in (trial.lead, longer))
        if not np.ptp(lead) or not np.ptp(length):
            return float("nan")
        return float(scipy.stats.spearmanr(lead, length).statistic)

    return bootstrap(each(correlation), trial.clusters)


def length(text: Text) -> int:
    """The characters of a completion; of a chat, of what the assistant says in it."""
    return len(text) if isinstance(text, str) else sum(len(m.content) for m in text if m.role == "assistant")


def _part(label: str, trial: Trial) -> Part:
    interval = trial.accuracy()
    assert interval is not None  # no part is empty
    return Part(label=label, accuracy=interval)


def calibration(trial: Trial, chance: Floats, *, seed: int = 0) -> Calibration | None:
    """The calibration on the judgments that are no ties; None where there are none.

    The error is that of Naeini et al. (2015, AAAI, "Obtaining well calibrated probabilities using Bayesian binning"),
    the share of a bin times |frequency - confidence|, with bins of equal mass instead of equal width. `corrected` takes
    its bias off; what scatter there is, resamples of prompts with all their pairs show, while the bins stay. `chance`
    (P,) is the probability given to the first completion of each pair.
    """
    strict = trial.strict
    if not len(strict.lead):
        return None
    first = chance[trial.labels != 0.5]  # (S,), of the judgments that are no ties
    confidence = np.maximum(first, 1 - first)  # (S,)
    agreed = np.where(first == 0.5, 0.5, np.where(first > 0.5, strict.labels, 1 - strict.labels))  # (S,)
    bins = np.array_split(np.argsort(confidence, kind="stable"), bins_for(len(confidence)))
    # Row i holds what judgment i adds to its own bin's gap, so that the mean over rows is (B,), each bin's share of the
    # judgments times its frequency less its confidence, and a weighted mean is the same of a resample.
    gaps = np.zeros((len(confidence), len(bins)))
    for i, some in enumerate(bins):
        gaps[some, i] = (agreed - confidence)[some]
    measured = gaps.sum(0) / len(gaps)  # (B,)
    # (R, B): weights (R, S) times gaps (S, B), over the judgments of each resample, less what the data show.
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
    """How many bins so many pairs are shared among."""
    return int(np.clip(pairs // A_BIN, 1, BINS))


def corrected(measured: Floats, scatter: Floats) -> Interval:
    """The sum of |gaps| that were measured with scatter: without the bias that the scatter gives it, and its interval.

    The sum is always above 0. So the true gaps are taken to be t times those measured, and t is sought at which the sum
    that was measured would be the median, the upper and the lower limit of what 95% of data sets show (the inversion of
    a test, along one line). Gaps no larger than scatter alone would make them have t = 0.

    With g the true gaps and e the scatter of one data set, what is measured is sum |g + e|. As |.| is convex, its mean
    over e is above sum |g|, most where g is near 0: that is the bias. The scatter of resamples about the data stands
    for that of data sets about the truth, so under g = t * measured the sums of other data sets are

        S_r(t) = sum over b of |t measured_b + scatter_rb|        r = 1 .. R

    Q_q(t), the q-quantile of S_r(t) over r, grows with t once t is large. The t with Q_q(t) = S, the sum measured, is
    the truth for which S lies at the q-quantile: q = .5 gives the estimate t S, q = .975 the lower end (a truth so
    small that S is barely as high as it may be) and q = .025 the upper. Where Q_q(0) >= S already, t is 0. `measured`
    (B,) is each bin's share of the pairs times its frequency less its confidence, `scatter` (R, B) by how much
    resamples miss it.
    """
    seen = float(np.abs(measured).sum())

    def factor(quantile: float) -> float:
        """The t at which this quantile of the sums is the one seen, 0 where it is above that already."""
        low, high = 0.0, 1.0

        def excess(t: float) -> float:
            sums = np.abs(t * measured + scatter).sum(1)  # (R,)
            return float(np.quantile(sums, quantile)) - seen

        if seen == 0 or excess(0.0) >= 0:
            return 0.0
        while excess(high) < 0:
            low, high = high, 2 * high
        for _ in range(20):  # to a millionth of the bracket
            middle = (low + high) / 2
            low, high = (middle, high) if excess(middle) < 0 else (low, middle)
        return high

    # A calibration error is a mean of distances between probabilities: 1 at most.
    estimate, low, high = (min(1.0, factor(q) * seen) for q in (0.5, 0.975, 0.025))
    return Interval(estimate, low, high, 0)


def _slope(strict: Trial, first: Floats) -> Interval | None:
    """The factor of the log-odds of greatest likelihood; None where they are not finite, or no factor is best."""
    with np.errstate(divide="ignore"):
        odds = np.log(first) - np.log1p(-first)
    if not np.isfinite(odds).all():
        return None
    signed, sure = odds * np.sign(strict.labels - 0.5), np.maximum(strict.labels, 1 - strict.labels)
    return bootstrap(lambda weights: fitted_slope(weights, signed, sure), strict.clusters)


def fitted_slope(weights: Floats, signed: Floats, sure: Floats | float = 1.0) -> Floats:
    """The b of greatest likelihood, the mean of log sigmoid(b z), nearly, (R,): `fit_logistic` has a small penalty.

    z is `signed` (n,), the log-odds of what people preferred, and `weights` (R, n) how often each pair is in each
    resample. Where they did so with probability `sure` (n,), it is the mean of p log sigmoid(b z) + (1 - p) log
    sigmoid(-b z). NaN where all z that are not 0 have one sign and are sure, since then no finite b is best.
    """
    size = float(np.sqrt((signed**2).mean())) or 1.0  # the penalty is for numbers of size 1
    slopes = fit_logistic((signed / size)[:, None], weights * sure, weights)[:, 0] / size
    won, lost = (np.where(signed * sign > 0, sure, 0) + np.where(signed * sign < 0, 1 - sure, 0) for sign in (1, -1))
    return np.where((weights @ won > 0) & (weights @ lost > 0), slopes, np.nan)


def log_loss(trial: Trial, chance: Floats) -> Interval | None:
    """The mean of -p log q - (1 - p) log(1 - q), in nats: p is the label, q `chance` (P,), the model's for the first.

    None where it is infinite, as a verdict that left no doubt was wrong.
    """
    losses = _cross_entropy(trial.labels, chance)
    return mean(losses, trial.clusters) if np.isfinite(losses).all() else None


def _cross_entropy(p: Floats, q: Floats) -> Floats:
    return np.asarray(-scipy.special.xlogy(p, q) - scipy.special.xlog1py(1 - p, -q))
