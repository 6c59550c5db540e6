"""The reward model: a linear head on a language model, fitted to comparisons by maximum likelihood.

    loss = - mean over the strict pairs of one prompt of log sigmoid(r(preferred) - r(other)),  averaged over prompts
           [+ center_coefficient * mean over the same pairs of (r(preferred) + r(other))^2]

With two completions this is Bradley-Terry's loss; with K that of Ouyang et al. 2022 (arXiv:2203.02155, eq. 1), where
all pairs of one prompt count as one element. Equal ranks are ties and form no pair. The second term, off by default,
fixes the zero of rewards, which preferences leave open (Eisenstein et al. 2023, arXiv:2312.09244). A row's `margin` is
subtracted from the difference of the two rewards (Llama 2, arXiv:2307.09288, eq. 2); with a `chosen_probability` p, the
loss is p times that of the pair plus 1 - p times that of the reversed pair.

Departures: the head starts near zero, not from the policy's output layer; the reward is not normalized afterwards,
since policy optimization whitens advantages.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from accord import engine, objectives
from accord.console import status
from accord.errors import InputError, LeftOut
from accord.methods.pairs import RankingMethod, flip_probability, pair_measures
from accord.records import Preference, Ranking, Row

if TYPE_CHECKING:
    from torch import Tensor

    from accord.engine import Measures, Model, Objective, Policy, Scorer, Tree, Trees


@dataclass(kw_only=True)
class RewardModel(RankingMethod):
    """Fit a reward model to preferences or rankings."""

    command: ClassVar[str] = "reward"
    on_ranks: ClassVar[bool] = True

    center_coefficient: float = 0.0
    """How strongly the two rewards of a pair are pulled to sum to 0, so that the models of an ensemble share a zero;
    0.01 is usual."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.center_coefficient >= 0:
            raise InputError(f"center_coefficient must be 0 or more, not {self.center_coefficient}.")

    def start(self, policy: Policy) -> Model:
        return engine.Scorer.on(policy, self.seed)

    def encode(self, model: Model, rows: Sequence[Row], left_out: LeftOut) -> list[Tree]:
        if all(isinstance(row, Ranking) and len(set(row.ranks)) == 1 for row in rows):
            raise InputError("every row is a tie, and a reward model learns only from strict preferences.")
        if any(isinstance(row, Preference) and row.margin for row in rows):
            status("reward: rows have a column margin: the preferred reward is trained to lead by it")
        return super().encode(model, rows, left_out)

    def objective(self, model: Scorer) -> Objective:
        def loss(trees: Trees) -> tuple[Tensor, Measures]:
            scores = model.rewards(trees)
            margins = scores.new_tensor([tree.margin for tree in trees.trees])
            loss = objectives.preference.ranking(
                scores, trees.group, trees.ranks, margins, flip_probability(trees, scores)
            )
            centered = objectives.preference.centering(scores, trees.group, trees.ranks)
            return loss + self.center_coefficient * centered, pair_measures(scores[:, None], trees)

        return loss
