"""REINFORCE: the reward of a completion, minus a baseline, times the gradient of its log-probability.

    loss = - mean over samples of (r(y) - b) log pi(y),    r(y) = score(y) - beta log(pi(y) / ref(y))

Williams 1992 ("Simple statistical gradient-following algorithms", Machine Learning 8). b is the mean reward of the
step's other samples, which does not depend on y, so that the gradient stays unbiased; or 0.

Departures: none; one update per step. A step's only sample has no baseline.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from accord import objectives
from accord.errors import InputError
from accord.methods.online import DialogueMethod
from accord.methods.policy_gradient import GroupPolicyGradient

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(kw_only=True)
class REINFORCE(GroupPolicyGradient, DialogueMethod):
    """REINFORCE: optimize a policy against a reward by the plain policy gradient."""

    command: ClassVar[str] = "reinforce"
    on_ranks: ClassVar[bool] = True
    compared: ClassVar[Literal["prompt", "step"]] = "step"

    baseline: Literal["mean", "none"] = "mean"
    """What is subtracted from a sample's reward: the mean of the step's other samples, or nothing."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.baseline == "mean" and self.batch_size * self.group_size < 2:
            raise InputError("a mean of other samples needs two samples a step; raise batch_size or set baseline none.")

    def advantages(self, rewards: Tensor) -> Tensor:
        if self.baseline == "none" or rewards.numel() == 1:
            return rewards
        return objectives.advantages.leave_one_out(rewards.reshape(1, -1)).view_as(rewards)
