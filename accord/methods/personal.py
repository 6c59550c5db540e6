"""The personalized reward or preference model: it reads a user's earlier choices, and compares answers as that user
would.

    loss = - mean over the comparisons i of each user of
             log sigmoid(r(chosen_i | the user's comparisons before i) - r(rejected_i | the same))

Bradley-Terry's loss (Ouyang et al. 2022, arXiv:2203.02155, eq. 1), given k = 0, 1, 2, ... of a user's own comparisons:
one model for all users, including new ones (few-shot preference optimization, Singh et al. 2025, arXiv:2502.19312;
group preference optimization, Zhao et al. 2023, arXiv:2310.11523). A step has several users, each with some
comparisons, drawn anew in a new order each time; each comparison is a question given those before it, so that one pass
trains every k. The model is in `accord.engine.personal`. A row's `margin` or `chosen_probability` acts as in `accord
reward`; in a ranking every pair of different ranks is a comparison, and none is given another of its ranking.

With `planes` it is a preference model of two answers, so each user's preferences may be cyclic: the difference of
rewards is replaced by the log-odds of `accord preference`, given the same choices.

Departures: the papers put the comparisons as text into the prompt; here every answer is encoded separately, and a small
transformer reads the states of chosen and rejected answers. Memorized users would show in training as an
`accuracy_alone` (at k = 0) above what one model can reach for all of them.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from accord import data, engine, objectives
from accord.engine.config import require_at_most
from accord.errors import InputError, LeftOut
from accord.methods.offline import OfflineLearner
from accord.methods.pairs import ACCURACY_ALONE, RankingMethod, flip_probability, margin_measures
from accord.records import Row
from accord.train.held_out import USERS, Unit
from accord.train.learner import StepResult

if TYPE_CHECKING:
    from torch import Tensor

    from accord.engine import LossTerm, Measures, Model, Optimizer, Policy, Tree, Trees
    from accord.engine.personal import Choices, PersonalModel, UserTrees


@dataclass(kw_only=True)
class PersonalReward(RankingMethod):
    """Fit a reward or preference model that reads a user's earlier comparisons to the preferences of many users."""

    command: ClassVar[str] = "personal"
    on_ranks: ClassVar[bool] = True
    unit: ClassVar[Unit] = USERS

    batch_size: int = 12
    """Users per optimizer step."""
    comparisons: int = 24
    """The most comparisons per user and step."""
    reader_layers: int = 2
    """Transformer layers that read the choices, on top of the model."""
    planes: int = 0
    """Number of planes (k) of a preference model, as in `accord preference`; 0 fits a reward model."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.comparisons < 2:
            raise InputError(f"comparisons must be at least 2, not {self.comparisons}: one is read for the next.")
        if self.reader_layers < 1:
            raise InputError(f"reader_layers must be at least 1, not {self.reader_layers}.")
        require_at_most(1000, reader_layers=self.reader_layers)
        require_at_most(10_000, planes=self.planes)
        if self.planes < 0:
            raise InputError(f"planes must be at least 0, not {self.planes}; 0 is a reward model.")
        if self.lora_rank:
            raise InputError("lora_rank: a model that reads choices is trained in full; leave it out.")

    def start(self, policy: Policy) -> Model:
        return engine.personal.with_reader(policy, self.reader_layers, self.planes, self.seed)

    def encode(self, model: Model, rows: Sequence[Row], left_out: LeftOut) -> list[UserTrees]:  # type: ignore[override]
        pairs, origin = data.choices.user_pairs(rows, left_out)
        by_user: dict[str, list[Tree]] = {}
        for tree in super().encode(model, pairs, left_out.part(origin)):
            by_user.setdefault(tree.user, []).append(replace(tree, row=left_out.index(origin[tree.row])))
        if all(len(trees) < 2 for trees in by_user.values()):
            raise InputError("no user has two comparisons, so none can be read before another: add rows.")
        return [engine.personal.UserTrees(tuple(trees)) for trees in by_user.values()]

    def terms(self, objective: object, batch: Sequence[UserTrees], model: Model) -> LossTerm:  # type: ignore[override]
        packs = engine.personal.pack_users(batch, self.tokens_per_pass, model.device)
        return engine.LossTerm(objective, packs, self.per)  # type: ignore[arg-type]

    def objective(self, model: PersonalModel):  # type: ignore[no-untyped-def]
        def loss(pack: Choices) -> tuple[Tensor, Measures]:
            chosen, rejected = model.outputs_given_earlier(pack).unflatten(0, (-1, 2)).unbind(1)  # (P, L) each
            odds = objectives.preference.general_preference(chosen, rejected)  # with L = 1, the difference of rewards
            margins = odds.new_tensor([tree.margin for tree in pack.trees])
            loss = objectives.preference.bradley_terry(
                odds, odds.new_zeros(len(odds)), margins, flip_probability(pack, odds)
            )
            measures = margin_measures(odds.detach())
            return loss, {**measures, ACCURACY_ALONE: measures["accuracy"][pack.firsts]}

        return loss

    def owners(self, trees: Trees, measures: Mapping[str, Tensor]) -> dict[str, Tensor]:
        each = super().owners(trees, measures)
        return each | {ACCURACY_ALONE: each[ACCURACY_ALONE][trees.firsts]}  # type: ignore[attr-defined]

    def learner(self, model: Model, items: Sequence[UserTrees]) -> OfflineLearner:  # type: ignore[override]
        return PersonalLearner(self, model, items)  # type: ignore[arg-type]


class PersonalLearner(OfflineLearner):
    """Passes over users, whose comparisons are drawn anew at every step."""

    method: PersonalReward

    def step(self, step: int, items: Sequence[UserTrees], optimizer: Optimizer) -> StepResult:  # type: ignore[override]
        rng = random.Random(f"comparisons {self.method.seed} {step}")
        drawn = [
            engine.personal.UserTrees(tuple(rng.sample(user.trees, min(len(user.trees), self.method.comparisons))))
            for user in items
        ]
        return super().step(step, drawn, optimizer)  # type: ignore[arg-type]
