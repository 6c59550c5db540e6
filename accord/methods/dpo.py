"""Direct preference optimization: preferences fitted without a reward model.

    loss = - log sigmoid(beta * ((log pi(chosen) - log pi(rejected)) - (log ref(chosen) - log ref(rejected))))

With pi the policy and ref the model the run started from. The policy's implicit reward is beta * log(pi / ref).
Rafailov et al. 2023 (arXiv:2305.18290), eq. 7; label smoothing as in Mitchell 2023 ("conservative DPO").
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from accord import objectives
from accord.engine.config import require_positive
from accord.errors import InputError
from accord.methods.pairs import PreferenceMethod

if TYPE_CHECKING:
    from torch import Tensor

    from accord.engine.trees import Trees


@dataclass(kw_only=True)
class DPO(PreferenceMethod):
    """Optimize a policy on preferences directly."""

    command: ClassVar[str] = "dpo"

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

    def loss(self, policy: Tensor, reference: Tensor, pairs: Trees) -> Tensor:
        return objectives.preference.dpo(policy, reference, beta=self.beta, label_smoothing=self.label_smoothing)
