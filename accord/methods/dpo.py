"""Direct preference optimization: preferences fitted without a reward model.

    loss = - log sigmoid(beta * ((log pi(chosen) - log pi(rejected)) - (log ref(chosen) - log ref(rejected))))

With pi the policy and ref the model the run started from. The policy's implicit reward is beta * log(pi / ref).
Rafailov et al. 2023 (arXiv:2305.18290), eq. 7; label smoothing as in Mitchell 2023 ("conservative DPO").
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from accord.engine.fit import Objective
from accord.engine.models import Model
from accord.engine.precision import compute_dtype, frozen_copy
from accord.engine.trees import Trees
from accord.errors import InputError
from accord.methods.offline import PolicyMethod
from accord.methods.pairs import pair_objective
from accord.objectives.preference import dpo
from accord.records import Preference


@dataclass(kw_only=True)
class DPO(PolicyMethod):
    """Optimize a policy on preferences directly."""

    command: ClassVar[str] = "dpo"
    reads: ClassVar[tuple[type, ...]] = (Preference,)
    per: ClassVar[Literal["tree", "branch", "token"]] = "tree"

    learning_rate: float = 1e-6
    """Peak step size of AdamW."""
    beta: float = 0.1
    """Strength of the pull towards the reference: larger stays closer."""
    label_smoothing: float = 0.0
    """Assumed share of preferences that point the wrong way, below one half."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.beta > 0:
            raise InputError(f"beta must be positive, not {self.beta}.")
        if not 0 <= self.label_smoothing < 0.5:
            raise InputError(f"label_smoothing must lie in [0, 0.5), not {self.label_smoothing}.")

    def objective(self, model: Model) -> Objective:
        reference = frozen_copy(model.network, compute_dtype(self.dtype, model.device))

        def loss(policy: Tensor, reference: Tensor, trees: Trees) -> Tensor:
            return dpo(policy, reference, beta=self.beta, label_smoothing=self.label_smoothing)

        return pair_objective(model.network, reference, loss, beta=self.beta)
