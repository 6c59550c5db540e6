"""KTO: Kahneman-Tversky optimization, from completions labeled one by one as desirable or not.

    loss = w (1 - sigmoid(s beta (log(pi(y) / ref(y)) - z0))),  s = +1 and w = w_d if y is desirable, else -1 and w_u
    z0 = max(0, mean over the batch of log(pi(y') / ref(y'))),  y' the completion of another row's prompt

Ethayarajh et al. 2024 (arXiv:2402.01306), eq. 8. z0 estimates the divergence from the reference and has no gradient.

Departures: the mismatched completion of a row is that of the next row of its batch, whatever the packing, cut where the
two together are too long; of a batch of one row z0 is 0. A preference counts as two labeled completions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from accord.data.encoding import Encoded
from accord.engine.fit import LossTerm, Measures
from accord.engine.models import Model
from accord.engine.precision import autocast, compute_dtype, frozen_copy
from accord.engine.trees import Branch, Tree, Trees, pack
from accord.errors import InputError
from accord.methods.offline import PolicyMethod
from accord.methods.pairs import completion_log_probabilities
from accord.objectives.preference import kto
from accord.records import Labeled, Preference, Row


@dataclass(kw_only=True)
class KTO(PolicyMethod):
    """Optimize a policy on completions labeled as desirable or undesirable."""

    command: ClassVar[str] = "kto"
    reads: ClassVar[tuple[type, ...]] = (Labeled, Preference)
    per: ClassVar[Literal["tree", "branch", "token"]] = "branch"

    learning_rate: float = 5e-7
    """Peak step size of AdamW."""
    beta: float = 0.1
    """How fast the value of a completion saturates: larger stays closer to the reference."""
    desirable_weight: float = 1.0
    """Weight of desirable completions."""
    undesirable_weight: float = 1.0
    """Weight of undesirable completions."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("beta", "desirable_weight", "undesirable_weight"):
            if not getattr(self, name) > 0:
                raise InputError(f"{name} must be positive, not {getattr(self, name)}.")
        if self.batch_size < 2:
            raise InputError("batch_size must be at least 2, as KTO pairs prompts with other rows' completions.")

    def encode(self, model: Model, rows: Sequence[Row]) -> Encoded:
        labeled = [each for row in rows for each in (unpaired(row) if isinstance(row, Preference) else (row,))]
        labels = {row.label for row in labeled if isinstance(row, Labeled)}
        if len(labels) < 2:
            only = "desirable" if labels == {True} else "undesirable"
            raise InputError(f"every label is {only}, and KTO learns from both kinds; add rows of the other.")
        return super().encode(model, labeled)

    def objective(self, model: Model) -> KTOLoss:
        return KTOLoss(self, model)

    def work(self, objective: KTOLoss, batch: Sequence[Tree], device: torch.device) -> LossTerm:
        z0 = torch.tensor(objective.divergence(batch), dtype=torch.float64, device=device)
        packs = [trees.with_extra(baseline=z0) for trees in pack(batch, self.tokens_per_pass, device)]
        return LossTerm(objective, packs, self.per)


class KTOLoss:
    """The loss of every labeled completion; rank 0 marks the desirable ones, `extra` holds z0."""

    def __init__(self, method: KTO, model: Model) -> None:
        self.method, self.model = method, model
        self.dtype = compute_dtype(method.dtype, model.device)
        self.reference = frozen_copy(model.network, self.dtype)

    def __call__(self, trees: Trees) -> tuple[Tensor, Measures]:
        method, ratios, desirable = self.method, self.log_ratios(trees), trees.ranks == 0
        weights = {"desirable_weight": method.desirable_weight, "undesirable_weight": method.undesirable_weight}
        values = kto(ratios, desirable, trees.extra["baseline"], beta=method.beta, **weights)
        rewards = method.beta * ratios.detach()
        return values, {
            "baseline": trees.extra["baseline"],
            "chosen_reward": rewards[desirable],
            "rejected_reward": rewards[~desirable],
        }

    def log_ratios(self, trees: Trees) -> Tensor:
        """log(pi / ref) of every completion, (C,)."""
        with torch.no_grad():
            reference = completion_log_probabilities(self.reference, trees)
        return completion_log_probabilities(self.model.network, trees) - reference

    @torch.no_grad()
    def divergence(self, batch: Sequence[Tree]) -> float:
        """z0: the mean log(pi / ref) of every prompt with the next row's completion, or 0 where that is negative."""
        if len(batch) == 1:
            return 0.0
        swapped = [self.swapped(a, b) for a, b in zip(batch, [*batch[1:], batch[0]], strict=True)]
        with autocast(self.dtype, self.model.device):
            packs = pack(swapped, self.method.tokens_per_pass, self.model.device)
            total = sum(float(self.log_ratios(trees).double().sum()) for trees in packs)
        return max(0.0, total / len(batch))

    def swapped(self, row: Tree, other: Tree) -> Tree:
        """The prompt of a row with the completion of another, no longer together than rows are."""
        [branch], method = other.branches, self.method
        room = min(method.max_length, self.model.context or method.max_length) - len(row.prompt)
        return Tree(row.prompt, (Branch(branch.tokens[:room], branch.trained and branch.trained[:room]),))


def unpaired(row: Preference) -> tuple[Labeled, Labeled]:
    """A preference as two labeled completions."""
    return Labeled(row.prompt, row.chosen, True), Labeled(row.prompt, row.rejected, False)
