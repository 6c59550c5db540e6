"""Direct preference optimisation: preferences fitted without a reward model.

    loss = - log sigmoid(beta * ((log pi(chosen) - log pi(rejected)) - (log ref(chosen) - log ref(rejected))))

With pi the policy and ref the model the run started from. The policy's implicit reward is beta * log(pi / ref).
Rafailov et al. 2023 (arXiv:2305.18290), eq. 7; label smoothing as in Mitchell 2023 ("conservative DPO").
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from accord.engine.fit import Measures, Objective
from accord.engine.forward import log_probabilities
from accord.engine.models import Model
from accord.engine.precision import compute_dtype, frozen
from accord.engine.trees import Trees
from accord.errors import InputError
from accord.methods.offline import Offline
from accord.objectives.preference import dpo
from accord.objectives.segments import segment_sum
from accord.records import Preference


@dataclass(kw_only=True)
class DPO(Offline):
    """Optimise a policy on preferences directly."""

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
        reference = frozen(model.network, compute_dtype(self.dtype, model.device))

        def loss(trees: Trees) -> tuple[Tensor, Measures]:
            with torch.no_grad():
                ref = completion_log_probabilities(reference, trees)
            policy = completion_log_probabilities(model.network, trees)
            values = dpo(margin(policy), margin(ref), beta=self.beta, label_smoothing=self.label_smoothing)
            reward = self.beta * (policy.detach() - ref)
            gap = margin(reward)
            right = (gap > 0).double() + 0.5 * (gap == 0)
            return values, {
                "accuracy": right,
                "margin": gap,
                "chosen_reward": reward[0::2],
                "rejected_reward": reward[1::2],
            }

        return loss


def completion_log_probabilities(network: nn.Module, trees: Trees) -> Tensor:
    """log pi(completion | prompt) of every branch, (C,): the sum over its tokens."""
    logp, _ = log_probabilities(network, trees)
    return segment_sum(logp, trees.owner, trees.branches)


def margin(values: Tensor) -> Tensor:
    """First less second of every pair: (C,) -> (C / 2,)."""
    return values[0::2] - values[1::2]
