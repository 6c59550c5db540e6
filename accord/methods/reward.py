"""The reward model: a linear head on a language model, fitted to comparisons by maximum likelihood.

    loss = - mean over the strict pairs of one prompt of log sigmoid(r(preferred) - r(other)),  averaged over prompts

Two completions give Bradley-Terry's loss; K of them give that of Ouyang et al. 2022 (arXiv:2203.02155, eq. 1), where
all pairs of one prompt count as one element. Equal ranks are ties and enter no pair.

Departures: the head starts near zero and not at the policy's output layer; the reward is not normalised afterwards,
since policy optimisation whitens advantages.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from accord.engine.fit import Measures, Objective
from accord.engine.forward import rewards
from accord.engine.models import Model, Policy, Scorer
from accord.engine.trees import Trees
from accord.methods.offline import Offline
from accord.objectives.preference import ranking
from accord.records import Preference, Ranking


@dataclass(kw_only=True)
class RewardModel(Offline):
    """Fit a reward model to preferences or rankings."""

    command: ClassVar[str] = "reward"
    reads: ClassVar[tuple[type, ...]] = (Preference, Ranking)
    per: ClassVar[Literal["tree", "branch", "token"]] = "tree"

    learning_rate: float = 9e-6
    """Peak step size of AdamW."""

    def start(self, policy: Policy) -> Model:
        return Scorer.on(policy, self.seed)

    def objective(self, model: Model) -> Objective:
        def loss(trees: Trees) -> tuple[Tensor, Measures]:
            scores = rewards(model.network, trees)
            better, worse = strict_pairs(trees)
            margin = scores.detach()[better] - scores.detach()[worse]
            right = (margin > 0).double() + 0.5 * (margin == 0)
            return ranking(scores, trees.group, trees.ranks), {"accuracy": right, "margin": margin}

        return loss


def strict_pairs(trees: Trees) -> tuple[Tensor, Tensor]:
    """Indices (better, worse) into the branches of every pair of one tree with different ranks."""
    same = trees.group[:, None] == trees.group[None, :]
    above = trees.ranks[:, None] < trees.ranks[None, :]
    better, worse = (same & above).nonzero(as_tuple=True)
    return better, worse
