"""On-policy distillation: the student writes, the teacher says how likely it would have written that.

    minimize KL(pi, teacher) = E over y ~ pi of sum over t of d_t,  d_t = log pi(y_t | .) - log teacher(y_t | .)
    loss of token t = - A_t log pi(y_t | .),  A_t = - (d_t + gamma d_(t+1) + gamma^2 d_(t+2) + ...)

Agarwal et al. 2023 (arXiv:2306.13649) with the reverse divergence, as a reward of tokens in Gu et al. 2023
(arXiv:2306.08543). gamma = 1 is the exact gradient of the divergence between whole completions; gamma = 0 counts for a
token its own divergence alone, as the first paper does, with far less variance.

Departures: the divergence is measured at the sampled tokens, not over the whole vocabulary. To learn from what a larger
model writes instead, sample from it (`accord sample`) and fine-tune on that (`accord sft`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from accord.engine.fit import LossTerm, Measures, Optimizer
from accord.engine.forward import log_probabilities
from accord.engine.models import Policy
from accord.engine.precision import autocast, compute_dtype, frozen_copy
from accord.engine.trees import Trees, pack
from accord.errors import InputError
from accord.methods.online import DistillMethod, Learner
from accord.methods.rollouts import Rollout, respond, rolled
from accord.objectives import kl
from accord.objectives.advantages import gae
from accord.objectives.policy import reinforce
from accord.objectives.segments import segment_sum
from accord.records import EncodedPrompt


@dataclass(kw_only=True)
class Distill(DistillMethod):
    """Make a student say what its teacher would, on the student's own samples."""

    command: ClassVar[str] = "distill"

    learning_rate: float = 1e-5
    """Peak step size of AdamW."""
    gamma: float = 0.0
    """Discount of the divergence at later tokens: 1 is the exact gradient, 0 has the least variance."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.gamma <= 1:
            raise InputError(f"gamma lies in [0, 1], not {self.gamma}.")

    def learner(self, policy: Policy, teacher: Policy) -> Learner:
        return DistillLearner(self, policy, teacher)


class DistillLearner(Learner):
    """A student and its teacher."""

    def __init__(self, method: Distill, policy: Policy, teacher: Policy) -> None:
        self.method, self.policy = method, policy
        self.dtype = compute_dtype(method.dtype, policy.device)
        self.teacher = frozen_copy(teacher.network, self.dtype)
        self.networks = {"policy": policy.network}

    def step(
        self, step: int, prompts: Sequence[EncodedPrompt], optimizer: Optimizer
    ) -> tuple[Rollout, dict[str, float]]:
        samples = respond(self.method, self.policy, prompts, step)
        rollout = rolled(prompts, samples, [0.0] * len(samples))
        packs = [self.score(t) for t in pack(rollout.trees, self.method.tokens_per_pass, self.policy.device)]
        divergence = sum(float(t.extra["kl"].sum()) for t in packs) / len(samples)
        row = optimizer.update(step, LossTerm(self.loss, packs, "branch"))
        return rollout, {"reward": -divergence, "teacher_kl": divergence} | row

    @torch.no_grad()
    def score(self, trees: Trees) -> Trees:
        """The pack with every token's divergence from the teacher and its advantage."""
        with autocast(self.dtype, self.policy.device):
            teacher, _ = log_probabilities(self.teacher, trees, self.method.temperature)
        divergence = kl.k1(trees.logprobs, teacher)
        zero = torch.zeros_like(divergence)
        advantage, _ = gae(-divergence, zero, trees.owner, gamma=self.method.gamma, lam=1.0)
        return trees.with_extra(kl=divergence, advantage=advantage)

    def loss(self, trees: Trees) -> tuple[Tensor, Measures]:
        """- sum over t of A_t log pi(y_t) of every completion, (C,)."""
        logp, _ = log_probabilities(self.policy.network, trees, self.method.temperature)
        values = segment_sum(reinforce(logp, trees.extra["advantage"]), trees.owner, trees.branches)
        return values, {"entropy": -trees.logprobs, "sampler_drift": (logp.detach() - trees.logprobs).abs()}
