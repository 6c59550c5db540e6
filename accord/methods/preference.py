"""The preference model: which of two completions is better, where preferences may be cyclic.

    log-odds(y_1 beats y_2 | x) = s_1 - s_2 + sum over the planes j of (a_1j b_2j - b_1j a_2j)
    loss = - mean over all pairs of one prompt of  t log P + (1 - t) log(1 - P),   averaged over prompts

A completion has a score s and a point (a, b) in each of k planes, all computed at its last token, so one pass compares
every pair of a prompt's completions. t is 1 where the first is ranked better, 0 where the second is, 1/2 where they
tie; with a row's `chosen_probability` p it is p and 1 - p. The planes are the preference embedding of Zhang et al. 2024
(arXiv:2410.02197); they represent cycles, which no reward can: the first beats the second, the second the third, and
the third the first.

Departures: a Bradley-Terry score is added, so that transitive preferences need no planes; the embedding's length is
learned, where the paper normalizes it to 1 and weights the planes by the prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from accord import engine, objectives
from accord.engine.config import require_at_most
from accord.errors import InputError, LeftOut
from accord.methods.pairs import RankingMethod, flip_probability, pair_measures, tell_unused_margins
from accord.records import Row

if TYPE_CHECKING:
    from torch import Tensor

    from accord.engine import Measures, Model, Objective, Policy, PreferenceNetwork, Tree, Trees


@dataclass(kw_only=True)
class PreferenceModel(RankingMethod):
    """Fit a preference model of two completions, whose preferences may be cyclic, to preferences or rankings."""

    command: ClassVar[str] = "preference"
    on_ranks: ClassVar[bool] = True

    planes: int = 4
    """Number of planes (k) besides the score, in each of which preferences can be cyclic. Together they represent any
    preferences among 2k + 2 completions."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_at_most(10_000, planes=self.planes)
        if self.planes < 1:
            raise InputError(f"planes must be at least 1, not {self.planes}; without any it is `accord reward`.")

    def start(self, policy: Policy) -> Model:
        return engine.PreferenceNetwork.on(policy, self.planes, self.seed)

    def encode(self, model: Model, rows: Sequence[Row], left_out: LeftOut) -> list[Tree]:
        tell_unused_margins(self.command, rows)
        return super().encode(model, rows, left_out)

    def objective(self, model: PreferenceNetwork) -> Objective:
        def loss(trees: Trees) -> tuple[Tensor, Measures]:
            outputs = model.outputs(trees)
            smoothing = flip_probability(trees, outputs)
            loss = objectives.preference.general_ranking(outputs, trees.group, trees.ranks, smoothing)
            return loss, pair_measures(outputs, trees)

        return loss
