"""IPO: identity preference optimization, preferences fitted by regression, which no preference can push too far.

    loss = ((log pi(chosen) - log pi(rejected)) - (log ref(chosen) - log ref(rejected)) - 1 / (2 tau))^2

Azar et al. 2023 (arXiv:2310.12036), eq. 17. Where labels are unanimous DPO's margin grows without bound; here it comes
to rest at 1 / (2 tau). Where rows have a `chosen_probability` p, the loss is its mean over both labels, and the margin
comes to rest at (2 p - 1) / (2 tau).

Departures: none; log-probabilities are sums over a completion's tokens. With `--length mean` they are means, and 1 / (2
tau) is a margin a token.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from accord import objectives
from accord.engine.config import require_positive
from accord.methods.pairs import PreferenceMethod, doubt

if TYPE_CHECKING:
    from torch import Tensor

    from accord.engine import Trees


@dataclass(kw_only=True)
class IPO(PreferenceMethod):
    """Optimize a policy on preferences directly, with a bounded margin."""

    command: ClassVar[str] = "ipo"

    tau: float = 0.1
    """Strength of the pull toward the reference: larger stays closer."""
    length: Literal["sum", "mean"] = "sum"
    """A completion's log-probability is the sum over its tokens, or their mean."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive(tau=self.tau)

    @property
    def strength(self) -> float:
        return self.tau

    @property
    def average(self) -> bool:
        return self.length == "mean"

    def loss(self, policy: Tensor, reference: Tensor, pairs: Trees) -> Tensor:
        return objectives.preference.ipo(policy, reference, tau=self.tau, label_smoothing=doubt(pairs, policy))
