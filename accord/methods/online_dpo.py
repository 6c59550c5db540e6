"""Online DPO: two new samples of the policy for every prompt, a judge, and DPO's loss on its verdict.

    y1, y2 ~ pi(.|x);  loss = - log sigmoid(beta * (margin of pi - margin of ref)),  the winner first

Guo et al. 2024 (arXiv:2402.04792). Ties and invalid verdicts are left out and counted; a step without any other has no
update.

Departures: none. More than two samples of a prompt make more pairs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from accord.methods.pairs import DPOLoss
from accord.methods.pairwise import PairwiseMethod

if TYPE_CHECKING:
    from accord.engine import Tree


@dataclass(kw_only=True)
class OnlineDPO(DPOLoss, PairwiseMethod):
    """Online DPO: optimize a policy on a judge's preferences between its own samples."""

    command: ClassVar[str] = "online-dpo"
    on_ranks: ClassVar[bool] = True

    def pairs(self, judged: list[Tree]) -> list[Tree]:
        return [pair for pair in judged if pair.branches[0].reward != pair.branches[1].reward]
