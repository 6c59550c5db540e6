"""IPO: identity preference optimization, preferences fitted by regression, which no preference can push too far.

    loss = ((log pi(chosen) - log pi(rejected)) - (log ref(chosen) - log ref(rejected)) - 1 / (2 tau))^2

Azar et al. 2023 (arXiv:2310.12036), eq. 17. Where labels are unanimous DPO's margin grows without bound; here it comes
to rest at 1 / (2 tau).

Departures: none; log-probabilities are sums over a completion's tokens. With `--length mean` they are means, and 1 / (2
tau) is a margin a token.
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
from accord.objectives.preference import ipo
from accord.records import Preference


@dataclass(kw_only=True)
class IPO(PolicyMethod):
    """Optimize a policy on preferences directly, with a bounded margin."""

    command: ClassVar[str] = "ipo"
    reads: ClassVar[tuple[type, ...]] = (Preference,)
    per: ClassVar[Literal["tree", "branch", "token"]] = "tree"

    learning_rate: float = 1e-6
    """Peak step size of AdamW."""
    tau: float = 0.1
    """Strength of the pull towards the reference: larger stays closer."""
    length: Literal["sum", "mean"] = "sum"
    """A completion's log-probability is the sum over its tokens, or their mean."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.tau > 0:
            raise InputError(f"tau must be positive, not {self.tau}.")

    def objective(self, model: Model) -> Objective:
        reference = frozen_copy(model.network, compute_dtype(self.dtype, model.device))

        def loss(policy: Tensor, reference: Tensor, trees: Trees) -> Tensor:
            return ipo(policy, reference, tau=self.tau)

        return pair_objective(model.network, reference, loss, beta=self.tau, average=self.length == "mean")
