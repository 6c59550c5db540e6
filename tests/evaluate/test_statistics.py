from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from accord.evaluate.statistics import bootstrap_mean, bootstrap_values, mean_interval, percentile, sign_test, wilson


def test_wilson_literals() -> None:
    # p = .5, n = 100, z = 1.959964: center .5, reach 1.959964 sqrt(.0025 + .000096037) / 1.0384146... = .096170.
    interval = wilson(50, 100)
    assert (interval.estimate, interval.n) == (0.5, 100)
    assert interval.low == pytest.approx(0.403832, abs=5e-7)
    assert interval.high == pytest.approx(0.596168, abs=5e-7)
    # p = 1: the low end is 1 / (1 + z^2 / n) = 1 / 1.3841459.
    assert wilson(10, 10).low == pytest.approx(0.722467, abs=5e-7)


def test_wilson_ends_exactly_at_none_and_all() -> None:
    assert (wilson(0, 7).low, wilson(7, 7).high) == (0.0, 1.0)


def test_wilson_counts_ties_as_halves() -> None:
    assert wilson(1.5, 2).estimate == 0.75


@given(st.integers(1, 500), st.data(), st.floats(0.5, 0.999))
def test_wilson_holds_the_estimate_is_symmetric_and_bounded(n: int, data: st.DataObject, confidence: float) -> None:
    successes = data.draw(st.integers(0, 2 * n)) / 2
    interval, mirrored = wilson(successes, n, confidence), wilson(n - successes, n, confidence)
    assert 0 <= interval.low <= interval.estimate <= interval.high <= 1
    assert mirrored.low == pytest.approx(1 - interval.high, abs=1e-12)


def test_wilson_covers_exactly_as_often_as_published() -> None:
    # The exact coverage for n = 20, p = .5 is P(6 <= X <= 14) = 0.9586: ends 5 and 15 exclude one half.
    covered = sum(math.comb(20, k) / 2**20 for k in range(21) if wilson(k, 20).low <= 0.5 <= wilson(k, 20).high)
    assert covered == pytest.approx(0.9586, abs=5e-5)


def test_mean_interval_literals() -> None:
    # 1, 2, 3: mean 2, s = 1, t of 2 degrees 4.302653: reach 4.302653 / sqrt 3 = 2.484138.
    interval = mean_interval([1.0, 2.0, 3.0])
    assert (interval.estimate, interval.n) == (2.0, 3)
    assert interval.low == pytest.approx(-0.484138, abs=2e-6)
    assert interval.high == pytest.approx(4.484138, abs=2e-6)


@pytest.mark.parametrize(
    ("n", "confidence", "t"),
    [
        (2, 0.95, 12.7062047),
        (3, 0.99, 9.9248432),
        (10, 0.95, 2.2621572),
        (31, 0.90, 1.6972609),
        (10**6, 0.95, 1.9599664),
    ],
)
def test_mean_interval_uses_students_quantile(n: int, confidence: float, t: float) -> None:
    # -1 and 1 (and one 0 where n is odd): s^2 = (n or n - 1) / (n - 1).
    values = np.tile([-1.0, 1.0], n // 2).tolist() + [0.0] * (n % 2)
    reach = mean_interval(values, confidence=confidence).high
    assert reach * math.sqrt(n) / np.std(values, ddof=1) == pytest.approx(t, rel=1e-6)


def test_bootstrap_of_two_values_has_the_quantiles_of_its_three_means() -> None:
    # Resampling 0 and 1 gives means 0, .5, 1 with chances .25, .5, .25. Student's t of one degree is tan(pi c / 2), so
    # the tail is Phi(-sqrt 2 tan(.2 pi)) = .152 at c = .4, where the mean is 0, and .323 at c = .2, where it is .5.
    interval = bootstrap_mean([0.0, 1.0], confidence=0.4)
    assert (interval.low, interval.estimate, interval.high, interval.n) == (0.0, 0.5, 1.0, 2)
    interval = bootstrap_mean([0.0, 1.0], confidence=0.2)
    assert (interval.low, interval.high) == (0.5, 0.5)


def test_percentiles_are_expanded_to_students() -> None:
    # n = 3: t of two degrees is 4.302653, times sqrt(3/2) 5.269652, so the tails are Phi(-5.27) = 7e-8: the extremes.
    # n = 100: 1.984217 sqrt(100/99) = 1.994213, and Phi(-1.994213) = .0230642, of replicates 0, 1, ..., 10000.
    replicates = np.arange(10_001.0)
    few, many = percentile(5000.0, replicates, 3), percentile(5000.0, replicates, 100)
    assert (few.low, few.high) == pytest.approx((0, 10_000), abs=1e-2)
    assert (many.low, many.high) == pytest.approx((230.642, 9769.358), abs=2e-2)
    assert (many.estimate, many.n) == (5000.0, 100)


def test_every_statistic_sees_the_same_resamples_of_as_many_observations() -> None:
    counts = bootstrap_values(lambda weights: weights, 7, resamples=50, seed=2)
    assert counts.shape == (50, 7) and (counts.sum(1) == 7).all()
    first = bootstrap_values(lambda weights: weights[:, 0], 7, resamples=50, seed=2)
    assert first.tolist() == counts[:, 0].tolist()


def test_sign_test_literals() -> None:
    assert sign_test(0, 0) == sign_test(3, 3) == sign_test(2, 1) == 1.0
    assert sign_test(5, 0) == sign_test(0, 5) == 2 / 32
    assert sign_test(8, 2) == 2 * (1 + 10 + 45) / 1024
    assert sign_test(1200, 800) == pytest.approx(3.9e-19, rel=0.05)  # no overflow; the normal's is 3.7e-19


def test_bootstrap_is_repeatable_by_seed_and_moves_with_its_values() -> None:
    values = np.linspace(-1, 2, 50)
    assert bootstrap_mean(values, seed=3) == bootstrap_mean(values, seed=3)
    shifted = bootstrap_mean(values + 10, seed=3)
    assert shifted.low == pytest.approx(bootstrap_mean(values, seed=3).low + 10, abs=1e-9)


def test_bootstrap_covers_the_mean_of_paired_differences() -> None:
    # 300 experiments of 60 skewed differences (an exponential less its mean). A 90% interval should cover in 270 of
    # them; the bounds are three standard deviations, 3 sqrt(300 * .9 * .1) = 15.6, to either side.
    generator = np.random.default_rng(1)
    experiments = generator.exponential(size=(300, 60)) - 1
    intervals = [bootstrap_mean(x, confidence=0.9, resamples=300, seed=i) for i, x in enumerate(experiments)]
    covered = sum(interval.low <= 0 <= interval.high for interval in intervals)
    assert 255 <= covered <= 285


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: wilson(0, 0), "at least one observation"),
        (lambda: wilson(3, 2), "3 successes of 2"),
        (lambda: wilson(1, 2, confidence=1.0), "confidence must lie between 0 and 1"),
        (lambda: mean_interval([1.0]), "at least 2 values"),
        (lambda: bootstrap_mean([]), "at least 1 values"),
        (lambda: bootstrap_mean([1.0, math.nan]), "value 2 of 2 is not finite"),
    ],
)
def test_refuses_what_has_no_interval(call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
