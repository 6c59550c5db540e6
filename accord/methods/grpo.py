"""GRPO: group-relative policy optimization, PPO's clipped ratio without a value model.

    A_i = (r_i - mean of the group) / std of the group
    loss of token t of sample i = max(-rho A_i, -clip(rho, 1 - low, 1 + high) A_i) + beta k(pi, ref),  rho = pi / pi_old

Shao et al. 2024 (arXiv:2402.03300), with its k3 estimate of the divergence and the mean over each sequence's tokens
first: `--normalize sequence --clip-high 0.2`. DAPO (Yu et al. 2025, arXiv:2503.14476) is `--kl-coefficient 0
--mask-truncated` with the defaults here: the mean over all tokens, and a wider clip above. Dr. GRPO (Liu et al. 2025,
arXiv:2503.20783) is `--no-scale --normalize constant --kl-coefficient 0`.

The gradient of k3 in the loss is that of KL(ref, pi), not of the penalty KL(pi, ref) in PPO and RLOO. For the latter
use rho k3 (DeepSeek-V3.2, arXiv:2512.02556), k2, or the divergence in the reward: `--kl k3-corrected`, `--kl k2`, `--kl
reward`.

Departures: groups with identical rewards have exactly zero advantage, and truncated samples can be masked.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from accord import objectives
from accord.errors import InputError
from accord.methods.method import Per
from accord.methods.online import DialogueMethod
from accord.methods.policy_gradient import GroupPolicyGradient

if TYPE_CHECKING:
    from torch import Tensor

    from accord.engine import Experience, Measures


@dataclass(kw_only=True)
class GRPO(GroupPolicyGradient, DialogueMethod):
    """Group relative policy optimization: advantages are rewards relative to the other samples of the prompt."""

    command: ClassVar[str] = "grpo"
    on_ranks: ClassVar[bool] = True
    least_group: ClassVar[int] = 2

    batch_size: int = 8
    group_size: int = 8
    kl_coefficient: float = 0.04
    kl: Literal["k3", "k3-corrected", "k2", "reward"] = "k3"
    """Where the divergence enters: the loss, as k3, as k3 times the ratio of new to old probability (k3-corrected) or
    as k2; or the reward."""
    scale: bool = True
    """Divide advantages by the standard deviation of their group's rewards."""
    clip_low: float = 0.2
    """How far below 1 the ratio of new to old probability may fall before its gradient stops."""
    clip_high: float = 0.28
    """How far above 1 that ratio may rise before its gradient stops."""
    normalize: Literal["token", "sequence", "constant"] = "token"
    """How token losses are averaged: over all tokens of the step (token), within each sample and then over samples
    (sequence), or per sample as the sum divided by max_new_tokens (constant, Dr. GRPO)."""
    inner_epochs: int = 1
    """Passes over each step's samples."""
    minibatches: int = 1
    """Updates per pass."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (0 < self.clip_low < 1 and self.clip_high > 0 and self.inner_epochs >= 1 and self.minibatches >= 1):
            raise InputError("clip_low must lie in (0, 1), clip_high above 0, inner_epochs and minibatches at least 1.")

    @property
    def per(self) -> Per:
        return "token" if self.normalize == "token" else "branch"

    @property
    def updates(self) -> tuple[int, int]:
        return self.inner_epochs, self.minibatches

    @property
    def reward_kl(self) -> float:
        return self.kl_coefficient if self.kl == "reward" else 0.0

    @property
    def scores_itself(self) -> bool:
        # With equal scores, dividing by the deviation would amplify rounding differences between sampler and trainer.
        return super().scores_itself or (self.scale and self.reward_kl > 0)

    def advantages(self, rewards: Tensor) -> Tensor:
        return objectives.advantages.group(rewards, scale=self.scale)

    def loss(self, logp: Tensor, batch: Experience) -> tuple[Tensor, Measures]:
        old = logp.detach() if batch.old is None else batch.old
        values = objectives.policy.clipped(logp, old, batch.advantage, low=self.clip_low, high=self.clip_high)
        if self.kl != "reward" and batch.reference is not None:
            values = values + self.kl_coefficient * self.divergence(logp, old, batch.reference)
        ratio = (logp.detach() - old).exp()
        outside = (ratio < 1 - self.clip_low) | (ratio > 1 + self.clip_high)
        if self.normalize != "token":
            sums = objectives.segments.segment_sum(values, batch.owner, batch.branches)[batch.learning]
            lengths = batch.owner.bincount(minlength=batch.branches)[batch.learning]
            values = sums / (lengths if self.normalize == "sequence" else self.max_new_tokens)
        return values, {"ratio": ratio, "clip_fraction": outside.double()}

    def divergence(self, logp: Tensor, old: Tensor, reference: Tensor) -> Tensor:
        """The divergence term of every token before beta, (N,), from log pi, log pi_old and log ref, (N,) each."""
        if self.kl == "k3-corrected":
            return objectives.kl.k3_corrected(logp, old, reference)
        return {"k2": objectives.kl.k2, "k3": objectives.kl.k3}[self.kl](logp, reference)
