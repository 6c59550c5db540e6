from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from accord.objectives.kl import k1, k2, k3, k3_corrected
from tests.objectives.worlds import vector

PI, REFERENCE = vector(0.5, 0.3, 0.2), vector(0.2, 0.2, 0.6)
# .5 log 2.5 + .3 log 1.5 + .2 log(1/3)
KL = 0.5 * math.log(2.5) + 0.3 * math.log(1.5) - 0.2 * math.log(3)


def test_literals() -> None:
    # d = log 2: log 2, log(2)^2 / 2, 1/2 - 1 + log 2.
    logp, reference = vector(math.log(0.5)), vector(math.log(0.25))
    torch.testing.assert_close(k1(logp, reference), vector(0.6931471805599453))
    torch.testing.assert_close(k2(logp, reference), vector(0.2402265069591007))
    torch.testing.assert_close(k3(logp, reference), vector(0.1931471805599453))


def test_k1_and_k3_are_unbiased_and_k2_is_not() -> None:
    def mean(values: torch.Tensor) -> float:
        return (PI * values).sum().item()

    assert mean(k1(PI.log(), REFERENCE.log())) == pytest.approx(KL, abs=1e-15)
    assert mean(k3(PI.log(), REFERENCE.log())) == pytest.approx(KL, abs=1e-15)
    # .25 log(2.5)^2 + .15 log(1.5)^2 + .1 log(3)^2 = .355252, where KL is .360062.
    assert mean(k2(PI.log(), REFERENCE.log())) == pytest.approx(0.355252, abs=5e-7)


def test_gradients_as_losses() -> None:
    def mean_gradient(estimator) -> torch.Tensor:
        logits = PI.log().requires_grad_()
        (PI * estimator(logits.log_softmax(0), REFERENCE.log())).sum().backward()
        assert logits.grad is not None
        return logits.grad

    # With pi the softmax of the logits: grad KL(pi, ref) = pi (log pi/ref - KL), grad KL(ref, pi) = pi - ref.
    torch.testing.assert_close(mean_gradient(k1), torch.zeros(3, dtype=torch.float64))
    torch.testing.assert_close(mean_gradient(k2), PI * ((PI / REFERENCE).log() - KL))
    torch.testing.assert_close(mean_gradient(k3), PI - REFERENCE)


def test_the_corrected_k3_of_older_samples_has_the_divergence_and_its_gradient() -> None:
    # sum pi_old (pi / pi_old) k3 = KL(pi, ref), whatever sampled; grad KL(pi, ref) = pi (log pi/ref - KL).
    for old in (PI, vector(0.1, 0.6, 0.3)):
        logits = PI.log().requires_grad_()
        mean = (old * k3_corrected(logits.log_softmax(0), old.log(), REFERENCE.log())).sum()
        assert mean.item() == pytest.approx(KL, abs=1e-15)
        torch.testing.assert_close(torch.autograd.grad(mean, logits)[0], PI * ((PI / REFERENCE).log() - KL))


@given(st.floats(-20, 20))
def test_k2_and_k3_are_never_negative_and_k1_has_the_sign_of_the_ratio(d: float) -> None:
    assert k1(vector(d), vector(0.0)).item() == d
    assert k2(vector(d), vector(0.0)).item() >= 0
    assert k3(vector(d), vector(0.0)).item() >= 0


def test_k3_keeps_its_digits_near_zero() -> None:
    # exp(-d) - 1 + d = d^2/2 - d^3/6 + ...: at d = 1e-4 in float64 that is 4.99983e-9.
    assert k3(vector(1e-4), vector(0.0)).item() == pytest.approx(1e-8 / 2 - 1e-12 / 6, rel=1e-6)


@pytest.mark.parametrize("estimator", [k1, k2, k3])
def test_the_reference_has_no_gradient_and_the_policys_is_right(estimator) -> None:
    logp, reference = vector(-1.0, -2.0).requires_grad_(), vector(-1.5, -1.2).requires_grad_()
    estimator(logp, reference).sum().backward()
    assert reference.grad is None
    assert torch.autograd.gradcheck(lambda x: estimator(x, reference.detach()), (logp,))
    with pytest.raises(ValueError, match="logp 2, reference 1"):
        estimator(logp, vector(-1.0))
