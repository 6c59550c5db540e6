"""Curves: which values count, how they are smoothed and thinned, and how a fall after the peak is described."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from accord.report.series import Peak, Series, columns, ends, paired, peak, smooth, thin

values = st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=700).map(np.asarray)


def test_columns_keep_finite_numbers_and_count_the_rest() -> None:
    rows: list[dict[str, Any]] = [
        {"step": 1, "loss": 2.0, "reward": None, "note": "x", "flag": True, "seconds": 1.0},
        {"step": 2, "loss": float("nan"), "reward": 0.0},
        {"step": 3, "loss": float("inf"), "bad": float("nan")},
        {"step": 4, "loss": 1},
    ]
    found = columns(rows)
    assert list(found) == ["loss", "reward"]
    assert found["loss"].steps.tolist() == [1, 4] and found["loss"].values.tolist() == [2, 1]
    assert found["loss"].broken == 2
    assert found["reward"].values.tolist() == [0.0] and found["reward"].broken == 0


def test_the_running_mean_by_hand() -> None:
    # 60 values reach two to each side: of 0..59 the mean at 0 is that of 0, 1, 2; at 1 of 0..3; inside, the value.
    smoothed = smooth(np.arange(60.0))
    assert smoothed[[0, 1, 2, 30, 58, 59]].tolist() == [1.0, 1.5, 2.0, 30.0, 57.5, 58.0]
    assert smooth(np.array([4.0])).tolist() == [4.0]


@given(values)
def test_the_running_mean_stays_between_the_extremes(raw: np.ndarray) -> None:
    smoothed = smooth(raw)
    assert smoothed.shape == raw.shape
    # Differences of running sums of up to 700 values of 1e6 round at about 700e6 * 2**-53 * 700 = 5e-5.
    assert smoothed.min() >= raw.min() - 1e-3 and smoothed.max() <= raw.max() + 1e-3


@given(values)
def test_thinning_keeps_order_and_extremes(raw: np.ndarray) -> None:
    steps, kept = thin(np.arange(float(len(raw))), raw)
    assert len(kept) <= 240
    assert (np.diff(steps) > 0).all()
    assert (raw[steps.astype(int)] == kept).all()
    assert kept.min() == raw.min() and kept.max() == raw.max()


def test_ends_are_means_of_tenths() -> None:
    assert ends(np.arange(20.0)) == (0.5, 18.5)
    assert ends(np.array([3.0])) == (3.0, 3.0)


def test_pairs_are_made_by_step() -> None:
    kl = Series(np.array([1.0, 2.0, 4.0]), np.array([0.1, 0.2, 0.4]))
    reward = Series(np.array([2.0, 3.0, 4.0]), np.array([12.0, 13.0, 14.0]))
    left, right = paired(kl, reward)
    assert left.tolist() == [0.2, 0.4] and right.tolist() == [12.0, 14.0]


def test_a_peak_is_where_the_curve_is_highest() -> None:
    assert peak(np.array([1.0, 3.0, 2.5])) == Peak(1, 2.0, 0.5)


def test_a_fall_is_a_share_of_the_gain() -> None:
    assert Peak(1, 2.0, 0.5).fall == "has fallen by 25.0% of its gain at the end"
    assert Peak(1, 2.0, 2.5).fall == "ends below where it began"


def test_a_fall_too_small_to_speak_of() -> None:
    assert not Peak(1, 2.0, 0.04).has_turned
    assert Peak(1, 2.0, 0.05).has_turned
    assert Peak(0, 0.0, 1.0).never_rose
