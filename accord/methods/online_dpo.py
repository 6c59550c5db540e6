"""Online DPO: two fresh samples of the policy for every prompt, a judge, and DPO's loss on its verdict.

    y1, y2 ~ pi(.|x);  loss = - log sigmoid(beta * (margin of pi - margin of ref)),  the winner first

Guo et al. 2024 (arXiv:2402.04792). Ties and invalid verdicts are left out and counted; a step without any other has no
update.

Departures: none. More than two samples of a prompt make more pairs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from accord.engine.trees import Tree, Trees
from accord.errors import InputError
from accord.methods.pairs import Pairwise
from accord.objectives.preference import dpo


@dataclass(kw_only=True)
class OnlineDPO(Pairwise):
    """Optimize a policy on a judge's preferences between its own samples."""

    command: ClassVar[str] = "online-dpo"

    beta: float = 0.1
    """Strength of the pull towards the reference: larger stays closer."""
    label_smoothing: float = 0.0
    """Assumed share of preferences that point the wrong way, below one half."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (self.beta > 0 and 0 <= self.label_smoothing < 0.5):
            values = f"{self.beta} and {self.label_smoothing}"
            raise InputError(f"beta must be positive and label_smoothing lie in [0, 0.5), not {values}.")

    @property
    def strength(self) -> float:
        return self.beta

    def pairs(self, judged: list[Tree]) -> list[Tree]:
        return [pair for pair in judged if pair.branches[0].score > pair.branches[1].score]

    def loss(self, policy: Tensor, reference: Tensor, pairs: Trees) -> Tensor:
        return dpo(policy, reference, beta=self.beta, label_smoothing=self.label_smoothing)
