"""The best of n for every n at once, from N samples a prompt and no others.

Of the C(N, n) ways to choose n of N samples, the i-th worst is the best in C(i-1, n-1). The mean over all choices is
therefore a weighted sum of the sorted samples, and the unbiased estimate of least variance of what the best of n fresh
samples would score, by its own reward or by another (Nakano et al. 2021, arXiv:2112.09332, appendix I).
"""

from __future__ import annotations

import numpy as np

from accord.evaluate.gao import Array
from accord.objectives.selection import best_of_n_kl_bound


def weights(samples: int, n: int) -> Array:
    """The chance of every sample, worst first, to be the best of n drawn from them, (N,): C(i-1, n-1) / C(N, n).

    Computed from the best downwards, w_N = n / N and w_i = w_(i+1) (i - n + 1) / i, which never overflows.
    """
    if not 1 <= n <= samples:
        raise ValueError(f"the best of {n} cannot be taken of {samples} samples")
    rank = np.arange(samples - 1, 0, -1, dtype=np.float64)
    down = np.concatenate([[n / samples], np.maximum(rank - n + 1, 0) / rank])
    return np.asarray(np.cumprod(down)[::-1])


def selection(reward: Array, n: int) -> Array:
    """The chance of every sample to be chosen as the best of n, (P, N), in the order given; equal rewards share theirs.

    Args:
        reward: (P, N), of N samples of P prompts.
        n: how many are drawn, 1 to N.
    """
    chance = np.empty_like(reward, dtype=np.float64)
    ladder = np.concatenate([[0.0], np.cumsum(weights(reward.shape[1], n))])
    for row, rewards in enumerate(reward):
        _, level, count = np.unique(rewards, return_inverse=True, return_counts=True)
        reached = np.concatenate([[0], np.cumsum(count)])
        chance[row] = (np.diff(ladder[reached]) / count)[level]
    return chance


def divergence(reward: Array, n: int) -> Array:
    """KL(best of n || the policy) of every prompt, (P,), in nats.

    It is log n - (n - 1) / n where no reward occurs twice. Samples of equal reward are not told apart, so a level that
    lifts the reward's distribution function from F- to F takes off it the integral of n u^(n-1) log(n u^(n-1)) over
    (F-, F), which is what it would be with ties broken, and adds (F^n - F-^n) log((F^n - F-^n) / (F - F-)). The levels
    are those that occur more than once among the N samples, at their share of them, so ties not seen are not counted
    and the result stays an upper estimate.

    Args:
        reward: (P, N).
        n: how many are drawn.
    """
    bound = best_of_n_kl_bound(n)
    return np.array([bound - _lost_to_ties(rewards, n) for rewards in reward])


def _lost_to_ties(rewards: Array, n: int) -> float:
    _, count = np.unique(rewards, return_counts=True)
    ends = np.concatenate([[0], np.cumsum(count)]) / len(rewards)
    below, above = ends[:-1][count > 1], ends[1:][count > 1]
    mass = above**n - below**n
    told_apart = _antiderivative(above, n) - _antiderivative(below, n)
    together = mass * np.log(np.maximum(mass, np.finfo(np.float64).tiny) / (above - below))
    return float((told_apart - together).sum())


def _antiderivative(u: Array, n: int) -> Array:
    """Of n u^(n-1) log(n u^(n-1)): u^n (log n + (n-1) log u - (n-1) / n)."""
    return np.asarray(u**n * (np.log(n) + (n - 1) * np.log(np.where(u > 0, u, 1.0)) - (n - 1) / n))


def sizes(most: int) -> list[int]:
    """The n of a curve: 1, 2, 3, 4, 6, 8, 12, 16, ... and `most`."""
    powers = [2**k for k in range(most.bit_length())]
    return sorted({n for p in powers for n in (p, p * 3 // 2) if n <= most} | {most})
