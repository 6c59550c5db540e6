"""Methods that sample in pairs, have a judge compare the two, and learn from the pair: online DPO and IPO-MD."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from torch import Tensor, nn

from accord.data.prompts import EncodedPrompt
from accord.engine.fit import Optimiser, Work
from accord.engine.models import Policy
from accord.engine.precision import compute_dtype, frozen
from accord.engine.trees import Tree, Trees, pack
from accord.errors import InputError
from accord.feedback.judge import Judge, judge_samples
from accord.methods.online import Judged, Learner
from accord.methods.parts.pairs import pair_objective
from accord.methods.parts.rollouts import Rollout, respond, rolled


@dataclass(kw_only=True)
class Duelling(Judged):
    """A method that learns from pairs of samples: the first of a prompt against the second, third against fourth."""

    least_group: ClassVar[int] = 2

    group_size: int = 2
    """Samples of each prompt, an even number."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.group_size % 2:
            raise InputError(f"group_size must be even, as samples are judged in pairs, not {self.group_size}.")

    @property
    @abstractmethod
    def strength(self) -> float:
        """What log(pi / ref) is multiplied by to be the implicit reward."""

    @abstractmethod
    def loss(self, policy: Tensor, reference: Tensor, pairs: Trees) -> Tensor:
        """The loss of every pair, (P,), from both margins; `pairs.rewards` holds each sample's probability to win."""

    def pairs(self, judged: list[Tree]) -> list[Tree]:
        """The pairs to learn from, of those with a valid verdict."""
        return judged

    def speaker(self, policy: nn.Module, reference: nn.Module) -> nn.Module:
        """Whose samples are compared."""
        return policy

    def learner(self, policy: Policy, judge: Judge) -> Learner:
        return DuelLearner(self, policy, judge)


class DuelLearner(Learner):
    """The policy and its frozen start."""

    def __init__(self, method: Duelling, policy: Policy, judge: Judge) -> None:
        self.method, self.policy, self.judge = method, policy, judge
        reference = frozen(policy.network, compute_dtype(method.dtype, policy.device))
        self.speaker = method.speaker(policy.network, reference)
        self.networks = {"policy": policy.network}
        self.objective = pair_objective(
            policy.network, reference, method.loss, beta=method.strength, temperature=method.temperature
        )

    def step(
        self, step: int, prompts: Sequence[EncodedPrompt], optimiser: Optimiser
    ) -> tuple[Rollout, dict[str, float]]:
        rollout, judged, told = self.duel(step, prompts)
        pairs = self.method.pairs(judged)
        if not pairs:
            return rollout, told
        packs = pack(pairs, self.method.tokens_per_pass, self.policy.device)
        return rollout, told | optimiser.update(step, Work(self.objective, packs, "tree"))

    def duel(self, step: int, prompts: Sequence[EncodedPrompt]) -> tuple[Rollout, list[Tree], dict[str, float]]:
        """Samples judged in pairs: a sample's reward is its probability to win.

        Returns:
            the rollout, its pairs as trees of two branches, and the shares of ties and of invalid verdicts. Pairs with
            an invalid verdict are left out; their samples stand at 1/2 in the rollout.
        """
        samples = respond(self.method, self.policy, prompts, step, network=self.speaker)
        wins = [v.first_wins for v in judge_samples(self.judge, samples[0::2], samples[1::2])]
        scores = [p for win in wins for p in ((0.5, 0.5) if win is None else (win, 1 - win))]
        rollout = rolled(prompts, samples, scores)
        each = [replace(t, branches=t.branches[i : i + 2]) for t in rollout.trees for i in range(0, len(t.branches), 2)]
        judged = [pair for pair, win in zip(each, wins, strict=True) if win is not None]
        return rollout, judged, {name: wins.count(v) / len(wins) for name, v in (("ties", 0.5), ("invalid", None))}
