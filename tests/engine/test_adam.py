"""AdamW whose states are small, on the host or in 8 bits, and weights that are rounded at random."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from accord.engine import adam
from accord.engine.adam import LeanAdamW, round_stochastically
from accord.errors import InputError


def both_after(steps: int, **lean: Any) -> tuple[nn.Parameter, nn.Parameter]:
    """One matrix after so many steps of torch's AdamW and of accord's, with the same gradients."""
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(80, 64, generator=generator)
    theirs, ours = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    groups = [[{"params": [p], "weight_decay": 0.1}] for p in (theirs, ours)]
    torch_adam = torch.optim.AdamW(groups[0], lr=0.01, betas=(0.9, 0.999))
    lean_adam = LeanAdamW(groups[1], 0.01, (0.9, 0.999), **lean)
    for _ in range(steps):
        grad = torch.randn(80, 64, generator=generator)
        theirs.grad, ours.grad = grad, grad.clone()
        torch_adam.step()
        lean_adam.step()
    return theirs, ours


def test_lean_adam_with_whole_states_is_torch_s() -> None:
    theirs, ours = both_after(5, host=True)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)


def test_states_in_8_bits_move_weights_nearly_as_those_in_32_do() -> None:
    pytest.importorskip("bitsandbytes")
    theirs, ours = both_after(20, eight_bits=True)
    moved = (theirs - both_after(0)[0]).abs().mean()
    assert float((ours - theirs).detach().abs().mean() / moved.detach()) < 0.05


def test_states_in_8_bits_take_a_quarter_of_the_room() -> None:
    pytest.importorskip("bitsandbytes")
    weight = nn.Parameter(torch.zeros(64, 64))
    optimizer = LeanAdamW([{"params": [weight], "weight_decay": 0.0}], 0.1, (0.9, 0.999), eight_bits=True)
    weight.grad = torch.ones(64, 64)
    optimizer.step()
    held = sum(t.nbytes for name, t in optimizer.state[weight].items() if name != "step")
    assert held == 2 * (4096 + 4 * 4096 // adam.BLOCK)


def test_8_bits_without_their_package_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "bitsandbytes", None)
    with pytest.raises(InputError, match="optimizer_states 8bit needs bitsandbytes"):
        LeanAdamW([{"params": [nn.Parameter(torch.zeros(1))], "weight_decay": 0.0}], 0.1, (0.9, 0.9), eight_bits=True)


@given(st.floats(-(2.0**90), 2.0**90, width=32).filter(lambda x: abs(x) > 1e-30), st.integers(0, 9))
@settings(deadline=None, max_examples=50)
def test_rounding_goes_to_a_neighbor_and_is_right_on_average(x: float, seed: int) -> None:
    many = torch.full((4000,), x, dtype=torch.float32)
    rounded = round_stochastically(many, torch.Generator().manual_seed(seed)).double()
    gap = 2.0 ** (math.frexp(abs(float(many[0])))[1] - 8)  # between neighbors in bfloat16, of 8 significant bits
    assert float((rounded - many.double()).abs().max()) < gap
    # The standard error of the mean of a coin between two neighbors is at most gap / 2 / sqrt(4000).
    assert abs(float(rounded.mean() - many.double().mean())) <= 6 * gap / 2 / 4000**0.5


def test_updates_smaller_than_bfloat16_can_show_are_made_on_average() -> None:
    # From 1 bfloat16 sees steps of 2^-7 up and 2^-8 down: 100 steps of 1e-3 to nearest would never leave 1.
    weight = nn.Parameter(torch.ones(64, 64, dtype=torch.bfloat16))
    optimizer = LeanAdamW([{"params": [weight], "weight_decay": 0.0}], 1e-3, (0.9, 0.999), seed=3)
    for _ in range(100):
        weight.grad = torch.ones_like(weight)
        optimizer.step()
    assert float(weight.detach().double().mean()) == pytest.approx(0.9, abs=2e-3)
