"""RLOO: REINFORCE with the mean of the prompt's other samples as the baseline.

    loss = - mean over samples of (r(y_i) - mean over j != i of r(y_j)) log pi(y_i)
    r(y) = score(y) - beta log(pi(y) / ref(y))

Kool, van Hoof and Welling 2019; for language models Ahmadian et al. 2024 (arXiv:2402.14740). The baseline does not
depend on the sample, so the gradient is unbiased.

Departures: none; one update per step, so there is no ratio to clip.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from accord import objectives
from accord.methods.online import DialogueMethod
from accord.methods.policy_gradient import GroupPolicyGradient

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(kw_only=True)
class RLOO(GroupPolicyGradient, DialogueMethod):
    """REINFORCE leave-one-out: a sample's baseline is the mean reward of the prompt's other samples."""

    command: ClassVar[str] = "rloo"
    on_ranks: ClassVar[bool] = True
    least_group: ClassVar[int] = 2

    batch_size: int = 8
    group_size: int = 4

    def advantages(self, rewards: Tensor) -> Tensor:
        return objectives.advantages.leave_one_out(rewards)
