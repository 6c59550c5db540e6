"""Past policies, kept as frozen networks that take turns."""

from __future__ import annotations

import torch
from torch import nn

from accord.engine.precision import frozen
from accord.methods.parts.gradient import shuffled


class Snapshots:
    """The policy as it was every so many steps, the last `count` of them; before the first, as it was at the start."""

    def __init__(self, network: nn.Module, dtype: torch.dtype, *, count: int, every: int) -> None:
        self.kept, self.every = [frozen(network, dtype) for _ in range(count)], every

    @property
    def networks(self) -> dict[str, nn.Module]:
        """What a checkpoint must hold."""
        return {f"past-{i}": network for i, network in enumerate(self.kept)}

    def last(self, steps: int) -> nn.Module:
        """The last snapshot after so many steps."""
        return self.kept[steps // self.every % len(self.kept)]

    def any(self, *seed: int) -> nn.Module:
        """One of them, drawn by the seed."""
        return self.kept[shuffled(len(self.kept), *seed)[0]]

    def keep(self, network: nn.Module, steps: int) -> None:
        """Take the policy in after so many steps, if it is time."""
        if self.kept and steps % self.every == 0:
            self.last(steps).load_state_dict(network.state_dict())
