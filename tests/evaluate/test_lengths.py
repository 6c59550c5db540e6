"""The length-controlled win rate: what it takes away, what it leaves, and where it knows nothing."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from accord.evaluate.statistics import RIDGE, wilson
from accord.evaluate.wins import length_controlled


def rate(wins: object, differences: object) -> float:
    found = length_controlled(np.asarray(wins, float), np.asarray(differences, float), resamples=2)
    assert found is not None
    return found.estimate


def test_a_judge_of_length_alone_is_left_with_a_half() -> None:
    # Verdicts are sigmoid(2 tanh(d / s)): nine answers in ten are longer, and win, but at equal length none is better.
    differences = np.array([10.0] * 45 + [30.0] * 45 + [-20.0] * 10)
    wins = 1 / (1 + np.exp(-2 * np.tanh(differences / differences.std())))
    assert wins.mean() > 0.7
    assert rate(wins, differences) == pytest.approx(0.5, abs=1e-3)  # the ridge takes a little of the slope


def test_what_the_regression_says_at_equal_length_is_found_again() -> None:
    differences = np.linspace(-40, 80, 200)
    wins = 1 / (1 + np.exp(-(0.7 + 1.5 * np.tanh(differences / differences.std()))))
    assert rate(wins, differences) == pytest.approx(1 / (1 + np.exp(-0.7)), abs=1e-4)


def test_where_length_differs_evenly_it_is_the_win_rate() -> None:
    # Wins and losses fall alike on longer and on shorter answers: the slope is 0, and 100 (.75 - sigmoid(a)) = .01 a.
    found = rate([1, 1, 1, 0] * 25, [5, -5, 5, 5, -5, 5, -5, -5] * 12 + [5, -5, 5, -5])
    assert found == pytest.approx(0.75, abs=1e-2)
    exact = rate([1, 1, 1, 1, 1, 1, 0, 0] * 25, [5, -5, 5, -5, 5, -5, 5, -5] * 25)
    a = np.log(exact / (1 - exact))
    assert 200 * (0.75 - exact) == pytest.approx(RIDGE * a, abs=1e-8)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000))
def test_the_rates_of_a_pair_sum_to_one(seed: int) -> None:
    generator = np.random.default_rng(seed)
    wins, differences = generator.choice([0, 0.5, 1], size=40), generator.normal(3, 5, size=40)
    assert rate(wins, differences) + rate(1 - wins, -differences) == pytest.approx(1, abs=1e-9)
    assert rate(wins, 7 * differences) == pytest.approx(rate(wins, differences), abs=1e-9)  # characters or words


def test_verdicts_that_length_separates_stay_finite() -> None:
    differences = np.array([-3.0, -2.0, -1.0, 1.0, 2.0, 3.0] * 10)
    assert rate(differences > 0, differences) == pytest.approx(0.5, abs=1e-9)


def test_where_every_verdict_is_a_win_length_has_decided_nothing() -> None:
    differences = np.arange(30.0)
    assert length_controlled(np.ones(30), differences) == wilson(30, 30)
    assert length_controlled(np.zeros(30), differences) == wilson(0, 30)


@pytest.mark.parametrize("differences", [[], [0.0] * 9, [4.0] * 9])
def test_equal_differences_tell_nothing(differences: list[float]) -> None:
    wins = np.array([1.0, 0.0, 0.5] * 3)[: len(differences)]
    assert length_controlled(wins, np.array(differences)) is None


def test_two_thousand_refits_to_four_hundred_prompts_take_about_a_second() -> None:
    generator = np.random.default_rng(0)
    wins, differences = (generator.random(400) < 0.6).astype(float), generator.normal(20, 40, size=400)
    start = time.process_time()
    length_controlled(wins, differences)
    assert time.process_time() - start < 3
