"""The whole path of KL-regularized reinforcement learning without training: pi_beta = pi_ref exp(r / beta) / Z.

pi_beta maximizes E[r] - beta KL(pi || pi_ref) exactly, so as beta falls it is what a perfect optimizer of the proxy r
would have become, and along the way d E[r] / d KL = beta. Where all completions can be listed that is exact. Of N
samples of pi_ref, each standing for 1 / N of it, it is the self-normalized importance estimate, which holds as long as
the weights do not rest on a few samples: their effective number is 1 / sum of squared weights.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from accord.evaluate.gao import Array

EFFECTIVE = 20.0
"""Fewer effective samples a prompt, as the harmonic mean over prompts, are too few: the bias grows as their inverse."""

FARTHEST, CLOSEST, STEPS = 8.0, 0.1, 32


class Tilted(NamedTuple):
    """A policy as probabilities (..., V), and its divergence (...,) from the reference, in nats."""

    probabilities: Array
    kl: Array


def tilted(reference_logp: Array, reward: Array, beta: float) -> Tilted:
    """pi_ref exp(reward / beta) / Z and its divergence from pi_ref.

    Args:
        reference_logp: (..., V), of every completion; of N samples, -log N.
        reward: (..., V), the proxy that is optimized.
        beta: the price of a nat, above 0; infinity leaves the reference as it is.
    """
    if not beta > 0:
        raise ValueError(f"beta must be positive, not {beta}")
    gain = reward / beta
    top = (reference_logp + gain).max(-1, keepdims=True)
    log_z = top + np.log(np.exp(reference_logp + gain - top).sum(-1, keepdims=True))
    probabilities = np.exp(reference_logp + gain - log_z)
    return Tilted(probabilities, np.asarray((probabilities * (gain - log_z)).sum(-1)))


def effective(weights: Array) -> Array:
    """How many samples the weights (..., N) rest on, (...,): 1 / sum of squares."""
    return np.asarray(1 / (weights**2).sum(-1))


def betas(reward: Array) -> list[float]:
    """Prices that lead from the reference away, infinity first, for rewards (P, N) of samples.

    For a small distance d is near the rewards' standard deviation over beta sqrt(2); the prices follow from evenly
    spaced d by that rule. Rewards that are all equal lead nowhere.
    """
    deviation = float(reward.std(-1).mean())
    reached = np.geomspace(CLOSEST, FARTHEST, STEPS)
    return [float("inf"), *(deviation / (reached * 2**0.5)).tolist()] if deviation else [float("inf")]
