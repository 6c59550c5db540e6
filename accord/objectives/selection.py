"""Best-of-n: the distribution that results from drawing n samples and keeping the one of highest reward."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from accord.objectives.segments import require_vectors, segment_sum


def best_of_n_kl_bound(n: int) -> float:
    """The KL divergence of best-of-n from the distribution it selects from, `log n - (n - 1) / n`, in nats.

    Stiennon et al. (2020, arXiv:2009.01325, appendix G.3). Exact where no reward occurs twice, and an upper bound where
    some do, as in every discrete distribution (Beirami et al. 2024, arXiv:2401.01879).

    Args:
        n: how many samples are drawn, 1 or more.
    """
    _require_samples(n)
    return math.log(n) - (n - 1) / n


def best_of_n(probabilities: Tensor, rewards: Tensor, n: int) -> Tensor:
    """The exact distribution of the best of n samples, `P(y) = F(r(y))^n - F(r(y)-)^n`.

    F is the distribution function of the reward, F(r-) the probability of a reward below r; outcomes of equal reward
    share their level's probability in proportion to their own.

    Args:
        probabilities: (V,), of every outcome; they sum to 1.
        rewards: (V,), the reward of every outcome.
        n: how many samples are drawn, 1 or more.

    Returns:
        (V,), probabilities.
    """
    require_vectors(probabilities=probabilities, rewards=rewards)
    _require_samples(n)
    if bool((probabilities < 0).any()) or not math.isclose(float(probabilities.sum()), 1.0, abs_tol=1e-4):
        raise ValueError("probabilities must not be negative and must sum to 1")
    _, level = torch.unique(rewards, return_inverse=True)
    mass = segment_sum(probabilities, level, int(level.max()) + 1)
    cumulative = mass.cumsum(0)
    below = cumulative - mass
    selected = cumulative**n - below**n
    return probabilities * (selected / torch.where(mass > 0, mass, 1))[level]


def _require_samples(n: int) -> None:
    if n < 1:
        raise ValueError(f"best-of-n needs at least 1 sample, not {n}")
