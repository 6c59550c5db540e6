"""Means and rates of clusters, with their intervals."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from accord.results.intervals import cluster_mean, cluster_rate, wilson


def test_means_and_rates_of_clusters() -> None:
    values = np.array([1.0, 2.0, 4.0, 9.0])
    one = cluster_mean(values, np.ones(4))
    student = stats.t.interval(0.95, 3, loc=4.0, scale=values.std(ddof=1) / 2)
    assert (one.low, one.high) == pytest.approx(student) and one.estimate == 4.0
    assert cluster_mean(np.array([3.0]), np.array([2.0])).estimate == 1.5
    rate = cluster_rate(np.array([1.0, 1, 0, 1]), np.ones(4))
    expected = wilson(3, 4)
    assert (rate.estimate, rate.low, rate.high) == pytest.approx((0.75, expected.low, expected.high))
    # Two clusters of three alike are worth two outcomes, and all outcomes equal as many as clusters.
    alike, all_right = cluster_rate(np.array([3.0, 0]), np.full(2, 3.0)), cluster_rate(np.full(2, 3.0), np.full(2, 3.0))
    assert (alike.low, alike.high) == pytest.approx((wilson(1, 2).low, wilson(1, 2).high))
    assert (all_right.low, all_right.high) == pytest.approx((wilson(2, 2).low, 1.0))
    single = cluster_rate(np.array([3.0]), np.array([7.0]))
    assert single.estimate == pytest.approx(3 / 7) and single.low < 0.1 and single.high > 0.8


@given(st.lists(st.tuples(st.integers(1, 9), st.floats(0, 1)), min_size=1, max_size=12))
def test_a_rate_s_interval_holds_the_rate(clusters: list[tuple[int, float]]) -> None:
    counts = np.array([float(n) for n, _ in clusters])
    found = cluster_rate(np.array([round(n * share) for n, share in clusters], float), counts)
    assert 0 <= found.low <= found.estimate + 1e-9 and found.estimate - 1e-9 <= found.high <= 1
