"""KTO: Kahneman-Tversky optimization, from single completions labeled as desirable or not.

    loss = w (1 - sigmoid(s beta (log(pi(y) / ref(y)) - z0))),  s = +1 and w = w_d if y is desirable, else -1 and w_u
    z0 = max(0, mean over the batch of log(pi(y') / ref(y'))),  y' the completion of another row's prompt

Ethayarajh et al. 2024 (arXiv:2402.01306), eq. 8. z0 estimates the divergence from the reference and has no gradient.

Departures: the mismatched completion of a row is that of the next row of its batch, independent of packing, cut where
the two together are too long; for a batch of one row z0 is 0. A preference counts as two labeled completions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, ClassVar

from accord import engine, objectives
from accord.engine.config import require_positive
from accord.errors import InputError, LeftOut
from accord.methods.method import Per, reference_for
from accord.methods.offline import OfflineMethod
from accord.records import Labeled, Preference, Row

if TYPE_CHECKING:
    from torch import Tensor

    from accord.engine import LossTerm, Measures, Model, Policy, Tree, Trees


@dataclass(kw_only=True)
class KTO(OfflineMethod):
    """Kahneman-Tversky optimization: optimize a policy on completions labeled desirable or undesirable."""

    command: ClassVar[str] = "kto"
    reads: ClassVar[tuple[type, ...]] = (Labeled, Preference)
    per: ClassVar[Per] = "branch"
    on_ranks: ClassVar[bool] = True

    learning_rate: float = 5e-7
    reference: str | None = None
    """The reference model that the policy is kept close to: a folder or a Hub name (default: the starting model)."""
    beta: float = 0.1
    """How fast the value of a completion saturates; larger stays closer to the reference."""
    desirable_weight: float = 1.0
    """Weight of desirable completions."""
    undesirable_weight: float = 1.0
    """Weight of undesirable completions."""

    def __post_init__(self) -> None:
        super().__post_init__()
        weights = {"desirable_weight": self.desirable_weight, "undesirable_weight": self.undesirable_weight}
        require_positive(beta=self.beta, **weights)
        if self.batch_size < 2:
            raise InputError("batch_size must be at least 2, as KTO pairs prompts with other rows' completions.")

    @property
    def frozen_copies(self) -> int:
        return 1

    def encode(self, model: Model, rows: Sequence[Row], left_out: LeftOut) -> list[Tree]:
        if any(isinstance(row, Preference) and row.probability != 1 for row in rows):
            raise InputError(
                "kto learns from certain labels, but rows have a 'chosen_probability': leave it out by --columns "
                "chosen_probability= to take the likelier as certain."
            )
        parts = [unpaired(row) if isinstance(row, Preference) else (row,) for row in rows]
        labeled = [each for part in parts for each in part]
        labels = {row.label for row in labeled if isinstance(row, Labeled)}
        if len(labels) < 2:
            only = "desirable" if labels == {True} else "undesirable"
            raise InputError(f"every label is {only}, and KTO learns from both kinds; add rows of the other.")
        origin = [i for i, part in enumerate(parts) for _ in part]
        trees = super().encode(model, labeled, left_out.part(origin))
        return [replace(tree, row=origin[tree.row]) for tree in trees]

    def owners(self, trees: Trees, measures: Measures) -> dict[str, Tensor]:
        desirable = trees.ranks == 0
        return {"chosen_reward": trees.group[desirable], "rejected_reward": trees.group[~desirable]}

    def objective(self, model: Policy) -> KTOLoss:
        return KTOLoss(self, model)

    def terms(self, objective: KTOLoss, batch: Sequence[Tree], model: Model) -> LossTerm:
        return super().terms(partial(objective, baseline=objective.divergence(batch)), batch, model)


class KTOLoss:
    """The loss of every labeled completion against z0; rank 0 marks desirable ones."""

    def __init__(self, method: KTO, policy: Policy) -> None:
        self.method, self.policy, self.reference = method, policy, reference_for(policy, method)

    def __call__(self, trees: Trees, *, baseline: float) -> tuple[Tensor, Measures]:
        method, ratios, desirable = self.method, self.log_ratios(trees), trees.ranks == 0
        z0 = trees.rewards.new_tensor(baseline)
        weights = {"desirable_weight": method.desirable_weight, "undesirable_weight": method.undesirable_weight}
        values = objectives.preference.kto(ratios, desirable, z0, beta=method.beta, **weights)
        rewards = method.beta * ratios.detach()
        return values, {"baseline": z0, "chosen_reward": rewards[desirable], "rejected_reward": rewards[~desirable]}

    def log_ratios(self, trees: Trees) -> Tensor:
        """log(pi / ref) of every completion, (C,)."""
        return self.policy.branch_log_probs(trees) - self.reference.branch_log_probs(trees)

    def divergence(self, batch: Sequence[Tree]) -> float:
        """z0: the mean log(pi / ref) of each prompt with the next row's completion, at least 0."""
        import torch

        if len(batch) == 1:
            return 0.0
        mismatched = [self.mismatched(a, b) for a, b in zip(batch, [*batch[1:], batch[0]], strict=True)]
        packs = engine.pack(mismatched, self.method.tokens_per_pass, self.policy.device)
        with torch.no_grad():
            each = engine.Team.here().map(packs, lambda trees: float(self.log_ratios(trees).double().sum()))
        return max(0.0, sum(each) / len(batch))

    def mismatched(self, row: Tree, other: Tree) -> Tree:
        """The prompt of one row with the completion of another, cut to the longest allowed row."""
        [branch], method = other.branches, self.method
        room = min(method.max_length, self.policy.context or method.max_length) - len(row.prompt)
        return engine.Tree(row.prompt, (engine.Branch(branch.tokens[:room], branch.trained and branch.trained[:room]),))


def unpaired(row: Preference) -> tuple[Labeled, Labeled]:
    """A preference as two labeled completions."""
    return Labeled(row.prompt, row.chosen, True), Labeled(row.prompt, row.rejected, False)
