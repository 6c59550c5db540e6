"""DPO, IPO and KTO: literal values, population optima, and what they refuse."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from accord.objectives.preference import dpo, ipo, kto
from tests.objectives.worlds import CYCLIC, minimize, vector


def expected_over_pairs(loss, logits: Tensor, reference: Tensor, wins: Tensor, weight: Tensor) -> Tensor:
    """The mean of a margin loss over pairs (i, j) drawn with `weight`, of which i wins with probability wins[i, j]."""
    i, j = torch.ones_like(wins).nonzero(as_tuple=True)
    logp, log_reference = logits.log_softmax(0), reference.log()
    losses = loss(logp[i] - logp[j], log_reference[i] - log_reference[j])
    return (weight[i, j] * wins[i, j] * losses).sum()


def test_dpo_literals() -> None:
    # beta (m - m_ref) = .5 * (2 log 3 - 0) = log 3: -log sigmoid is log(4/3), -log sigmoid of the flip is log 4.
    margins, reference = vector(2 * math.log(3)), vector(0.0)
    torch.testing.assert_close(dpo(margins, reference, beta=0.5), vector(math.log(4 / 3)))
    smoothed = 0.9 * math.log(4 / 3) + 0.1 * math.log(4)
    torch.testing.assert_close(dpo(margins, reference, beta=0.5, label_smoothing=0.1), vector(smoothed))
    torch.testing.assert_close(dpo(reference, reference, beta=0.1), vector(math.log(2)))


def test_dpo_optimum_is_the_reference_tilted_by_the_reward() -> None:
    reward, reference, beta = vector(1.0, 0.2, -0.5), vector(0.5, 0.3, 0.2), 0.4
    wins = torch.sigmoid(reward[:, None] - reward)
    weight = torch.outer(vector(0.2, 0.5, 0.3), vector(0.2, 0.5, 0.3))

    def loss(policy_margin: Tensor, reference_margin: Tensor) -> Tensor:
        return dpo(policy_margin, reference_margin, beta=beta)

    logits = minimize(lambda x: expected_over_pairs(loss, x, reference, wins, weight), 3)
    torch.testing.assert_close(logits.softmax(0), (reference.log() + reward / beta).softmax(0), atol=1e-6, rtol=0)
    # So the gaps of the implicit reward beta log(pi / pi_ref) are those of the true one: .8 and .7.
    implicit = beta * (logits.log_softmax(0) - reference.log())
    torch.testing.assert_close(-implicit.diff(), vector(0.8, 0.7), atol=1e-6, rtol=0)


def test_dpo_label_smoothing_keeps_the_optimum_finite_where_labels_agree() -> None:
    # Always the same winner, e = .1: the smoothed loss has its minimum at sigmoid(beta z) = .9, so z = log 9 / beta.
    margin = minimize(lambda x: dpo(x, torch.zeros_like(x), beta=0.5, label_smoothing=0.1).sum(), 1)
    assert margin.item() == pytest.approx(math.log(9) / 0.5, abs=1e-6)


def test_dpo_is_stable_and_the_reference_gets_no_gradient() -> None:
    policy = torch.tensor([1e5, -1e5], requires_grad=True)
    reference = torch.zeros(2, requires_grad=True)
    losses = dpo(policy, reference, beta=0.1)
    losses.sum().backward()
    assert losses.tolist() == [0.0, 1e4]
    assert policy.grad is not None
    torch.testing.assert_close(policy.grad, torch.tensor([0.0, -0.1]))
    assert reference.grad is None


def test_dpo_refuses_settings_out_of_range() -> None:
    with pytest.raises(ValueError, match="beta must be above 0, not 0"):
        dpo(vector(1), vector(0), beta=0)
    with pytest.raises(ValueError, match=r"label_smoothing must lie between 0\.0 and 0\.5, not 0\.6"):
        dpo(vector(1), vector(0), beta=0.1, label_smoothing=0.6)


def test_ipo_literals() -> None:
    # tau .1 aims at a margin of 5 above the reference: (2 - 1 - 5)^2 = 16, and 0 at the aim.
    assert ipo(vector(2, 6), vector(1, 1), tau=0.1).tolist() == [16.0, 0.0]


def test_ipo_population_optimum() -> None:
    # pi_ref exp(p(y beats mu) / tau) / Z. p(y beats mu) = P mu = (.59, .29, .59); the exponents .59/.1 and .29/.1 give
    # (.5 e^5.9, .3 e^2.9, .2 e^5.9) normalized = (.699363, .020892, .279745).
    mu, reference = vector(0.6, 0.3, 0.1), vector(0.5, 0.3, 0.2)

    def loss(policy_margin: Tensor, reference_margin: Tensor) -> Tensor:
        return ipo(policy_margin, reference_margin, tau=0.1)

    logits = minimize(lambda x: expected_over_pairs(loss, x, reference, CYCLIC, torch.outer(mu, mu)), 3)
    torch.testing.assert_close(logits.softmax(0), vector(0.699363, 0.020892, 0.279745), atol=6e-7, rtol=0)


def test_ipo_stays_near_the_reference_where_dpo_runs_away() -> None:
    # Two actions, the first always wins, uniform reference: IPO's optimum is sigmoid(1 / (2 tau)), and the gradient of
    # DPO never vanishes.
    tau = 0.5
    aim = minimize(lambda x: ipo(x, torch.zeros_like(x), tau=tau).sum(), 1)
    assert torch.sigmoid(aim).item() == pytest.approx(0.7310585786, abs=1e-9)
    far = vector(50.0).requires_grad_()
    dpo(far, vector(0.0), beta=tau).sum().backward()
    assert far.grad is not None
    assert far.grad.item() == pytest.approx(-tau * math.exp(-25), rel=1e-6)


def test_kto_literals() -> None:
    # beta (r - z0) = .5 * (2 log 3) = log 3, sigmoid .75. Desirable: 2 (1 - .75) = .5. Undesirable: 3 (1 - .25) = 2.25.
    log_ratio = vector(2 * math.log(3) + 1, 2 * math.log(3) + 1)
    losses = kto(log_ratio, torch.tensor([True, False]), 1.0, beta=0.5, desirable_weight=2.0, undesirable_weight=3.0)
    torch.testing.assert_close(losses, vector(0.5, 2.25))


@given(st.floats(-3, 3), st.floats(0, 3), st.floats(0, 1).filter(lambda p: abs(p - 0.5) > 0.01))
def test_kto_follows_the_majority_label_wherever_the_policy_stands(ratio: float, baseline: float, p: float) -> None:
    log_ratio = vector(ratio, ratio).requires_grad_()
    losses = kto(log_ratio, torch.tensor([True, False]), baseline, beta=0.3)
    (losses * vector(p, 1 - p)).sum().backward()
    assert log_ratio.grad is not None
    assert math.copysign(1, log_ratio.grad.sum().item()) == (-1.0 if p > 0.5 else 1.0)


def test_kto_baseline_has_no_gradient_and_extremes_are_finite() -> None:
    baseline = torch.tensor(0.5, requires_grad=True)
    log_ratio = torch.tensor([1e5, -1e5], requires_grad=True)
    losses = kto(log_ratio, torch.tensor([True, True]), baseline, beta=0.1)
    losses.sum().backward()
    assert losses.tolist() == [0.0, 1.0]
    assert baseline.grad is None
    assert log_ratio.grad is not None
    assert log_ratio.grad.tolist() == [0.0, 0.0]


def test_kto_refuses_labels_that_are_not_booleans() -> None:
    with pytest.raises(ValueError, match="desirable must be 2 booleans"):
        kto(vector(1, 2), torch.tensor([1, 0]), 0.0, beta=0.1)
