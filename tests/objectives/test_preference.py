"""Bradley-Terry, and what all losses of preferences share: labels that may be wrong, finite differences."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from accord.objectives.preference import bradley_terry, dpo, general_ranking, ipo, kto, plackett_luce, ranking
from tests.objectives.worlds import ZERO3, minimize, vector


def test_bradley_terry_literals() -> None:
    # -log sigmoid(0) = log 2; -log sigmoid(log 3) = log(1 + 1/3) = log(4/3); a margin of log 3 takes it back to log 2.
    losses = bradley_terry(vector(1.0, math.log(3)), vector(1.0, 0.0))
    torch.testing.assert_close(losses, vector(math.log(2), math.log(4 / 3)))
    torch.testing.assert_close(bradley_terry(vector(math.log(3)), vector(0.0), math.log(3)), vector(math.log(2)))
    by_pair = bradley_terry(vector(1, 2), vector(0, 0), vector(1, 2))
    torch.testing.assert_close(by_pair, vector(math.log(2), math.log(2)))


def test_bradley_terry_is_logistic_regression_on_score_differences() -> None:
    # Item 0 beats item 1 three times of four, item 1 beats item 2 once of five. On a chain the maximum-likelihood
    # differences are the log odds of each link: log 3 and log(1/4).
    chosen, rejected = torch.tensor([0, 0, 0, 1, 1, 2, 2, 2, 2]), torch.tensor([1, 1, 1, 0, 2, 1, 1, 1, 1])
    scores = minimize(lambda x: bradley_terry(x[chosen], x[rejected]).sum(), 3)
    torch.testing.assert_close(-scores.diff(), vector(math.log(3), -math.log(4)), atol=1e-6, rtol=0)


def test_a_cycle_of_three_teaches_nothing() -> None:
    # 0 > 1 > 2 > 0: the gradient at equal scores is -1/2 + 1/2 for every item, and the loss is convex.
    start = vector(0.3, -1.5, 1.2)
    scores = start + minimize(lambda x: bradley_terry(start + x, (start + x).roll(-1)).sum(), 3)
    torch.testing.assert_close(scores, vector(0, 0, 0), atol=1e-6, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_bradley_terry_is_stable_at_huge_margins(dtype: torch.dtype) -> None:
    # -log sigmoid(z) is 0 for z = 1e4 and 1e4 for z = -1e4; the gradients are 0 and -1.
    chosen = torch.tensor([1e4, -1e4], dtype=dtype, requires_grad=True)
    losses = bradley_terry(chosen, torch.zeros(2, dtype=dtype))
    losses.sum().backward()
    assert losses.tolist() == [0.0, torch.tensor(1e4, dtype=dtype).item()]
    assert chosen.grad is not None
    assert chosen.grad.tolist() == [0.0, -1.0]


@given(st.floats(-50, 50), st.floats(-50, 50))
def test_bradley_terry_gives_both_verdicts_total_probability_one(a: float, b: float) -> None:
    first, second = bradley_terry(vector(a, b), vector(b, a)).neg().exp().tolist()
    assert first + second == pytest.approx(1.0, abs=1e-12)


def test_bradley_terry_refuses_vectors_that_do_not_match() -> None:
    with pytest.raises(ValueError, match="chosen 2, rejected 3"):
        bradley_terry(vector(1, 2), vector(1, 2, 3))
    with pytest.raises(ValueError, match="margin must be one number"):
        bradley_terry(vector(1, 2), vector(1, 2), vector(1, 2, 3))
    with pytest.raises(ValueError, match="floating-point"):
        bradley_terry(torch.tensor([1]), torch.tensor([0]))


def test_smoothed_losses_are_the_mean_over_both_labels() -> None:
    # At a lead of log 3 and e = 1/4: -3/4 log(3/4) - 1/4 log(1/4), the entropy of (3/4, 1/4), which is the least.
    entropy = -0.75 * math.log(0.75) - 0.25 * math.log(0.25)
    lead, zero, e = vector(math.log(3)), vector(0.0), vector(0.25)
    assert bradley_terry(lead, zero, 0.0, e).tolist() == pytest.approx([entropy])
    assert dpo(lead, zero, beta=1.0, label_smoothing=e).tolist() == pytest.approx([entropy])
    group = torch.zeros(2, dtype=torch.long)
    scores = vector(0.0, math.log(3))
    assert ranking(scores, group, torch.tensor([1, 0]), 0.0, e).tolist() == pytest.approx([entropy])
    assert general_ranking(scores[:, None], group, torch.tensor([1, 0]), e).tolist() == pytest.approx([entropy])
    # IPO at h = 1, tau = 1/4, so c = 2: 3/4 (1 - 2)^2 + 1/4 (1 + 2)^2 = 3; at rest h = (1 - 2e) c = 1.
    h = vector(1.0).requires_grad_()
    loss = ipo(h, zero, tau=0.25, label_smoothing=e)
    loss.sum().backward()
    assert (loss.tolist(), h.grad.tolist()) == ([3.0], [0.0])  # type: ignore[union-attr]
    # A margin is asked of whichever is better: -3/4 log sigmoid(1 - 2) - 1/4 log sigmoid(-1 - 2).
    asked = 0.75 * math.log1p(math.exp(1)) + 0.25 * math.log1p(math.exp(3))
    assert bradley_terry(vector(1.0), zero, 2.0, e).tolist() == pytest.approx([asked])


@given(st.floats(-20, 20), st.floats(-20, 20), st.floats(0, 0.5))
def test_every_smoothed_loss_is_linear_in_the_label(first: float, second: float, e: float) -> None:
    a, b, doubt = vector(first), vector(second), vector(e)
    losses = (
        lambda x, y, s: bradley_terry(x, y, 0.7, s),
        lambda x, y, s: dpo(x, y, beta=0.3, label_smoothing=s),
        lambda x, y, s: ipo(x, y, tau=0.2, label_smoothing=s),
    )
    for loss, flipped in zip(losses, ((b, a), (-a, -b), (-a, -b)), strict=True):
        mean = (1 - e) * loss(a, b, 0.0) + e * loss(*flipped, 0.0)
        torch.testing.assert_close(loss(a, b, doubt), mean, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_labels_without_doubt_leave_every_bit_as_it_was(dtype: torch.dtype) -> None:
    x = torch.randn(500, dtype=dtype, generator=torch.Generator().manual_seed(0)) * 10
    y, none = x.roll(1), torch.zeros(500, dtype=dtype)
    plain = -torch.nn.functional.logsigmoid(x - y - 0.3)
    assert torch.equal(bradley_terry(x, y, 0.3), plain) and torch.equal(bradley_terry(x, y, 0.3, none), plain)
    assert torch.equal(ipo(x, y, tau=0.3), (x - y - 1 / 0.6) ** 2)


@pytest.mark.parametrize("e", [-0.1, 0.6, vector(0.1, 0.51), vector(0.1, 0.1, 0.1)])
def test_what_is_no_doubt_is_refused(e: float | Tensor) -> None:
    a, b = vector(1, 2), vector(0, 0)
    for loss in (
        lambda: bradley_terry(a, b, 0.0, e),
        lambda: dpo(a, b, beta=1.0, label_smoothing=e),
        lambda: ipo(a, b, tau=1.0, label_smoothing=e),
    ):
        with pytest.raises(ValueError, match="label_smoothing must"):
            loss()


def test_gradients_against_finite_differences() -> None:
    a, b = vector(0.3, -1.0, 2.0).requires_grad_(), vector(1.0, 0.4, -0.2).requires_grad_()
    fixed, labels = vector(0.1, -0.2, 0.3), torch.tensor([True, False, True])
    ranks = torch.tensor([0, 0, 1])
    assert torch.autograd.gradcheck(bradley_terry, (a, b, fixed))
    assert torch.autograd.gradcheck(lambda x: ranking(x, ZERO3, ranks), (a,))
    assert torch.autograd.gradcheck(lambda x: plackett_luce(x, ZERO3, ranks), (a,))
    rows = torch.randn(3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: general_ranking(x, ZERO3, ranks), (rows,))
    assert torch.autograd.gradcheck(lambda x: dpo(x, fixed, beta=0.3, label_smoothing=0.1), (a,))
    assert torch.autograd.gradcheck(lambda x: ipo(x, fixed, tau=0.3), (a,))
    assert torch.autograd.gradcheck(lambda x: kto(x, labels, 0.2, beta=0.3, desirable_weight=1.3), (a,))
