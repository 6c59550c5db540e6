"""Least squares with autoregressive errors: the likelihood by hand, known cases, and what the draws are."""

from __future__ import annotations

import numpy as np
import pytest
import scipy
from hypothesis import given
from hypothesis import strategies as st

from accord.evaluate.autoregressive import RHO, regress


def dense(design: np.ndarray, values: np.ndarray, rho: float) -> tuple[np.ndarray, float, float]:
    """By the whole T x T correlation: (X'X)^-1 X'VX (X'X)^-1, y'Py, and log of p(rho | y)."""
    steps, k = design.shape
    apart = abs(np.subtract.outer(np.arange(steps), np.arange(steps)))
    covariance = rho**apart / (1 - rho**2)
    precision = np.linalg.inv(covariance)
    inverse = np.linalg.inv(design.T @ precision @ design)
    beta = inverse @ design.T @ precision @ values
    left = float((values - design @ beta) @ precision @ (values - design @ beta))
    log_density = (
        -np.linalg.slogdet(covariance)[1] / 2 + np.linalg.slogdet(inverse)[1] / 2 - (steps - k) / 2 * np.log(left)
    )
    solver = np.linalg.inv(design.T @ design) @ design.T
    return solver @ covariance @ solver.T, left, float(log_density)


@given(seed=st.integers(0, 1000), steps=st.integers(5, 12))
def test_the_estimate_is_least_squares(seed: int, steps: int) -> None:
    generator = np.random.default_rng(seed)
    design, values = generator.normal(size=(steps, 2)), generator.normal(size=steps)
    found = regress(design, values, draws=2)
    np.testing.assert_allclose(found.estimate, np.linalg.lstsq(design, values)[0], rtol=1e-6, atol=1e-9)


def test_the_draws_have_the_moments_of_the_dense_matrices() -> None:
    # Given rho, the estimate is Student's t of T - k degrees of freedom around itself, with variance
    # y'Py (X'X)^-1 X'VX (X'X)^-1 / (T - k - 2); over rho these mix. 200,000 draws tell a mean within .01 standard
    # deviations, whose tails are of nine degrees of freedom or fewer.
    generator = np.random.default_rng(3)
    design = np.stack([np.ones(12), np.linspace(0, 1, 12)], 1)
    values = design @ [1.0, 2.0] + 0.3 * generator.normal(size=12)
    every = [dense(design, values, rho) for rho in RHO]
    weight = np.exp([log_density for *_, log_density in every]) * (1 - RHO**2)
    weight /= weight.sum()
    covariance = weight @ np.array([left * spread.ravel() / (12 - 2 - 2) for spread, left, _ in every])
    found = regress(design, values, draws=200_000)
    np.testing.assert_allclose(found.draws.mean(0), found.estimate, atol=0.01 * covariance.max() ** 0.5)
    np.testing.assert_allclose(np.cov(found.draws.T).ravel(), covariance, rtol=0.1)


def test_what_the_form_misses_does_not_move_the_estimate() -> None:
    """A line through a step function: errors of one sign for long look like rho near 1; the line stays nearest."""
    design = np.stack([np.ones(40), np.arange(40.0)], 1)
    values = np.repeat([1.0, 0.0], 20)
    found = regress(design, values, draws=4000)
    # the slope of least squares: -sum of the later half's (t - 19.5) / sum of (t - 19.5)^2 = -200 / 5330
    assert found.estimate[1] == pytest.approx(-200 / 5330)
    missed = values - design @ found.estimate
    low, high = np.quantile(found.draws[:, 1], [0.025, 0.975])
    independent = 1.96 * ((missed**2).sum() / 38 / 5330) ** 0.5
    assert high - low > 2 * 2 * independent  # a line is known much less than by forty independent errors


def test_a_mean_of_independent_values_is_about_as_uncertain_as_student_has_it() -> None:
    # Student's interval knows that rho is 0; here it is learned, which costs width but not much of it at 400 values.
    values = np.random.default_rng(5).normal(size=400)
    draws = regress(np.ones((400, 1)), values, draws=20_000).draws[:, 0]
    student = values.std(ddof=1) / 20 * scipy.special.stdtrit(399, 0.975)
    assert np.quantile(draws, 0.975) - np.quantile(draws, 0.025) == pytest.approx(2 * student, rel=0.15)


def test_values_without_errors_come_back() -> None:
    design = np.stack([np.ones(9), np.arange(9.0)], 1)
    found = regress(design, design @ [2.0, -0.5], draws=50)
    np.testing.assert_allclose(found.estimate, [2, -0.5], atol=1e-9)
    np.testing.assert_allclose(found.draws, np.broadcast_to([2, -0.5], (50, 2)), atol=1e-6)
