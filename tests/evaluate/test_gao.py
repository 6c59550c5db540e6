"""The forms of Gao et al.: exact parameters come back, peaks are where calculus puts them, intervals cover."""

from __future__ import annotations

from math import exp

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from accord.evaluate.curves import BEST_OF_N, RL, Form, coefficients, curve, over_prompts, over_steps

DISTANCE = np.linspace(0, 4, 30)


@pytest.mark.parametrize("form", [BEST_OF_N, RL], ids=lambda form: form.name)
@given(a=st.floats(-3, 3), b=st.floats(-1, 1), start=st.floats(-5, 5))
def test_parameters_of_an_exact_curve_come_back(form: Form, a: float, b: float, start: float) -> None:
    score = curve(form, np.array([a, b, start]), DISTANCE)
    assert coefficients(form, DISTANCE, score, None).tolist() == pytest.approx([a, b, start], abs=1e-9)
    known = coefficients(form, DISTANCE, score, np.asarray(start))
    assert known.tolist() == pytest.approx([a, b, start], abs=1e-9)


def test_turns_and_heights_by_hand() -> None:
    # d (2 - .5 d) peaks at 2 / (2 * .5) = 2, at 2 (2 - 1) = 2. d (2 - log d) peaks where 2 - log d - 1 = 0, at e.
    found = over_prompts(
        BEST_OF_N, (DISTANCE**2)[None].repeat(3, 0), (DISTANCE * (2 - 0.5 * DISTANCE))[None].repeat(3, 0)
    )
    assert found.turn is not None and found.peak is not None
    assert (found.turn.estimate, found.peak.estimate) == pytest.approx((2, 2))
    score = 7 + curve(RL, np.array([2.0, 1.0, 0.0]), DISTANCE)
    found = over_steps(RL, DISTANCE, score)
    assert found.turn is not None and found.peak is not None
    assert (found.turn.estimate, found.peak.estimate) == pytest.approx((exp(1), exp(1)))
    assert (found.start, found.r2, found.reach) == pytest.approx((7, 1, 4))
    assert found.turn is not None and found.turn.estimate == pytest.approx(exp(1)) and found.form == "rl"


@pytest.mark.parametrize("form", [BEST_OF_N, RL], ids=lambda form: form.name)
@given(a=st.floats(0.1, 3), b=st.floats(0.1, 2))
def test_no_place_is_higher_than_the_turn(form: Form, a: float, b: float) -> None:
    turn, height = form.turn(np.array(a), np.array(b)), form.height(np.array(a), np.array(b))
    assert curve(form, np.array([a, b, 0]), turn) == pytest.approx(height)
    assert (curve(form, np.array([a, b, 0]), turn * np.linspace(0.5, 2, 61)) <= height * (1 + 1e-12)).all()


def test_a_peak_beyond_what_was_measured_is_no_turn() -> None:
    # d (4 - .4 d) peaks at 5, and the curve ends at 4.
    score = curve(BEST_OF_N, np.array([4.0, 0.4, 1.0]), DISTANCE)
    found = over_prompts(BEST_OF_N, (DISTANCE**2)[None].repeat(2, 0), score[None].repeat(2, 0))
    assert found.turn is None and found.peak is None and found.b.low > 0


def test_a_bend_that_may_be_noise_is_no_turn() -> None:
    generator = np.random.default_rng(0)
    scores = DISTANCE + 0.02 * generator.normal(size=(20, 1)) * DISTANCE**2  # b is 0 on average over prompts
    found = over_prompts(BEST_OF_N, np.square(DISTANCE)[None].repeat(20, 0), scores)
    assert found.b.low < 0 < found.b.high and found.turn is None


def test_intervals_over_prompts_cover_the_truth() -> None:
    # Each of 60 prompts has an a and a b of its own, around 1 and .2. Of 400 intervals that hold the truth in 95%, from
    # 93% to 97% do so (the standard error is 1.1 points).
    generator, held = np.random.default_rng(0), np.zeros(2)
    kl = np.square(DISTANCE)[None].repeat(60, 0)
    for seed in range(400):
        a, b = 1 + 0.5 * generator.normal(size=(60, 1)), 0.2 + 0.1 * generator.normal(size=(60, 1))
        found = over_prompts(BEST_OF_N, kl, DISTANCE * (a - b * DISTANCE), resamples=500, seed=seed)
        held += [found.a.low <= 1 <= found.a.high, found.b.low <= 0.2 <= found.b.high]
    assert (abs(held / 400 - 0.95) <= 0.02).all()


@pytest.mark.parametrize("rho", [0.0, 0.7])
def test_intervals_over_steps_cover_the_truth_where_steps_depend_on_each_other(rho: float) -> None:
    # Of 400 runs of 60 steps, whose noise is rho of the step's before, 95% of the intervals or more hold b (standard
    # error 1.1 points); blocks of 8 steps hold it in 82% at .7. That rho is not known costs width: 98% hold it.
    generator, held, width, distance = np.random.default_rng(0), 0, [], np.linspace(0, 4, 60)
    truth = curve(RL, np.array([1.0, 0.7, 2.0]), distance)
    for seed in range(400):
        noise = generator.normal(size=60)
        noise[1:] *= (1 - rho**2) ** 0.5
        for t in range(1, 60):
            noise[t] += rho * noise[t - 1]
        found = over_steps(RL, distance, truth + 0.1 * noise, draws=500, seed=seed)
        held += found.b.low <= 0.7 <= found.b.high
        width.append(found.b.high - found.b.low)
    assert 0.93 <= held / 400 <= 0.99
    solver = np.linalg.pinv(np.stack([distance, -RL.bend(distance), np.ones(60)], -1))
    correlation = rho ** abs(np.subtract.outer(np.arange(60), np.arange(60)))
    known = 2 * 1.96 * 0.1 * (solver @ correlation @ solver.T)[1, 1] ** 0.5
    assert 1 <= np.median(width) / known <= 1.35
