"""Proxy and gold reward against the distance from the start: best of n, the exact optimum, and fitted curves.

**Best of n**, for every n at once, from one set of N samples per prompt. Of the C(N, n) ways to choose n of N samples,
the i-th worst is the best in C(i-1, n-1). The mean over all choices is thus a weighted sum of the sorted samples: the
unbiased estimate of minimal variance of the score of the best of n fresh samples, by the same reward or another (Nakano
et al. 2021, arXiv:2112.09332, appendix I).

**The sweep** of KL-regularized reinforcement learning without training, pi_beta = pi_ref exp(r / beta) / Z. pi_beta
maximizes E[r] - beta KL(pi || pi_ref) exactly, so as beta falls it is what a perfect optimizer of the proxy r would
reach, and along the way d E[r] / d KL = beta. It is exact where all completions can be listed. From N samples of pi_ref
it is the self-normalized importance sampling estimate, valid as long as the weights are not concentrated on a few
samples: their effective number is 1 / sum of squared weights.

**The fit** of Gao et al. With d = sqrt(KL(policy || start)), in root nats, the gold reward gained since d = 0 is near

    best of n              R(d) = d (a - b d)          peaks at d = a / 2b              with height a^2 / 4b
    reinforcement learning R(d) = d (a - b log d)      peaks at d = exp(a / b - 1)      with height b d

(Gao, Schulman and Hilton 2022, arXiv:2210.10760, section 3.1). a and b enter linearly, so least squares solves for them
directly; intervals are bootstrap percentiles over prompts, and for the autocorrelated steps of a training run those of
`accord.evaluate.autoregressive`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal, NamedTuple

import numpy as np

from accord import objectives
from accord.evaluate.autoregressive import regress
from accord.evaluate.statistics import Floats, bootstrap_values, central, percentile
from accord.results.intervals import Interval
from accord.results.overoptimization import Fit

RESAMPLES = 1000
"""Resamples for an interval over prompts."""

DRAWS = 4000
"""Draws for an interval over steps."""

EFFECTIVE = 20.0
"""Minimum effective samples per prompt, as the harmonic mean over prompts: the bias grows as their inverse."""

FARTHEST, CLOSEST, STEPS = 8.0, 0.1, 32
"""The range of the sweep's distances, and their number."""


def best_of_n_weights(samples: int, n: int) -> Floats:
    """The probability of every sample, worst first, to be the best of n drawn from them, (N,): C(i-1, n-1) / C(N, n).

    Computed from the best downwards, w_N = n / N and w_i = w_(i+1) (i - n + 1) / i, which never overflows.
    """
    if not 1 <= n <= samples:
        raise ValueError(f"the best of {n} cannot be taken of {samples} samples")
    rank = np.arange(samples - 1, 0, -1, dtype=np.float64)
    down = np.concatenate([[n / samples], np.maximum(rank - n + 1, 0) / rank])
    return np.asarray(np.cumprod(down)[::-1])


def best_of_n_selection(reward: Floats, n: int) -> Floats:
    """The probability of each of N samples of P prompts to be the best of n, (P, N); equal rewards share theirs."""
    chance = np.empty_like(reward, dtype=np.float64)
    ladder = np.concatenate([[0.0], np.cumsum(best_of_n_weights(reward.shape[1], n))])
    for row, rewards in enumerate(reward):
        _, level, count = np.unique(rewards, return_inverse=True, return_counts=True)
        reached = np.concatenate([[0], np.cumsum(count)])
        chance[row] = (np.diff(ladder[reached]) / count)[level]
    return chance


def best_of_n_divergence(reward: Floats, n: int) -> Floats:
    """KL(best of n || the policy) of every prompt, (P,), in nats.

    It is log n - (n - 1) / n where no reward occurs twice. Samples of equal reward are not distinguished, so a level
    that raises the reward's distribution function from F- to F subtracts the integral of n u^(n-1) log(n u^(n-1)) over
    (F-, F), its contribution if ties were broken, and adds (F^n - F-^n) log((F^n - F-^n) / (F - F-)). The levels are
    those that occur more than once among the N samples, at their observed shares; unobserved ties are not counted, so
    the result stays an upper estimate. `reward` is (P, N).
    """
    bound = objectives.selection.best_of_n_kl_bound(n)
    return np.array([bound - _lost_to_ties(rewards, n) for rewards in reward])


def _lost_to_ties(rewards: Floats, n: int) -> float:
    _, count = np.unique(rewards, return_counts=True)
    ends = np.concatenate([[0], np.cumsum(count)]) / len(rewards)
    below, above = ends[:-1][count > 1], ends[1:][count > 1]
    mass = above**n - below**n
    told_apart = _antiderivative(above, n) - _antiderivative(below, n)
    together = mass * np.log(np.maximum(mass, np.finfo(np.float64).tiny) / (above - below))
    return float((told_apart - together).sum())


def _antiderivative(u: Floats, n: int) -> Floats:
    """The antiderivative of n u^(n-1) log(n u^(n-1)): u^n (log n + (n-1) log u - (n-1) / n)."""
    return np.asarray(u**n * (np.log(n) + (n - 1) * np.log(np.where(u > 0, u, 1.0)) - (n - 1) / n))


def best_of_n_sizes(most: int) -> list[int]:
    """The n of a curve: 1, 2, 3, 4, 6, 8, 12, 16, ... and `most`."""
    powers = [2**k for k in range(most.bit_length())]
    return sorted({n for p in powers for n in (p, p * 3 // 2) if n <= most} | {most})


class Tilted(NamedTuple):
    """A policy as probabilities (..., V), and its divergence (...,) from the reference, in nats."""

    probabilities: Floats
    kl: Floats


def tilted(reference_logp: Floats, reward: Floats, beta: float) -> Tilted:
    """pi_ref exp(reward / beta) / Z and its divergence from pi_ref, over V completions or samples, (..., V).

    `beta` > 0 is the price of a nat; at infinity the policy is the reference.
    """
    if not beta > 0:
        raise ValueError(f"beta must be positive, not {beta}")
    gain = reward / beta
    top = (reference_logp + gain).max(-1, keepdims=True)
    log_z = top + np.log(np.exp(reference_logp + gain - top).sum(-1, keepdims=True))
    probabilities = np.exp(reference_logp + gain - log_z)
    return Tilted(probabilities, np.asarray((probabilities * (gain - log_z)).sum(-1)))


def effective(weights: Floats) -> Floats:
    """The effective number of samples under weights (..., N), (...,): 1 / sum of squares."""
    return np.asarray(1 / (weights**2).sum(-1))


def betas(reward: Floats) -> list[float]:
    """The betas of the sweep, infinity (the reference) first, for rewards (P, N) of samples.

    For small distances d is near the rewards' standard deviation over beta sqrt(2); the betas follow from geometrically
    spaced d by that rule. If all rewards are equal there is only infinity.
    """
    deviation = float(reward.std(-1).mean())
    reached = np.geomspace(CLOSEST, FARTHEST, STEPS)
    return [float("inf"), *(deviation / (reached * 2**0.5)).tolist()] if deviation else [float("inf")]


@dataclass(frozen=True, slots=True)
class Form:
    """R(d) = a d - b bend(d), with the position and height of its peak as functions of a and b."""

    name: Literal["best of n", "rl"]
    bend: Callable[[Floats], Floats]
    turn: Callable[[Floats, Floats], Floats]
    height: Callable[[Floats, Floats], Floats]


def _d_log_d(distance: Floats) -> Floats:
    return distance * np.log(np.where(distance > 0, distance, 1.0))


def _rl_turn(a: Floats, b: Floats) -> Floats:
    return np.exp(np.minimum(a / b - 1, 700.0))


BEST_OF_N = Form("best of n", np.square, lambda a, b: a / (2 * b), lambda a, b: a * a / (4 * b))
RL = Form("rl", _d_log_d, _rl_turn, lambda a, b: b * _rl_turn(a, b))


def coefficients(form: Form, distance: Floats, score: Floats, start: Floats | None) -> Floats:
    """Least squares for many curves of K points at once, (..., K): a, b and the score at d = 0, (..., 3).

    `start` (...,) is the score at d = 0 if known; with None it is fitted too.
    """
    columns = [distance, -form.bend(distance)]
    if start is not None:
        solved = np.linalg.pinv(np.stack(columns, -1)) @ (score - start[..., None])[..., None]
        return np.concatenate([solved[..., 0], start[..., None]], -1)
    solved = np.linalg.pinv(np.stack([*columns, np.ones_like(distance)], -1)) @ score[..., None]
    return np.asarray(solved[..., 0])


def over_prompts(form: Form, kl: Floats, score: Floats, *, resamples: int = RESAMPLES, seed: int = 0) -> Fit:
    """The fit to means over prompts, with intervals by bootstrap over prompts.

    `kl` (P, K) is the divergence of P prompts at K points, the first with d = 0; `score` (P, K) their scores.
    """
    prompts = len(kl)

    def means(weights: Floats) -> tuple[Floats, Floats]:
        return np.sqrt(np.maximum(weights @ kl, 0) / prompts), weights @ score / prompts

    def fitted(weights: Floats) -> Floats:
        distance, gold = means(weights)
        return coefficients(form, distance, gold, gold[:, 0])

    (distance,), (gold,) = means(np.ones((1, prompts)))
    repeated = bootstrap_values(fitted, prompts, resamples=resamples, seed=seed)
    return _fit(form, fitted(np.ones((1, prompts)))[0], repeated, distance, gold, partial(percentile, n=prompts))


def over_steps(form: Form, distance: Floats, score: Floats, *, draws: int = DRAWS, seed: int = 0) -> Fit:
    """The fit to the steps of a training run, with autocorrelated errors.

    The score at d = 0 is fitted too, as one step's samples estimate it poorly. Intervals are the central 95% of the
    posterior. `distance` (T,) and `score` (T,) are per step, with three different distances or more.
    """
    design = np.stack([distance, -form.bend(distance), np.ones_like(distance)], -1)
    known = regress(design, score, draws=draws, seed=seed)
    return _fit(form, known.estimate, known.draws, distance, score, partial(central, n=len(distance)))


def curve(form: Form, coefficients: Floats, distance: Floats) -> Floats:
    """The score at distances (K,), from a, b and the score at 0, (3,)."""
    a, b, start = coefficients
    return np.asarray(start + a * distance - b * form.bend(distance))


def _fit(
    form: Form,
    estimate: Floats,
    repeated: Floats,
    distance: Floats,
    score: Floats,
    interval: Callable[[float, Floats], Interval],
) -> Fit:
    """The fit, from the data's coefficients, (3,), and B resampled or drawn ones, (B, 3)."""
    a, b = (interval(float(estimate[i]), repeated[:, i]) for i in (0, 1))
    reach, missed = float(distance.max()), score - curve(form, estimate, distance)
    spread = ((score - score.mean()) ** 2).sum()
    turn = peak = None
    if b.low > 0 and 0 < form.turn(estimate[0], estimate[1]) <= reach:
        bends = np.maximum(repeated[:, 1], np.finfo(np.float64).tiny)
        turn, peak = (
            interval(float(at(estimate[0], estimate[1])), at(repeated[:, 0], bends)) for at in (form.turn, form.height)
        )
    r2 = float(1 - (missed**2).sum() / spread) if spread else 0.0
    return Fit(form=form.name, a=a, b=b, turn=turn, peak=peak, start=float(estimate[2]), r2=r2, reach=reach)
