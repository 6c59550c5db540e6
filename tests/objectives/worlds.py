"""Distributions small enough to sum over, and an optimizer exact enough to find a loss's minimum."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def vector(*numbers: float) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


def minimize(loss: Callable[[Tensor], Tensor], size: int) -> Tensor:
    """The minimum over a float64 vector, started at zero, to about 1e-7."""
    x = torch.zeros(size, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [x], max_iter=1000, tolerance_grad=1e-13, tolerance_change=0.0, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = loss(x)
        value.backward()
        return value

    optimizer.step(closure)
    return x.detach()


CYCLIC = torch.tensor([[0.5, 0.9, 0.2], [0.1, 0.5, 0.8], [0.8, 0.2, 0.5]], dtype=torch.float64)
"""Preferences among three completions, P[i, j] = P(i beats j), that no score can represent: 0 > 1 > 2 > 0."""

ZERO3 = torch.zeros(3, dtype=torch.long)
"""The groups of three completions of one prompt."""
