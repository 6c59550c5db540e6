"""Log-probabilities without logits beside the plain route through logits."""

from __future__ import annotations

import math
from itertools import product

import pytest
import torch
from torch import Tensor

from accord.engine import readout
from accord.engine.precision import autocast
from accord.engine.readout import Readout, linear_log_probabilities
from accord.engine.sampling import truncate_

N, WIDTH, VOCABULARY = 5, 3, 7
CASES = list(product([1.0, 0.6], [(0, 1.0), (4, 1.0), (0, 0.8), (5, 0.7)], [(1.0, None), (0.5, None), (2.0, 1.5)]))


def numbers(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def operands(bias: bool = True) -> list[Tensor | None]:
    """Hidden states, weight and bias that carry gradients."""
    made = [numbers(N, WIDTH, seed=0), numbers(VOCABULARY, WIDTH, seed=1), numbers(VOCABULARY, seed=2)]
    hidden, weight, vector = (x.requires_grad_() for x in made)
    return [hidden, weight, vector if bias else None]


def through_logits(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    target: Tensor,
    temperature: float,
    truncation: tuple[int, float],
    shape: tuple[float, float | None],
) -> tuple[Tensor, Tensor]:
    """The definition: logits, multiplied, capped, sharpened, truncated; log-softmax; gather; - sum p log p."""
    multiplier, cap = shape
    z = torch.nn.functional.linear(hidden, weight, bias) * multiplier
    z = (z if cap is None else cap * torch.tanh(z / cap)) / temperature
    outside = truncate_(z.detach().clone(), *truncation) == float("-inf")
    logp = z.masked_fill(outside, float("-inf")).log_softmax(-1)
    entropy = -(logp.exp() * logp.masked_fill(outside, 0)).sum(-1)
    return logp.gather(1, target[:, None]).squeeze(1), entropy


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("temperature", "truncation", "shape"), CASES)
def test_values_and_gradients_are_those_of_the_plain_route(
    temperature: float,
    truncation: tuple[int, float],
    shape: tuple[float, float | None],
    bias: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(readout, "CHUNK", 2 * VOCABULARY)  # two rows at a time, the last chunk of one
    tensors = operands(bias)
    target = torch.tensor([0, 6, 3, 3, 1])  # some of them outside the truncated distribution
    hidden, weight, vector = tensors
    top_k, top_p = truncation
    logp, entropy = linear_log_probabilities(
        hidden,
        Readout(weight, vector, *shape),
        target,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        entropy=True,
    )
    expected = through_logits(hidden, weight, vector, target, temperature, truncation, shape)
    kept = torch.isfinite(expected[0])
    assert kept.any() and kept.all() == (truncation == (0, 1.0))
    torch.testing.assert_close((logp, entropy), expected, rtol=0, atol=1e-12)
    a, b = numbers(N, seed=3), numbers(N, seed=4)
    given = [x for x in tensors if x is not None]
    got = torch.autograd.grad((a * logp)[kept].sum() + (b * entropy).sum(), given)
    wanted = torch.autograd.grad((a * expected[0])[kept].sum() + (b * expected[1]).sum(), given)
    torch.testing.assert_close(got, wanted, rtol=0, atol=1e-12)


def test_gradcheck(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readout, "CHUNK", 2 * VOCABULARY)
    target = torch.tensor([0, 6, 3, 3, 1])

    def scored(hidden: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        return linear_log_probabilities(hidden, Readout(weight, bias, 0.5, 2.0), target, temperature=0.7, entropy=True)

    assert torch.autograd.gradcheck(scored, operands())


def test_by_hand() -> None:
    # Logits log 1, log 2, log 5 of p = 1/8, 1/4, 5/8; at temperature 1/2 they are squared: 1/30, 4/30, 25/30; the top 2
    # of those are 4/29 and 25/29, and the third has no probability.
    weight = torch.tensor([[1.0], [2.0], [5.0]], dtype=torch.float64).log()
    hidden, target = torch.ones(3, 1, dtype=torch.float64), torch.tensor([0, 1, 2])
    logits = Readout(weight, None)
    logp, entropy = linear_log_probabilities(hidden, logits, target, entropy=True)
    assert logp.exp().tolist() == pytest.approx([1 / 8, 1 / 4, 5 / 8])
    assert entropy[0].item() == pytest.approx(math.log(8) / 8 + math.log(4) / 4 - 5 / 8 * math.log(5 / 8))
    logp, nothing = linear_log_probabilities(hidden, logits, target, temperature=0.5)
    assert logp.exp().tolist() == pytest.approx([1 / 30, 4 / 30, 25 / 30])
    assert nothing.tolist() == [0, 0, 0]
    logp, _ = linear_log_probabilities(hidden, logits, target, temperature=0.5, top_k=2)
    assert logp.exp().tolist() == pytest.approx([0, 4 / 29, 25 / 29])


def test_bfloat16_is_near_float32() -> None:
    # bfloat16 keeps 8 bits: a number is off by up to 2^-9 of itself, .2%, and what is computed from it by little more.
    torch.manual_seed(0)
    hidden, weight = torch.randn(20, 16, requires_grad=True), torch.randn(50, 16, requires_grad=True)
    target = torch.arange(20)
    results = []
    for dtype in (torch.float32, torch.bfloat16):
        with autocast(dtype):
            logp, _ = linear_log_probabilities(hidden, Readout(weight, None), target)
        results.append((logp, *torch.autograd.grad(logp.sum(), [hidden, weight])))
    exact, rounded = results
    assert [x.dtype for x in rounded] == [torch.float32] * 3
    for a, b in zip(exact, rounded, strict=True):
        assert float((a - b).detach().norm() / a.detach().norm()) < 0.01


def test_a_temperature_of_zero_has_no_log_probabilities() -> None:
    with pytest.raises(ValueError, match="temperature must be positive"):
        linear_log_probabilities(
            torch.zeros(1, 1), Readout(torch.zeros(2, 1), None), torch.zeros(1, dtype=torch.long), temperature=0
        )
