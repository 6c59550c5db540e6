"""What a few steps of a learner leave, alone or on ranks: what was logged, the weights and the optimizer's states."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from accord.engine.fit import Optimizer
from accord.engine.shard import gathered
from accord.methods.offline import OfflineLearner


def steps(learner: OfflineLearner, optimizer: Optimizer, first: int, last: int) -> dict[str, Tensor]:
    """Losses and gradient norms of some steps, and the weights after them, whole."""
    logged = [learner.step(step, learner.batch(step), optimizer).numbers for step in range(first, last)]
    numbers = [numbers[name] for numbers in logged for name in ("loss", "gradient_norm")]
    return whole(optimizer.named_parameters()) | {"numbers": torch.tensor(numbers, dtype=torch.float64)}


def states_of(optimizer: Optimizer) -> dict[str, Tensor]:
    """What the optimizer holds of every weight, whole."""
    named = optimizer.named_parameters()
    return whole({f"{key} of {name}": t for name, p in named.items() for key, t in optimizer.rule.state[p].items()})


def whole(named: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors that ranks may share, each as one."""
    return {name: gathered(tensor.detach()).clone().contiguous() for name, tensor in named.items()}
