"""The learning curve: held-out accuracy by number of labels, and a fit that predicts what more labels would buy.

    accuracy(n) = a - b n^(-c),      a <= 1,  b >= 0

A power law towards the accuracy at infinitely many labels (Cortes et al. 1994, "Learning curves: asymptotic values and
rate of convergence"). c is 1/2, the rate of estimation errors, unless the points reject it; intervals let it vary
between 1/8 and 2. Some curves have other forms, such as those that rise late (Viering and Loog 2021, arXiv:2103.10948).
So the curve is fitted from the size on at which models are better than chance; where these are fewer than three sizes,
or reject every c, nothing is predicted.

R repeats train models on nested subsets of K sizes, each repeat on its own subsets, and all are tested on the same P
prompts. Accuracies vary for two reasons: other prompts might have been held out, and a repeat draws its subsets and the
model's initialization. `scatter` draws both; every draw is fitted like the data, and 95% of the draws make an interval.
All repeats end with the same labels, so the variation due to the labels shows only at smaller sizes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from accord.evaluate.accuracy import Predictions
from accord.evaluate.statistics import Floats, bootstrap_values, wilson
from accord.results.intervals import Interval
from accord.results.learning_curve import CurveFit, CurvePoint, Form, LabelsNeeded, LearningCurveResult, MoreLabels

POWER, POWERS = 0.5, np.geomspace(1 / 8, 2, 17)
"""The default exponent c, and the exponents tried."""

REJECTED = 0.05
"""A form is rejected where fewer draws around it than this share deviate as much as the points do."""

LEAST_SIZES = 3
"""Minimum number of consecutive sizes above chance, up to all labels, for a fit."""

FARTHEST = 10
"""Predictions go up to this multiple of the labels."""

MORE = 200
"""A number of additional labels whose gain is reported, besides twice as many."""

LEAST = 0.001
"""The curve rises where twice the labels would gain at least this much."""

RESAMPLES = 4000


@dataclass(frozen=True)
class HeldOutOutcomes:
    """Outcomes of models of K sizes, R each, on P held-out prompts.

    `labels` (K,) are the sizes, increasing; `right` (R, K, P) the summed weights of a prompt's comparisons that a model
    agrees with, a tie counting half; `weight` (P,) the summed weights of all.
    """

    labels: Floats
    right: Floats
    weight: Floats

    @cached_property
    def accuracy(self) -> Floats:
        """The accuracy of each model, (R, K)."""
        return np.asarray(self.right.sum(-1) / self.weight.sum())


def by_prompt(predictions: Predictions) -> tuple[Floats, Floats]:
    """For each prompt's strict comparisons the summed weights of right ones, and of all, (P,) each."""
    strict = predictions.strict
    _, prompt = np.unique(strict.clusters, return_inverse=True)
    right, weight = (np.bincount(prompt, values) for values in (strict.weights * strict.right, strict.weights))
    return np.asarray(right, np.float64), np.asarray(weight, np.float64)


def learning_curve(
    tried: HeldOutOutcomes, target: float | None = None, *, resamples: int = RESAMPLES, seed: int = 0
) -> LearningCurveResult:
    """The fitted curve, its predictions for more labels, and the number of labels needed for an accuracy of `target`.

    The default target is the next multiple of 5% above the accuracy at all labels. Raises ValueError for fewer than two
    repeats or three sizes, which cannot separate a curve from scatter.
    """
    labels, mean = tried.labels, tried.accuracy.mean(0)
    if len(tried.accuracy) < 2 or len(labels) < 3:
        raise ValueError(f"a curve needs 2 repeats of 3 sizes, not {len(tried.accuracy)} of {len(labels)}")
    noise, prompts = scatter(tried, resamples, seed), len(tried.weight)
    points = [
        CurvePoint(
            labels=int(n),
            accuracy=_interval(mean[k], mean[k] + noise[:, k], prompts, 0, 1)
            if np.ptp(noise[:, k])
            else wilson(float(mean[k]) * prompts, prompts),
            runs=tried.accuracy[:, k].tolist(),
        )
        for k, n in enumerate(labels)
    ]
    bought = _interval(mean[-1] - mean[-2], mean[-1] - mean[-2] + noise[:, -1] - noise[:, -2], prompts, -1, 1)
    begun = [k for k in range(len(labels)) if all(point.accuracy.low > 0.5 for point in points[k:])]
    draws = _fitting(labels[begun], mean[begun], noise[:, begun]) if len(begun) >= LEAST_SIZES else None
    untold: Form = "not begun" if len(begun) < LEAST_SIZES else "not this form"
    if not np.ptp(mean + noise):
        untold, draws = "all alike", None
    result = LearningCurveResult(
        verdict=untold, labels=int(labels[-1]), prompts=prompts, repeats=len(tried.right), points=points, bought=bought
    )
    if draws is None:
        return result
    most = float(labels[-1])
    buys = [_more_labels(draws, most, more, prompts) for more in (most, MORE) if more <= (FARTHEST - 1) * most]
    if target is None:
        target = float(np.floor(20 * predicted(draws[:1], most)[0, 0] + 1e-9) + 1) / 20
    along = np.geomspace(labels[begun[0]], 2 * most, 40)
    curve = [_interval(values[0], values[1:], prompts, 0, 1) for values in predicted(draws, along).T]
    fits = {
        "verdict": "rises" if buys[0].gain.low >= LEAST else "flat",
        "fit": CurveFit(**{name: _interval(draws[0, i], draws[1:, i], prompts) for i, name in enumerate("abc")}),
        "line": [CurvePoint(labels=n, accuracy=accuracy) for n, accuracy in zip(along.tolist(), curve, strict=True)],
        "buys": buys,
        "reached": _labels_needed(draws, most, target) if target < 1 else None,
    }
    return result.model_copy(update=fits)


def scatter(tried: HeldOutOutcomes, resamples: int, seed: int = 0) -> Floats:
    """Draws of the error of each size's mean accuracy, (resamples, K).

    Prompts are drawn with replacement. For the few repeats R, d (R, K) are the differences from their mean: normal
    multipliers z (R,) and a chi-squared variable with R - 1 degrees of freedom make z d / sqrt(R chi2), with their
    variance and Student's tails. The correlations between sizes are kept.
    """
    repeats, _, prompts = tried.right.shape
    generator = np.random.default_rng(seed)
    shared = tried.right.mean(0)  # (K, P)
    drawn = bootstrap_values(
        lambda w: w @ shared.T / (w @ tried.weight)[:, None], prompts, resamples=resamples, seed=seed
    )
    apart = tried.accuracy - tried.accuracy.mean(0)
    normal = generator.normal(size=(resamples, repeats)) @ apart
    tails = np.sqrt(repeats * generator.chisquare(repeats - 1, size=(resamples, 1)))
    return np.asarray((drawn - tried.accuracy.mean(0)) * np.sqrt(prompts / max(1, prompts - 1)) + normal / tails)


def fitted(labels: Floats, accuracy: Floats, powers: Sequence[float] | Floats, weight: Floats | None = None) -> Floats:
    """Least squares for many curves (B, K) at once: a, b and the best c of `powers`, (B, 3).

    Squares have the `weight` (K,) of their size, equal unless given.
    """
    weight = np.ones(len(labels)) if weight is None else weight
    tried = np.stack([_bounded(labels, accuracy, power, weight) for power in powers])  # (G, B, 3)
    missed = np.stack([_missed(curves, labels, accuracy, weight) for curves in tried])  # (G, B)
    return np.asarray(tried[missed.argmin(0), np.arange(len(accuracy))])


def predicted(curves: Floats, labels: Floats | float) -> Floats:
    """The accuracy of curves (B, 3) at numbers of labels (M,), (B, M)."""
    a, b, c = curves.T[:, :, None]
    return np.asarray(a - b * np.atleast_1d(labels) ** -c)


def _bounded(labels: Floats, accuracy: Floats, power: float, weight: Floats) -> Floats:
    """Least squares with a <= 1 and b >= 0.

    Where one bound is violated the solution lies on it, as the squares are convex; accuracies never violate both.
    """
    x, share = labels**-power, weight / weight.sum()
    spread = share * (x - share @ x)
    b = np.maximum(0, -(accuracy @ spread) / (x @ spread))
    a = accuracy @ share + b * (share @ x)
    b = np.where(a > 1, np.maximum(0, (1 - accuracy) @ (share * x) / (x @ (share * x))), b)
    return np.stack([np.minimum(a, 1), b, np.full(len(accuracy), power)], -1)


def _missed(curves: Floats, labels: Floats, accuracy: Floats, weight: Floats) -> Floats:
    return np.asarray(np.square(predicted(curves, labels) - accuracy) @ weight)


def _fitting(labels: Floats, mean: Floats, noise: Floats) -> Floats | None:
    """The curve of the points, and of every draw, (1 + B, 3); None where the points reject the form for every c.

    Sizes are weighted by the inverse square of their interval's width. c is 1/2 where the central 95% of the draws' c
    include it.
    """
    widths = np.ptp(np.quantile(noise, [0.025, 0.975], axis=0), axis=0)
    weight = 1 / np.square(np.maximum(widths, 1e-3))
    curve = fitted(labels, mean[None], POWERS, weight)
    about = predicted(curve, labels) + noise
    missed = _missed(curve, labels, mean[None], weight)
    as_far = _missed(fitted(labels, about, POWERS, weight), labels, about, weight) >= missed
    if missed[0] > 1e-9 and as_far.mean() < REJECTED:
        return None
    draws = fitted(labels, mean + noise, POWERS, weight)
    low, high = np.quantile(draws[:, 2], [0.025, 0.975])
    if low <= POWER <= high:
        curve = fitted(labels, mean[None], [POWER], weight)
    return np.concatenate([curve, draws])


def _more_labels(draws: Floats, most: float, more: float, prompts: int) -> MoreLabels:
    now, then = predicted(draws, np.array([most, most + more])).T
    return MoreLabels(more=int(more), gain=_interval(then[0] - now[0], (then - now)[1:], prompts))


def _labels_needed(draws: Floats, most: float, target: float) -> LabelsNeeded:
    """Labels needed for an accuracy: (b / (a - accuracy))^(1 / c); infinite where a does not exceed it."""
    a, b, c = draws.T
    with np.errstate(divide="ignore", over="ignore"):
        needed = np.where(a > target, (b / np.maximum(a - target, 1e-300)) ** (1 / c), np.inf)
    low, high = np.quantile(needed[1:], [0.025, 0.975], method="inverted_cdf")
    near = [None if n > FARTHEST * most else float(np.rint(n)) for n in (needed[0], low, high)]
    return LabelsNeeded(accuracy=target, labels=near[0], low=near[1], high=near[2], farthest=int(FARTHEST * most))


def _interval(estimate: float, draws: Floats, n: int, low: float = -np.inf, high: float = np.inf) -> Interval:
    ends = np.quantile(draws, [0.025, 0.975]).clip(low, high)
    return Interval(float(estimate), min(float(estimate), float(ends[0])), max(float(estimate), float(ends[1])), n)
