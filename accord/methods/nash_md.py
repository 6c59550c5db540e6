"""Nash-MD: the policy that no other beats by a judge's preferences, which need not be transitive.

    y ~ pi,  y' ~ pi^(1 - m) ref^m (token by token, from the mixed logits)
    loss = - (P(y beats y' | x) - tau log(pi(y) / ref(y)) - b) log pi(y)

Munos et al. 2023 (arXiv:2312.00886): the score function of whole completions. At rest pi = ref exp(P(y beats its
opponent) / tau) / Z: for m = 0 the Nash equilibrium of the regularized game, for m = 1 the best response to ref.
`--past 4` plays snapshots of the policy; with `--past 1` and `--mirror`, the price of a nat of divergence from the
snapshot, that is online mirror descent.

Departures: a sample meets all of the opponent's samples of its prompt, those without a valid verdict left out, and is
not learnt from where none has one; b is its siblings' mean, or 1/2 for one alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from accord.engine.cache import Mixture
from accord.engine.fit import Optimizer
from accord.engine.forward import log_probabilities
from accord.engine.models import Policy
from accord.engine.precision import autocast
from accord.engine.trees import Trees
from accord.errors import InputError
from accord.feedback.judge import Judge
from accord.methods.online import JudgeMethod, Learner
from accord.methods.pairs import matched
from accord.methods.policy_gradient import GradientLearner, PolicyGradient, Snapshots
from accord.methods.rollouts import Rollout, respond
from accord.objectives import kl
from accord.objectives.advantages import leave_one_out
from accord.records import EncodedPrompt


@dataclass(kw_only=True)
class NashMD(JudgeMethod, PolicyGradient):
    """Optimize a policy against opponents made of itself, by a judge's preferences."""

    command: ClassVar[str] = "nash-md"

    batch_size: int = 8
    """Prompts in one step."""
    group_size: int = 4
    """Samples of each prompt."""
    kl_coefficient: float = 0.008
    """tau, the price of a nat of divergence from the reference; 0 does without a reference."""
    opponents: int = 4
    """Samples of the opponent for each prompt."""
    mixture: float = 0.125
    """m, the reference's share in the opponent: 0 is self-play, 1 the reference."""
    past: int = 0
    """Snapshots of the policy to play instead, another every step; 0 plays the mixture."""
    snapshot_every: int = 10
    """Steps between snapshots."""
    mirror: float = 0.0
    """Price of a nat of divergence from the last snapshot."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (0 <= self.mixture <= 1 and self.mirror >= 0):
            raise InputError(f"mixture lies in [0, 1] and mirror from 0 up, not {self.mixture} and {self.mirror}.")
        if self.opponents < 1 or self.past < 0 or self.snapshot_every < 1:
            raise InputError("opponents and snapshot_every must be at least 1, and past must not be negative.")
        if self.mixture and not (self.past or self.kl_coefficient):
            raise InputError("a mixture with the reference needs one: give a kl_coefficient above 0, or mixture 0.")

    def advantages(self, rewards: Tensor) -> Tensor:
        return leave_one_out(rewards) if self.group_size > 1 else rewards - 0.5

    def learner(self, policy: Policy, judge: Judge) -> Learner:  # type: ignore[override]
        return NashLearner(self, policy, judge)


class NashLearner(GradientLearner):
    """The policy, its frozen start, and as many snapshots of it as are played or held to."""

    method: NashMD

    def __init__(self, method: NashMD, policy: Policy, judge: Judge) -> None:
        super().__init__(method, policy, judge)  # type: ignore[arg-type]
        self.judge, self.done = judge, 0
        count = method.past or int(method.mirror > 0)
        self.past = Snapshots(policy.network, self.dtype, count=count, every=method.snapshot_every)
        self.networks = {"policy": policy.network, **self.past.networks}

    def step(
        self, step: int, prompts: Sequence[EncodedPrompt], optimizer: Optimizer
    ) -> tuple[Rollout, dict[str, float]]:
        method, self.done = self.method, step
        ours = respond(method, self.policy, prompts, step)
        theirs = respond(method, self.policy, prompts, step, 1, n=method.opponents, network=self.opponent(step))
        rollout, told = matched(self.judge, prompts, ours, theirs)
        row = self.learn(step, rollout, optimizer)
        self.past.keep(self.policy.network, step + 1)
        return rollout, row | told

    def opponent(self, step: int) -> nn.Module:
        """Who is played at a step."""
        if self.method.past:
            return self.past.any(self.method.seed, step)
        if self.reference is None:
            return self.policy.network
        return Mixture(self.policy.network, self.reference, self.method.mixture)

    def price(self, trees: Trees) -> Tensor:
        if not self.method.mirror:
            return super().price(trees)
        with torch.no_grad(), autocast(self.dtype, self.policy.device):
            past, _ = log_probabilities(self.past.last(self.done), trees, self.method.temperature)
        return super().price(trees) + self.method.mirror * kl.k1(trees.logprobs, past)
