"""Calibration: the curve and its error by hand, and what is said of models whose calibration is known."""

from __future__ import annotations

from math import log

import numpy as np
import pytest

from accord.data.judgments import Judgment
from accord.evaluate.accuracy import Predictions
from accord.evaluate.calibration import bins_for, calibration, corrected, fitted_slope
from accord.evaluate.statistics import wilson


def simulated(generator: np.random.Generator, n: int, slope: float) -> tuple[Predictions, np.ndarray]:
    """Judgments that follow sigmoid(slope z) of a model that says sigmoid(z)."""
    lead = generator.normal(scale=1.5, size=n)
    labels = generator.random(n) < 1 / (1 + np.exp(-slope * lead))
    rows = [Judgment(f"p{i}", "a", "b", float(x), i) for i, x in enumerate(labels)]
    return Predictions(rows, lead), 1 / (1 + np.exp(-lead))


def test_gaps_without_scatter_are_as_measured() -> None:
    found = corrected(np.array([0.1, -0.3]), np.zeros((10, 2)))
    assert (found.estimate, found.low, found.high) == pytest.approx((0.4, 0.4, 0.4), abs=1e-5)


def test_gaps_no_larger_than_scatter_are_none() -> None:
    # Scatter of .2 to either side makes a sum of .2 out of nothing; .1 was seen.
    found = corrected(np.array([0.1]), np.array([[0.2], [-0.2]]))
    assert (found.estimate, found.low) == (0.0, 0.0)
    assert corrected(np.array([0.0]), np.array([[0.0]])).high == 0.0


def test_one_gap_with_scatter_by_hand() -> None:
    # One gap of .5, scatter evenly -.1 ... .1: |.5 t + e| has the median .5 t, and its 97.5th and 2.5th percentile lie
    # .095 above and below. So t is 1, .81 and 1.19.
    found = corrected(np.array([0.5]), np.linspace(-0.1, 0.1, 2001)[:, None])
    assert (found.estimate, found.low, found.high) == pytest.approx((0.5, 0.405, 0.595), abs=1e-4)


def test_bins_of_twenty_pairs_up_to_ten() -> None:
    assert [bins_for(n) for n in (1, 39, 40, 199, 200, 9999)] == [1, 1, 2, 9, 10, 10]


def test_the_confidence_is_that_of_whichever_is_preferred() -> None:
    # Chances .2, .9, .5 and labels second, second, first: confidences .8 (right), .9 (wrong), .5 (neither: half).
    rows = [Judgment(f"p{i}", "a", "b", label, i) for i, label in enumerate((0.0, 0.0, 1.0, 0.5))]
    found = calibration(Predictions(rows, np.array([-1.0, 2.0, 0.0, 1.0])), np.array([0.2, 0.9, 0.5, 0.7]))
    assert found is not None
    assert [(b.confidence, b.frequency) for b in found.bins] == [(pytest.approx((0.8 + 0.9 + 0.5) / 3), wilson(1.5, 3))]
    assert found.plain_ece == pytest.approx(abs(1.5 - 2.2) / 3)


def test_a_calibrated_model_and_one_that_is_too_sure() -> None:
    generator = np.random.default_rng(1)
    good = calibration(*simulated(generator, 2000, 1.0))
    sure = calibration(*simulated(generator, 2000, 0.4))
    assert good is not None and good.slope is not None and sure is not None and sure.slope is not None
    # The uncorrected error of the first is what chance makes of none, and its interval reaches 0.
    assert good.ece.low == 0.0 and good.plain_ece < 1.5 * good.if_calibrated
    assert good.slope.low < 1 < good.slope.high
    # The second says sigmoid(|z|) where people follow sigmoid(.4 |z|): the mean gap, by a sum over N(0, 1.5^2), .154.
    z = np.abs(np.random.default_rng(2).normal(scale=1.5, size=400_000))
    gap = (1 / (1 + np.exp(-z)) - 1 / (1 + np.exp(-0.4 * z))).mean()
    assert sure.ece.low < gap < sure.ece.high and sure.ece.low > 0.1
    assert sure.slope.low < 0.4 < sure.slope.high < 1


@pytest.mark.slow
@pytest.mark.parametrize("slope", [1.0, 0.7, 0.4])
def test_the_interval_of_the_error_covers_it(slope: float) -> None:
    # 200 models tried on 300 pairs. The true error is the mean gap, a sum over N(0, 1.5^2). The interval should hold it
    # in 95%, within 3 standard errors (.046), and more often where it is 0; the plain error of a calibrated model is
    # .06, which is what `if_calibrated` foretells, and the corrected one less than half of that.
    z = np.abs(np.random.default_rng(2).normal(scale=1.5, size=400_000))
    truth = (1 / (1 + np.exp(-z)) - 1 / (1 + np.exp(-slope * z))).mean()
    generator = np.random.default_rng(0)
    found = [c for _ in range(200) if (c := calibration(*simulated(generator, 300, slope))) is not None]
    covered = np.mean([c.ece.low <= truth <= c.ece.high for c in found])
    assert covered > 0.95 - 0.046
    plain, estimate = np.mean([c.plain_ece for c in found]), np.mean([c.ece.estimate for c in found])
    assert abs(estimate - truth) < abs(plain - truth) / 2
    if slope == 1:
        assert plain == pytest.approx(float(np.mean([c.if_calibrated for c in found])), rel=0.1)


def test_the_slope_by_hand() -> None:
    # 3 of 4 pairs with log-odds 2 go as the model says: sigmoid(2 b) = 3/4, b = log(3) / 2 (the ridge aside).
    # The second resample has every third success once and every failure once: sigmoid(2 b) = 1/2. The third has none.
    signed = np.array([2.0, 2.0, 2.0, -2.0] * 50)
    weights = np.array([[1, 1, 1, 1] * 50, [1, 0, 0, 1] * 50, [1, 1, 1, 0] * 50], dtype=np.float64)
    found = fitted_slope(weights, signed)
    assert found[:2] == pytest.approx([log(3) / 2, 0.0], abs=1e-3) and np.isnan(found[2])


def test_certain_verdicts_have_no_slope_and_ties_alone_no_calibration() -> None:
    rows = [Judgment(f"p{i}", "a", "b", float(i % 2), i) for i in range(4)]
    found = calibration(Predictions(rows, np.array([0.5] * 4)), np.ones(4))
    assert found is not None and found.slope is None
    assert found.plain_ece == 0.5  # always certain and right half the time
    tied = [Judgment("p", "a", "b", 0.5)]
    assert calibration(Predictions(tied, np.ones(1)), np.ones(1)) is None


def test_labels_that_may_be_wrong() -> None:
    # The model says .8, .3 and .5 of the first, people .75, .25 and .9. In the first two it prefers what is likelier,
    # which is the better with .75; in the third it prefers neither, a half.
    rows = [Judgment(f"p{i}", "a", "b", label, i) for i, label in enumerate((0.75, 0.25, 0.9))]
    trial, chance = Predictions(rows, np.array([2.0, -1.0, 0.0])), np.array([0.8, 0.3, 0.5])
    assert trial.accuracy() == wilson(2.5, 3)
    found = calibration(trial, chance)
    assert found is not None and found.log_loss is not None
    assert found.bins[0].frequency.estimate == pytest.approx((0.75 + 0.75 + 0.5) / 3)
    losses = -0.75 * log(0.8) - 0.25 * log(0.2), -0.25 * log(0.3) - 0.75 * log(0.7), log(2)
    assert found.log_loss.estimate == pytest.approx(sum(losses) / 3)
    entropy = sum(-p * log(p) - (1 - p) * log(1 - p) for p in (0.75, 0.25, 0.9)) / 3
    assert found.label_entropy == pytest.approx(entropy)


def test_the_slope_of_labels_that_may_be_wrong() -> None:
    # All log-odds are 2 and go as the model says with 3/4: as for certain labels, b = log(3) / 2, and it is finite.
    ones = np.ones((1, 200))
    assert fitted_slope(ones, 2 * ones[0], 0.75 * ones[0]) == pytest.approx([log(3) / 2], abs=1e-3)
    assert np.isnan(fitted_slope(ones, 2 * ones[0]))


def test_the_log_loss_of_certain_labels() -> None:
    rows = [Judgment(f"p{i}", "a", "b", label, i) for i, label in enumerate((1.0, 0.0, 0.5))]
    found = calibration(Predictions(rows, np.ones(3)), np.array([0.8, 0.3, 0.9]))
    assert found is not None and found.log_loss is not None and found.label_entropy is None
    assert found.log_loss.estimate == pytest.approx((-log(0.8) - log(0.7)) / 2)  # ties are not asked about
    wrong = calibration(Predictions(rows, np.ones(3)), np.array([1.0, 1.0, 0.9]))
    assert wrong is not None and wrong.log_loss is None  # infinite
