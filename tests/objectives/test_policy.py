from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from accord.objectives.advantages import group, leave_one_out
from accord.objectives.kl import k1
from accord.objectives.policy import clipped, reinforce, value
from tests.objectives.worlds import minimize, vector

LOGITS, REWARDS = vector(0.4, -0.3, 1.1), vector(1.0, 0.0, -2.0)


def exact_gradient() -> torch.Tensor:
    """The gradient of E[R] with respect to the logits of a softmax, pi_k (R_k - E[R])."""
    pi = LOGITS.softmax(0)
    return pi * (REWARDS - (pi * REWARDS).sum())


def expected_descent(
    advantage_of, samples: int, start: torch.Tensor = LOGITS, rewards: torch.Tensor = REWARDS
) -> torch.Tensor:
    """The mean of minus the gradient of `reinforce` over all tuples of samples, each weighted by its probability."""
    logits = start.clone().requires_grad_()
    logp = logits.log_softmax(0)
    tuples = torch.cartesian_prod(*[torch.arange(3)] * samples).reshape(-1, samples)
    weight = logp.detach()[tuples].sum(1).exp()
    losses = reinforce(logp[tuples].flatten(), advantage_of(rewards[tuples]).flatten()).view(-1, samples)
    (weight * losses.mean(1)).sum().backward()
    assert logits.grad is not None
    return -logits.grad


def test_reinforce_literal() -> None:
    assert reinforce(vector(-1.0, -2.0), vector(3.0, -0.5)).tolist() == [3.0, -1.0]


def test_reinforce_is_unbiased_with_any_constant_baseline() -> None:
    torch.testing.assert_close(expected_descent(lambda r: r, 1), exact_gradient())
    torch.testing.assert_close(expected_descent(lambda r: r - 0.7, 1), exact_gradient())


@pytest.mark.parametrize("samples", [2, 3, 4])
def test_leave_one_out_is_unbiased(samples: int) -> None:
    torch.testing.assert_close(expected_descent(leave_one_out, samples), exact_gradient())


@pytest.mark.parametrize("samples", [2, 3, 4])
def test_a_groups_own_mean_shrinks_the_gradient_by_its_own_share(samples: int) -> None:
    descent = expected_descent(lambda r: group(r, scale=False), samples)
    torch.testing.assert_close(descent, exact_gradient() * (samples - 1) / samples)


def test_a_groups_deviation_turns_the_gradient() -> None:
    # Of two samples the scaled advantages are +-1/sqrt 2: only the order of the rewards is left. For three equally
    # likely actions with rewards 10 > 1 > -2 the mean advantage is sqrt 2 / 3 times (1, 0, -1), and a third of it the
    # gradient. The exact gradient is (7, -2, -5) / 3, at a cosine of 12 / sqrt(2 * 78) = .9608.
    descent = expected_descent(group, 2, torch.zeros(3, dtype=torch.float64), vector(10, 1, -2))
    torch.testing.assert_close(descent, vector(1, 0, -1) * math.sqrt(2) / 9)


def test_no_gradient_reaches_advantages_or_old_log_probabilities() -> None:
    logp, old, advantage = (vector(-1.0, -2.0).requires_grad_() for _ in range(3))
    (reinforce(logp, advantage) + clipped(logp, old, advantage, low=0.2, high=0.2)).sum().backward()
    assert (old.grad, advantage.grad) == (None, None)


def test_clipped_literals() -> None:
    # low .2, high .3. Ratios 1.5 and .5, advantages 2 and -2.
    # A > 0, ratio 1.5: -min(3, 1.3 * 2) = -2.6.  A > 0, ratio .5: -min(1, 1.6) = -1.
    # A < 0, ratio 1.5: -min(-3, -2.6) = 3.       A < 0, ratio .5: -min(-1, -1.6) = 1.6.
    logp = vector(1.5, 0.5, 1.5, 0.5).log().requires_grad_()
    losses = clipped(logp, torch.zeros(4, dtype=torch.float64), vector(2, 2, -2, -2), low=0.2, high=0.3)
    torch.testing.assert_close(losses.detach(), vector(-2.6, -1.0, 3.0, 1.6))
    losses.sum().backward()
    # d/dlogp of -ratio A where it is not clipped, 0 where it is.
    assert logp.grad is not None
    torch.testing.assert_close(logp.grad, vector(0.0, -1.0, 3.0, 0.0))


def test_at_ratio_one_the_gradient_is_the_plain_policy_gradient() -> None:
    logp, advantage = vector(-0.1, -3.0, -7.0).requires_grad_(), vector(1.0, -2.0, 0.0)
    (surrogate,) = torch.autograd.grad(clipped(logp, logp.detach(), advantage, low=0.2, high=0.2).sum(), logp)
    (plain,) = torch.autograd.grad(reinforce(logp, advantage).sum(), logp)
    assert surrogate.tolist() == plain.tolist() == [-1.0, 2.0, 0.0]


@given(st.floats(-3, 3), st.floats(-5, 5), st.floats(0, 0.9), st.floats(0, 2))
def test_clipped_is_the_papers_minimum(log_ratio: float, advantage: float, low: float, high: float) -> None:
    ratio = math.exp(log_ratio)
    expected = -min(ratio * advantage, min(max(ratio, 1 - low), 1 + high) * advantage)
    loss = clipped(vector(log_ratio), vector(0.0), vector(advantage), low=low, high=high)
    assert loss.item() == pytest.approx(expected, rel=1e-12, abs=1e-12)


def test_the_clip_keeps_far_ratios_finite_with_no_gradient() -> None:
    logp = torch.tensor([1e4, -1e4], requires_grad=True)
    losses = clipped(logp, torch.zeros(2), torch.tensor([1.0, -1.0]), low=0.2, high=0.2)
    losses.sum().backward()
    torch.testing.assert_close(losses.detach(), torch.tensor([-1.2, 0.8]))
    assert logp.grad is not None
    assert logp.grad.tolist() == [0.0, 0.0]


@pytest.mark.parametrize(("low", "high"), [(-0.1, 0.2), (1.0, 0.2), (0.2, -0.1), (math.nan, 0.2)])
def test_clipped_refuses_bounds_out_of_range(low: float, high: float) -> None:
    with pytest.raises(ValueError, match="clip bounds"):
        clipped(vector(0), vector(0), vector(1), low=low, high=high)


def test_kl_in_the_reward_leads_to_the_tilted_reference() -> None:
    # At the optimum of E[R] - beta KL the exact policy gradient vanishes: pi = ref exp(R / beta) / Z.
    reference, beta = vector(0.5, 0.3, 0.2), 0.7

    def loss(logits: torch.Tensor) -> torch.Tensor:
        logp = logits.log_softmax(0)
        penalized = REWARDS - beta * k1(logp, reference.log())
        baseline = (logp.exp() * penalized).sum().detach()
        # Summed over all actions, reinforce has the gradient of the objective; only the gradient guides the descent.
        surrogate = (logp.exp().detach() * reinforce(logp, penalized - baseline)).sum()
        objective = -(logp.exp() * penalized).sum()
        return surrogate - surrogate.detach() + objective.detach()

    logits = minimize(loss, 3)
    expected = (reference.log() + REWARDS / beta).softmax(0)
    torch.testing.assert_close(logits.softmax(0), expected, atol=1e-6, rtol=0)


def test_value_literals() -> None:
    # clip .2, return 1. V 0 -> .5: near .2, max(.25, .64) / 2 = .32, flat. V 0 -> .1: inside, .81 / 2 = .405.
    # V 2 -> 1.5: near 1.8, max(.25, .64) / 2 = .32, flat. V 1 -> 3: near 1.2, max(4, .04) / 2 = 2, slope 2.
    values = vector(0.5, 0.1, 1.5, 3.0).requires_grad_()
    losses = value(values, vector(0, 0, 2, 1), torch.ones(4, dtype=torch.float64), clip=0.2)
    torch.testing.assert_close(losses.detach(), vector(0.32, 0.405, 0.32, 2.0))
    losses.sum().backward()
    assert values.grad is not None
    torch.testing.assert_close(values.grad, vector(0.0, -0.9, 0.0, 2.0))


def test_value_without_clip_is_half_the_square() -> None:
    losses = value(vector(3.0), vector(0.0), vector(1.0), clip=math.inf)
    assert losses.tolist() == [2.0]
    with pytest.raises(ValueError, match="clip must be above 0"):
        value(vector(3.0), vector(0.0), vector(1.0), clip=0.0)


def test_gradients_against_finite_differences() -> None:
    x, fixed, advantage = vector(-1.0, -2.0, -0.5).requires_grad_(), vector(-1.1, -1.4, -0.6), vector(1.0, -2.0, 0.5)
    assert torch.autograd.gradcheck(lambda logp: reinforce(logp, advantage), (x,))
    assert torch.autograd.gradcheck(lambda logp: clipped(logp, fixed, advantage, low=0.2, high=0.3), (x,))
    assert torch.autograd.gradcheck(lambda v: value(v, fixed, advantage, clip=0.2), (x,))
