"""Agreement beyond chance: Cohen's and Fleiss' kappa, Krippendorff's alpha, and the ceiling they set for a model.

Ratings are counts: how many of an item's raters chose each category, (items, V).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray

from accord.evaluate.statistics import Floats, bootstrap
from accord.results.intervals import Interval

Metric = Callable[[Floats], Floats]
"""From the total count of each category, (..., V), to the squared distance of any two, ([...,] V, V)."""


def cohen(table: Floats) -> Floats:
    """Cohen's kappa (1960), (a - e) / (1 - e), with the observed agreement a and that of independent raters, e.

    NaN where both raters always choose the same single category. `table` (..., V, V) counts how often the first rater
    chose the row's category and the second the column's.
    """
    shares = table / table.sum((-2, -1), keepdims=True)
    return _beyond_chance(np.einsum("...ii", shares), (shares.sum(-1) * shares.sum(-2)).sum(-1))


def fleiss(counts: Floats, times: Floats | None = None) -> Floats:
    """Fleiss' kappa (1971): as Cohen's, for any number of raters who may differ from item to item.

    a is the mean over items of the share of agreeing pairs of raters, e the sum of squared shares of the categories.
    `times` (..., items) is how often each item counts.

    Raises ValueError where the items have different numbers of raters.
    """
    raters, times = counts.sum(1), np.ones(len(counts)) if times is None else times
    if np.ptp(raters) or raters[0] < 2:
        raise ValueError("Fleiss' kappa needs the same number of raters, two or more, for every item")
    totals = times @ counts
    expected = ((totals / totals.sum(-1, keepdims=True)) ** 2).sum(-1)
    return _beyond_chance(times @ observed_agreement(counts) / times.sum(-1), expected)


def _beyond_chance(observed: Floats, expected: Floats) -> Floats:
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(expected < 1, (observed - expected) / (1 - expected), np.nan)[()]


def krippendorff(counts: Floats, metric: Metric, times: Floats | None = None) -> Floats:
    """Krippendorff's alpha (2004), 1 - observed / expected disagreement; raters may be missing.

    Both are mean squared distances: over pairs of ratings within items, an item with m ratings having weight m, and
    over all pairs of ratings. Items with fewer than two ratings are left out. NaN where all ratings are equal. The
    metric is `nominal`, `ordinal` or an `interval`; `times` (..., items) is how often each item counts.
    """
    paired = counts.sum(1) > 1
    times = (np.ones(len(counts)) if times is None else times)[..., paired]
    counts = counts[paired]
    totals = times @ counts
    distance = metric(totals)
    # For an item with m ratings: the distances of its ordered pairs of ratings, each with weight 1 / (m - 1).
    apart = ((counts @ distance) * counts).sum(-1) / (counts.sum(1) - 1)
    expected = ((totals[..., None, :] @ distance)[..., 0, :] * totals).sum(-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(expected > 0, 1 - (apart * times).sum(-1) * (totals.sum(-1) - 1) / expected, np.nan)[()]


def nominal(totals: Floats) -> Floats:
    """1 for any two different categories, else 0."""
    return 1 - np.eye(totals.shape[-1])


def ordinal(totals: Floats) -> Floats:
    """The squared number of ratings between two categories, counting half of those in the two themselves.

    (n_c + ... + n_k - (n_c + n_k) / 2)^2 (Krippendorff 2011, "Computing Krippendorff's alpha-reliability")
    """
    middle = np.cumsum(totals, -1) - totals / 2
    return np.asarray((middle[..., :, None] - middle[..., None, :]) ** 2, dtype=np.float64)


def interval(values: Floats) -> Metric:
    """The squared difference of two categories' numeric values (V,)."""
    return lambda totals: (values[:, None] - values) ** 2


def agreement_of_numbers(rated: Sequence[Sequence[float]]) -> Interval | None:
    """Krippendorff's interval alpha of the numbers given to each item, with an interval by bootstrap over items.

    None where all numbers are equal, or no item has two.
    """
    values, which = np.unique([x for numbers in rated for x in numbers], return_inverse=True)
    counts = np.zeros((len(rated), len(values)))
    np.add.at(counts, (np.repeat(np.arange(len(rated)), [len(numbers) for numbers in rated]), which), 1)
    counts = counts[counts.sum(1) > 1]
    return over_items(lambda some, times: krippendorff(some, interval(values), times), counts)


def observed_agreement(counts: Floats) -> Floats:
    """The share of agreeing pairs of an item's raters, (items,); NaN for an item with fewer than two."""
    raters = counts.sum(1)
    pairs = np.where(raters > 1, raters * (raters - 1), np.nan)
    return np.asarray((counts * (counts - 1)).sum(1) / pairs)


def ceiling(agreement: float) -> float:
    """The highest agreement of any model with one annotator, given the agreement of two; NaN where that is below 1/2.

    If each chooses the right answer with probability q, independently, they agree with probability a = q^2 + (1 - q)^2,
    so q = (1 + sqrt(2 a - 1)) / 2, and a model that is always right agrees with one of them with probability q. Where
    some pairs are harder than others, annotators agree more often at the same mean q: then this is an upper bound.
    """
    return 0.5 * (1 + sqrt(2 * agreement - 1)) if agreement >= 0.5 else float("nan")


def over_items(statistic: Callable[[NDArray[Any], Floats], Floats], items: NDArray[Any]) -> Interval | None:
    """A statistic with its bootstrap interval over items (n, k).

    It gets the distinct items, and how often each is in each resample, (R, distinct items), and returns (R,).
    """
    patterns, which = np.unique(items, axis=0, return_inverse=True)
    one = np.eye(len(patterns))[which.ravel()]
    return bootstrap(lambda weights: statistic(patterns, weights @ one), np.arange(len(items)))
