"""Learning curves: exact ones come back, bounds hold, what is foretold is by hand, intervals cover the truth."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
import pytest
import scipy
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from accord.data.judgments import Judgment
from accord.evaluate.accuracy import Predictions
from accord.evaluate.learning_curve import (
    POWERS,
    HeldOutOutcomes,
    by_prompt,
    fitted,
    learning_curve,
    predicted,
    scatter,
)
from accord.results import LearningCurveResult, parse
from accord.results.intervals import wilson

SIZES = np.array([50.0, 100.0, 200.0, 400.0])


def exact(accuracy: np.ndarray, sizes: np.ndarray = SIZES) -> HeldOutOutcomes:
    """Four repeats that all agree, on 100 prompts that are all alike: nothing scatters."""
    return HeldOutOutcomes(sizes, np.broadcast_to(accuracy[None, :, None], (4, len(sizes), 100)), np.ones(100))


def drawn(curve: Callable[[np.ndarray], np.ndarray], seed: int, prompts: int = 150) -> HeldOutOutcomes:
    """Models that are .02 off the curve each, on prompts that are up to .1 harder or easier."""
    generator = np.random.default_rng(seed)
    off, hard = generator.normal(0, 0.02, size=(4, 4, 1)), generator.uniform(-0.1, 0.1, size=prompts)
    chance = curve(SIZES)[None, :, None] + off + hard
    return HeldOutOutcomes(SIZES, (generator.random(chance.shape) < chance).astype(np.float64), np.ones(prompts))


@given(a=st.floats(0.5, 1), b=st.floats(0, 2), power=st.sampled_from(POWERS.tolist()))
def test_an_exact_curve_comes_back(a: float, b: float, power: float) -> None:
    truth = np.array([[a, b, power]])
    found = fitted(SIZES, predicted(truth, SIZES), [power])
    assert_allclose(found, truth, atol=1e-9)
    if b * SIZES[0] ** -power > 1e-3:  # else no c is to be seen
        assert_allclose(fitted(SIZES, predicted(truth, SIZES), POWERS), truth, atol=1e-6)


@given(accuracy=st.lists(st.floats(0, 1), min_size=4, max_size=4))
def test_bounds_hold_and_nothing_within_them_fits_better(accuracy: list[float]) -> None:
    y, x = np.array(accuracy), SIZES**-0.5
    ((a, b, _),) = fitted(SIZES, y[None], [0.5])
    assert a <= 1 and b >= 0
    by_scipy = scipy.optimize.lsq_linear(np.stack([np.ones(4), -x], -1), y, bounds=([-np.inf, 0], [1, np.inf]))
    assert np.square(a - b * x - y).sum() == pytest.approx(2 * by_scipy.cost, abs=1e-8)


def test_what_is_foretold_by_hand() -> None:
    """.9 - 2 / sqrt(n): at 400 .8, at 800 .9 - .0707, at 600 .9 - .0816; .85 is reached at (2 / .05)^2 = 1,600."""
    found = learning_curve(exact(0.9 - 2 * SIZES**-0.5), target=0.85)
    assert found.verdict == "rises" and found.fit is not None and found.reached is not None
    assert (found.fit.a.estimate, found.fit.b.estimate, found.fit.c.estimate) == pytest.approx((0.9, 2, 0.5))
    assert [more.more for more in found.buys] == [400, 200]
    gains = [0.1 - 2 / 800**0.5, 0.1 - 2 / 600**0.5]
    assert [more.gain.estimate for more in found.buys] == pytest.approx(gains)
    assert found.reached.labels == pytest.approx(1600, abs=1) and str(found.reached).startswith("1,600 [")
    assert found.bought.estimate == pytest.approx(2 / 200**0.5 - 0.1)
    assert "Twice as many would buy 2.9 points" in found.sentence()
    assert parse(found.model_dump(mode="json")) == found
    far = learning_curve(exact(0.9 - 2 * SIZES**-0.5), target=0.95)
    assert str(far.reached) == "more than 4,000"
    assert learning_curve(exact(0.9 - 2 * SIZES**-0.5)).reached.accuracy == pytest.approx(0.85)  # type: ignore[union-attr]


def test_another_power_is_found_where_the_half_is_rejected() -> None:
    found = learning_curve(exact(0.9 - 20 / SIZES))  # c = 1
    assert found.fit is not None and found.fit.c.estimate == pytest.approx(1, abs=0.1)
    assert found.buys[0].gain.estimate == pytest.approx(20 / 800, rel=0.1)


def test_what_cannot_be_told_is_not_foretold() -> None:
    late = learning_curve(exact(np.array([0.515, 0.543, 0.592, 0.816])))
    assert late.verdict == "not this form" and not (late.fit or late.buys or late.line or late.reached)
    assert "rise faster with more labels" in late.sentence()
    chance = learning_curve(drawn(lambda n: np.full(4, 0.5), seed=1))
    assert chance.verdict == "not begun" and not chance.buys and "Too few to tell" in chance.sentence()
    right = learning_curve(exact(np.ones(4)))
    assert right.verdict == "all alike" and right.points[-1].accuracy == wilson(100, 100)
    flat = learning_curve(drawn(lambda n: np.full(4, 0.75), seed=2))
    assert flat.verdict == "flat" and flat.buys[0].gain.low == 0
    assert f"hardly more than {100 * flat.buys[0].gain.high:.1f}" in flat.sentence()
    with pytest.raises(ValueError, match="2 repeats of 3 sizes, not 1 of 4"):
        learning_curve(HeldOutOutcomes(SIZES, np.ones((1, 4, 30)), np.ones(30)))


def test_the_scatter_is_that_of_prompts_and_of_repeats() -> None:
    """Over prompts the variance of a mean; over repeats s^2 / R times (R - 1) / (R - 3), Student's of 5 repeats."""
    generator = np.random.default_rng(0)
    right = np.broadcast_to((generator.random((1, 3, 80)) < 0.7).astype(np.float64), (5, 3, 80))
    alike = scatter(HeldOutOutcomes(SIZES[:3], right, np.ones(80)), 40_000)
    assert_allclose(alike.var(0), right[0].var(-1, ddof=1) / 80, rtol=0.05)
    off = generator.normal(0, 0.1, size=(5, 3, 1))
    apart = scatter(HeldOutOutcomes(SIZES[:3], np.broadcast_to(0.5 + off, (5, 3, 80)), np.ones(80)), 400_000)
    quantiles = np.quantile(apart, 0.9, axis=0)
    assert_allclose(quantiles, scipy.special.stdtrit(4, 0.9) * off[:, :, 0].std(0, ddof=1) / 5**0.5, rtol=0.02)


@pytest.mark.parametrize("power", [0.25, 0.5, 1.0])
def test_intervals_cover_the_truth_whatever_the_power(power: float) -> None:
    """Of 100 projects; more than 95% may do so, as c is left open. The bound is three standard errors below."""
    b = 0.15 * 100**power  # .7 at 100 labels

    def curve(n: np.ndarray) -> np.ndarray:
        return 0.85 - b * np.asarray(n, dtype=np.float64) ** -power

    held = np.zeros(3)
    for seed in range(100):
        found = learning_curve(drawn(curve, seed), resamples=400, seed=seed)
        if not found.buys:  # nothing is foretold
            held += 1
            continue
        gain, then, now = found.buys[0].gain, found.line[-1].accuracy, found.points[-1].accuracy
        held += [gain.low <= curve(800) - curve(400) <= gain.high, then.low <= curve(800) <= then.high,
                 now.low <= curve(400) <= now.high]  # fmt: skip
    assert (held >= 89).all(), held


def test_outcomes_are_of_prompts_by_their_weights() -> None:
    """Ties are left out, an equal lead is half right, and a judgment drawn rarely weighs more."""
    judged = [("p", 1.0, 2.0, 1.0), ("p", 1.0, -2.0, 3.0), ("q", 0.5, 1.0, 9.0), ("q", 0.0, 0.0, 2.0)]
    judgments = [Judgment(p, "a", "b", label, row, weight=w) for row, (p, label, _, w) in enumerate(judged)]
    right, weight = by_prompt(Predictions(judgments, np.array([lead for _, _, lead, _ in judged])))
    assert right.tolist() == [1, 1] and weight.tolist() == [4, 2]


def test_the_picture_has_a_mark_for_every_model() -> None:
    found = learning_curve(drawn(lambda n: 0.9 - 2 * n**-0.5, seed=3, prompts=1000))
    assert isinstance(found, LearningCurveResult) and found.verdict == "rises"
    svg = found.svg()
    assert svg.count('r="2"') == 16 and svg.count('r="4"') == 4 and svg.count("dasharray") == 1
    xs = [float(x) for x in re.findall(r'cx="([\d.]+)" cy="[\d.]+" r="4"', svg)]
    assert_allclose(np.diff(xs), 340 / 4, atol=0.1)  # doublings are equally far apart; the curve goes one beyond
    assert all(0 <= float(y) <= 208 for y in re.findall(r'cy="([^"]+)"', svg))
