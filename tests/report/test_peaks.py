"""Peaks of courses, and how a fall is told."""

from __future__ import annotations

import numpy as np

from accord.report.peaks import Peak, peak


def test_a_peak_is_where_the_course_is_highest() -> None:
    assert peak(np.array([1.0, 3.0, 2.5])) == Peak(1, 2.0, 0.5)


def test_a_fall_is_a_share_of_the_gain() -> None:
    assert Peak(1, 2.0, 0.5).fall == "has fallen by 25.0% of its gain at the end"
    assert Peak(1, 2.0, 2.5).fall == "ends below where it began"


def test_a_fall_too_small_to_speak_of() -> None:
    assert not Peak(1, 2.0, 0.04).has_turned
    assert Peak(1, 2.0, 0.05).has_turned
    assert Peak(0, 0.0, 1.0).never_rose
