"""Intervals over clusters: against those for independent observations, and by coverage where they hang together."""

from __future__ import annotations

import numpy as np
import pytest

from accord.evaluate.statistics import bootstrap, each, mean, numbered, rate, resampled, wilson


def test_a_cluster_each_is_wilson() -> None:
    assert rate(np.array([1.0, 0.0, 0.5]), np.array([4, 7, 2])) == wilson(1.5, 3)
    assert rate(np.empty(0), np.empty(0, dtype=np.intp)) is None


def test_outcomes_that_are_all_equal_have_the_width_of_their_clusters() -> None:
    # Six successes in two clusters know no more than two successes.
    found, two = rate(np.ones(6), np.array([0, 0, 0, 1, 1, 1])), wilson(2, 2)
    assert found is not None
    assert (found.estimate, found.low, found.high, found.n) == (1.0, two.low, two.high, 6)


def test_resamples_hold_whole_clusters() -> None:
    # Clusters {0, 2} and {1}: a resample of two is {0 0 2 2}, {0 1 2} or {1 1}.
    seen: set[tuple[int, ...]] = set()
    resampled(each(lambda places: float(seen.add(tuple(places.tolist())) or 0)), np.array([5, 3, 5]), resamples=50)
    assert seen == {(0, 0, 2, 2), (0, 1, 2), (1, 1)}


def test_a_statistic_without_a_value_gives_no_interval() -> None:
    assert bootstrap(each(lambda places: float("nan")), np.arange(3)) is None
    # One that only some resamples have is read from those.
    values = np.array([1.0, 2.0])
    found = bootstrap(each(lambda p: values[p].max() if len(set(p.tolist())) == 2 else np.nan), np.arange(2))
    assert found is not None and (found.estimate, found.low, found.high) == (2.0, 2.0, 2.0)


def test_numbers_in_order_of_appearance() -> None:
    assert numbered(["b", "a", "b"]).tolist() == [0, 1, 0]


@pytest.mark.slow
def test_coverage_where_clusters_share_their_luck() -> None:
    # 60 prompts of 6 pairs, each prompt's chance of a right answer drawn from Beta(2, 1), mean 2/3. The share of 300
    # data sets whose interval holds 2/3 must be .95 within 3 standard errors (.038); taken for independent it is lower.
    generator = np.random.default_rng(0)
    clusters = np.repeat(np.arange(60), 6)
    held = independent = 0
    for _ in range(300):
        outcomes = (generator.random(360) < np.repeat(generator.beta(2, 1, 60), 6)).astype(np.float64)
        found, alone = mean(outcomes, clusters), wilson(outcomes.sum(), 360)
        assert found is not None
        held += found.low <= 2 / 3 <= found.high
        independent += alone.low <= 2 / 3 <= alone.high
    assert abs(held / 300 - 0.95) < 0.038
    assert independent / 300 < 0.88
