"""Least squares for autocorrelated observations, such as the steps of a training run.

Errors are a first-order autoregression with normal innovations:

    y_t = x_t . beta + e_t        e_t = rho e_(t-1) + u_t        u_t ~ N(0, sigma^2)        -1 < rho < 1

The estimate is ordinary least squares, b = (X'X)^-1 X'y. (Generalized least squares is more precise where the form of
the curve holds; where a run departs from it, the misfit looks like errors with rho near 1, and the curve then fits
differences and misses the values.) Its covariance is

    sigma^2 (X'X)^-1 X'V(rho)X (X'X)^-1

with the errors' correlation V(rho) up to sigma. rho is unknown too, and easily underestimated, since the fitted curve
absorbs the slow part of the errors. So rho is not estimated but drawn from its posterior under the flat prior on the
coefficients, log sigma and rho (Zellner and Tiao 1964, Journal of the American Statistical Association 59), exact up to
a grid of rho. Its density is the restricted likelihood (Harville 1974, Biometrika 61)

    p(rho | y)  proportional to  sqrt(1 - rho^2) |X'RX|^(-1/2) (y'Py)^(-(T - k) / 2)

with R the inverse of V, and y'Py the residual sum of squares of generalized least squares; given rho, sigma^2 is y'Py
over a chi-square variable with T - k degrees of freedom, and the coefficients are normal around the estimate.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from accord.evaluate.statistics import Floats

RHO = np.tanh(np.linspace(-1.5, 3.2, 95))
"""The grid, uniform in Fisher's transform, from -.905 to .997."""


class Regression(NamedTuple):
    """Least-squares coefficients, (k,), and posterior draws of them, (N, k)."""

    estimate: Floats
    draws: Floats


def regress(design: Floats, values: Floats, *, draws: int, seed: int = 0) -> Regression:
    """The coefficients of values (T,) on the columns of a design (T, k), T > k, of full rank."""
    steps, k = design.shape
    whitened = _whitened(np.concatenate([design, values[:, None]], 1))  # (G, T, k + 1), one for every rho
    x, y = whitened[..., :k], whitened[..., k]
    squares = np.einsum("gti,gtj->gij", x, x)
    beta = np.einsum("gij,gtj,gt->gi", np.linalg.pinv(squares, hermitian=True), x, y)
    left = np.maximum(((y - np.einsum("gti,gi->gt", x, beta)) ** 2).sum(1), np.finfo(np.float64).tiny)
    likelihood = np.log1p(-(RHO**2)) / 2 - np.linalg.slogdet(squares)[1] / 2 - (steps - k) / 2 * np.log(left)
    generator = np.random.default_rng(seed)
    density = np.exp(likelihood - likelihood.max()) * (1 - RHO**2)  # the grid's spacing in rho is 1 - rho^2
    at = generator.choice(len(RHO), draws, p=density / density.sum())
    sigma = np.sqrt(left[at] / generator.chisquare(steps - k, draws))
    solver = np.linalg.pinv(design)  # (k, T): (X'X)^-1 X'
    parts = _parts(solver.T)
    spread = np.linalg.cholesky(np.einsum("gti,gtj->gij", parts, parts))
    moved = np.einsum("nij,nj->ni", spread[at], generator.normal(size=(draws, k)))
    estimate = solver @ values
    return Regression(estimate, estimate + sigma[:, None] * moved)


def _whitened(rows: Floats) -> Floats:
    """Rows (T, c) transformed to independent errors, for every rho, (G, T, c) (Prais and Winsten 1954)."""
    rho = RHO[:, None, None]
    return np.concatenate([np.sqrt(1 - rho**2) * rows[:1], rows[1:] - rho * rows[:-1]], 1)


def _parts(columns: Floats) -> Floats:
    """L' times columns (T, c) for every rho, (G, T, c), where L L' = V: each innovation's contribution to their sums.

    u_t enters e_t and, by powers of rho, all later errors; the first innovation has the errors' stationary variance.
    """
    rho = RHO[:, None]
    parts = np.empty((len(RHO), *columns.shape))
    later = np.zeros((len(RHO), columns.shape[1]))
    for t in reversed(range(len(columns))):
        parts[:, t] = later = columns[t] + rho * later
    parts[:, 0] /= np.sqrt(1 - rho**2)
    return parts
