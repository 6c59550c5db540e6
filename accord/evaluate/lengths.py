"""The win rate that is left when length is taken away (Dubois et al. 2024, arXiv:2404.04475).

A judge that likes long answers lets a model win by saying more. A logistic regression of the verdict on the difference
of lengths says how much of the win rate that is:

    P(model wins on prompt x) = sigmoid(a + b tanh(d_x / s))        d_x = length of its answer - length of the other's

with s the standard deviation of d over the prompts. The length-controlled win rate is what it predicts for answers of
one length, sigmoid(a). It is 1/2 for a model against itself, and the two rates of a pair sum to 1.

Departures from the paper: there is no term for how hard each prompt is, which the paper estimates from the verdicts on
many models, so the rate is sigmoid(a) and no mean over prompts; each pair of models has a regression of its own;
lengths are in characters; and the penalty is a small ridge (`accord.evaluate.logistic`).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from accord.evaluate.logistic import fit, sigmoid
from accord.evaluate.statistics import Interval, bootstrap, percentile, wilson


def length_controlled(
    wins: NDArray[np.float64], differences: NDArray[np.float64], *, resamples: int = 2000, seed: int = 0
) -> Interval | None:
    """The length-controlled win rate with its 95% interval, from refits to resamples of the prompts.

    None where all differences are equal, so that nothing tells what length did from what the models did. Where every
    verdict is a win, or every one a loss, length has decided nothing, and the rate is the win rate with Wilson's
    interval. The scale s is that of the observations in every resample.

    Args:
        wins: (n,), the judge's probability on every prompt that the model's answer beats the other's.
        differences: (n,), length of the model's answer less that of the other.
        resamples: how many refits the interval is read from.
        seed: of the resampling.
    """
    n, scale = len(wins), differences.std() if len(differences) else 0.0
    if not scale:
        return None
    if wins.min() == 1 or wins.max() == 0:
        return wilson(float(wins.sum()), n)
    design = np.stack([np.ones(n), np.tanh(differences / scale)], axis=1)

    def rate(weights: NDArray[np.float64]) -> NDArray[np.float64]:
        return sigmoid(fit(design, weights * wins, weights)[:, 0])

    replicates = bootstrap(rate, n, resamples=resamples, seed=seed)
    return percentile(float(rate(np.ones((1, n)))[0]), replicates, n)
