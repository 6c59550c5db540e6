"""IPO-MD: online IPO on pairs sampled from the geometric mixture of policy and reference.

    y, y' ~ pi^(1 - m) ref^m (token by token, from the mixed logits);  p = P(y beats y' | x)
    loss = p (h - 1 / (2 tau))^2 + (1 - p) (-h - 1 / (2 tau))^2,  h = margin of pi - margin of ref

Calandriello et al. 2024 (arXiv:2403.08635). The gradient is that of (h - (p - 1/2) / tau)^2, and the fixed point pi =
ref exp(P(y beats the mixture) / tau) / Z, as in Nash-MD: m = 0 is online IPO, whose fixed point is the regularized
game's Nash equilibrium. The sampling distribution has no gradient.

Departures: none. Invalid verdicts are left out and counted.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from accord import engine, objectives
from accord.engine.config import require_positive
from accord.errors import InputError
from accord.methods.pairwise import PairwiseMethod

if TYPE_CHECKING:
    from torch import Tensor

    from accord.engine import Policy, Trees


@dataclass(kw_only=True)
class IPOMD(PairwiseMethod):
    """IPO with mirror descent: regression on a judge's preferences between samples of the policy's mixture with the
    reference."""

    command: ClassVar[str] = "ipo-md"
    on_ranks: ClassVar[bool] = True

    tau: float = 0.1
    """Strength of the pull toward the reference; larger stays closer."""
    mixture: float = 0.125
    """The reference's share (m) in the mixture that is sampled from: 0 is online IPO."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive(tau=self.tau)
        if not 0 <= self.mixture <= 1:
            raise InputError(f"mixture lies in [0, 1], not {self.mixture}.")
        if self.sampler is not None:
            raise InputError("ipo-md samples from a mixture of two models, which servers cannot: leave sampler out.")

    @property
    def strength(self) -> float:
        return self.tau

    def sampled_policy(self, policy: Policy, reference: Policy) -> Policy:
        return policy.with_network(engine.decoding.Mixture(policy.network, reference.network, self.mixture))

    def loss(self, policy: Tensor, reference: Tensor, pairs: Trees) -> Tensor:
        return objectives.preference.ipo(policy, reference, tau=self.tau, label_smoothing=pairs.rewards[1::2])
