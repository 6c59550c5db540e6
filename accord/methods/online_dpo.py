"""Online DPO: two fresh samples of the policy for every prompt, a judge, and DPO's loss on its verdict.

    y1, y2 ~ pi(.|x);  loss = - log sigmoid(beta * (margin of pi - margin of ref)),  the winner first

Guo et al. 2024 (arXiv:2402.04792). Ties and invalid verdicts are left out and counted; a step without any other has no
update.

Departures: none. More than two samples of a prompt make more pairs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from accord import objectives
from accord.engine.config import require_positive
from accord.errors import InputError
from accord.methods.pairs import PairwiseMethod

if TYPE_CHECKING:
    from torch import Tensor

    from accord.engine.trees import Tree, Trees


@dataclass(kw_only=True)
class OnlineDPO(PairwiseMethod):
    """Optimize a policy on a judge's preferences between its own samples."""

    command: ClassVar[str] = "online-dpo"

    beta: float = 0.1
    """Strength of the pull toward the reference: larger stays closer."""
    label_smoothing: float = 0.0
    """Assumed share of preferences that point the wrong way, below one half."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive(beta=self.beta)
        if not 0 <= self.label_smoothing < 0.5:
            raise InputError(f"label_smoothing must lie in [0, 0.5), not {self.label_smoothing}.")

    @property
    def strength(self) -> float:
        return self.beta

    def pairs(self, judged: list[Tree]) -> list[Tree]:
        return [pair for pair in judged if pair.branches[0].reward != pair.branches[1].reward]

    def loss(self, policy: Tensor, reference: Tensor, pairs: Trees) -> Tensor:
        return objectives.preference.dpo(policy, reference, beta=self.beta, label_smoothing=self.label_smoothing)
