"""Least squares where neighboring observations resemble each other, as the steps of a training run do.

Errors are an autoregression of order one with normal innovations:

    y_t = x_t . beta + e_t        e_t = rho e_(t-1) + u_t        u_t ~ N(0, sigma^2)        -1 < rho < 1

How much neighbors resemble each other is not known either, and is easily thought too little: a curve that was fitted
has taken the slow part of the errors for its own. So rho is not estimated and then believed. What is known of beta is
its posterior under the flat prior on beta, log sigma and rho (Zellner and Tiao 1964, Journal of the American
Statistical Association 59), which is drawn from exactly but for a grid of rho: the density of rho is the restricted
likelihood (Harville 1974, Biometrika 61)

    p(rho | y)  proportional to  sqrt(1 - rho^2) |X'RX|^(-1/2) (y'Py)^(-(T - k) / 2)

with R the errors' inverse correlation up to sigma, and y'Py the sum of squares left by generalized least squares; given
rho, sigma^2 is y'Py over a chi-square of T - k degrees of freedom, and beta normal around generalized least squares.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from accord.evaluate.statistics import Floats

RHO = np.tanh(np.linspace(-1.5, 3.2, 95))
"""The grid, even in Fisher's transform: from -.905 to .997, finer towards 1."""


class Posterior(NamedTuple):
    """What is known of beta (k,): generalized least squares at the likeliest rho, (k,), and draws of it, (N, k)."""

    estimate: Floats
    draws: Floats


def regress(design: Floats, values: Floats, *, draws: int, seed: int = 0) -> Posterior:
    """The posterior of the coefficients of values (T,) on the columns of a design (T, k), T > k, of full rank."""
    steps, k = design.shape
    whitened = _whitened(np.concatenate([design, values[:, None]], 1))  # (G, T, k + 1), one for every rho
    x, y = whitened[..., :k], whitened[..., k]
    squares = np.einsum("gti,gtj->gij", x, x)
    inverse = np.linalg.pinv(squares, hermitian=True)
    beta = np.einsum("gij,gtj,gt->gi", inverse, x, y)
    left = np.maximum(((y - np.einsum("gti,gi->gt", x, beta)) ** 2).sum(1), np.finfo(np.float64).tiny)
    likelihood = np.log1p(-(RHO**2)) / 2 - np.linalg.slogdet(squares)[1] / 2 - (steps - k) / 2 * np.log(left)
    generator = np.random.default_rng(seed)
    density = np.exp(likelihood - likelihood.max()) * (1 - RHO**2)  # the grid's spacing in rho is 1 - rho^2
    at = generator.choice(len(RHO), draws, p=density / density.sum())
    sigma = np.sqrt(left[at] / generator.chisquare(steps - k, draws))
    root = np.linalg.cholesky(inverse)[at]
    moved = np.einsum("nij,nj->ni", root, generator.normal(size=(draws, k)))
    return Posterior(beta[likelihood.argmax()], beta[at] + sigma[:, None] * moved)


def _whitened(rows: Floats) -> Floats:
    """Rows (T, c) as combinations whose errors are independent, for every rho, (G, T, c) (Prais and Winsten 1954)."""
    rho = RHO[:, None, None]
    return np.concatenate([np.sqrt(1 - rho**2) * rows[:1], rows[1:] - rho * rows[:-1]], 1)
