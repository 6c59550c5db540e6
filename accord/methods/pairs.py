"""Losses on pairs of completions, of the policy's margin against the reference's: what DPO and IPO share.

The margin is log pi(first) - log pi(second), first being the chosen completion where one was chosen.

Samples that a judge compares, with an opponent's or with each other.

`Pairwise` is what online DPO and IPO-MD share: they sample in pairs, have the two compared, and learn from the pair.

What models of preferences report of the rankings they are fitted to.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor, nn

from accord.engine.fit import LossTerm, Measures, Objective, Optimizer
from accord.engine.forward import log_probabilities
from accord.engine.models import Policy
from accord.engine.precision import compute_dtype, frozen_copy
from accord.engine.trees import Branch, Tree, Trees, pack
from accord.errors import InputError
from accord.feedback.judge import Judge, judge_samples
from accord.methods.online import JudgeMethod, Learner
from accord.methods.rollouts import Rollout, respond, rolled
from accord.objectives.preference import general_preference, strict_pairs
from accord.objectives.segments import segment_sum
from accord.records import EncodedPrompt, Sample

PairLoss = Callable[[Tensor, Tensor, Trees], Tensor]
"""(policy's margin (P,), reference's margin (P,), the pairs) -> losses (P,)."""


def pair_objective(
    network: nn.Module,
    reference: nn.Module,
    loss: PairLoss,
    *,
    beta: float,
    average: bool = False,
    temperature: float = 1.0,
) -> Objective:
    """A loss of pairs as an objective over trees of two branches each.

    Args:
        network: the policy's network; `reference` the frozen one it started from.
        beta: what log(pi / ref) is multiplied by to be reported as the implicit reward.
        average: a completion's log-probability is the mean over its tokens instead of the sum.
        temperature: that of the distributions compared.
    """

    def objective(trees: Trees) -> tuple[Tensor, Measures]:
        with torch.no_grad():
            ref = completion_log_probabilities(reference, trees, temperature, average=average)
        policy = completion_log_probabilities(network, trees, temperature, average=average)
        reward = beta * (policy.detach() - ref)
        gap = margin(reward)
        return loss(margin(policy), margin(ref), trees), {
            "accuracy": (gap > 0).double() + 0.5 * (gap == 0),
            "margin": gap,
            "chosen_reward": reward[0::2],
            "rejected_reward": reward[1::2],
        }

    return objective


def completion_log_probabilities(
    network: nn.Module, trees: Trees, temperature: float = 1.0, *, average: bool = False
) -> Tensor:
    """log pi(completion | prompt) of every branch, (C,): the sum, or the mean, over its tokens."""
    logp, _ = log_probabilities(network, trees, temperature)
    total = segment_sum(logp, trees.owner, trees.branches)
    return total / torch.bincount(trees.owner, minlength=trees.branches) if average else total


def margin(values: Tensor) -> Tensor:
    """First less second of every pair: (C,) -> (C / 2,)."""
    return values[0::2] - values[1::2]


@dataclass(kw_only=True)
class Pairwise(JudgeMethod):
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
        """The pairs to learn from, of those with a valid verdict; the first of each is no less likely to win."""
        return judged

    def speaker(self, policy: nn.Module, reference: nn.Module) -> nn.Module:
        """Whose samples are compared."""
        return policy

    def learner(self, policy: Policy, judge: Judge) -> Learner:
        return DuelLearner(self, policy, judge)


class DuelLearner(Learner):
    """The policy and its frozen start."""

    def __init__(self, method: Pairwise, policy: Policy, judge: Judge) -> None:
        self.method, self.policy, self.judge = method, policy, judge
        reference = frozen_copy(policy.network, compute_dtype(method.dtype, policy.device))
        self.speaker = method.speaker(policy.network, reference)
        self.networks = {"policy": policy.network}
        self.objective = pair_objective(
            policy.network, reference, method.loss, beta=method.strength, temperature=method.temperature
        )

    def step(
        self, step: int, prompts: Sequence[EncodedPrompt], optimizer: Optimizer
    ) -> tuple[Rollout, dict[str, float]]:
        samples = respond(self.method, self.policy, prompts, step, network=self.speaker)
        rollout, judged, told = self.duel(prompts, samples)
        pairs = self.method.pairs(judged)
        if not pairs:
            return rollout, told
        packs = pack(pairs, self.method.tokens_per_pass, self.policy.device)
        return rollout, told | optimizer.update(step, LossTerm(self.objective, packs, "tree"))

    def duel(
        self, prompts: Sequence[EncodedPrompt], samples: list[Sample]
    ) -> tuple[Rollout, list[Tree], dict[str, float]]:
        """The prompts' samples judged in pairs: a sample's reward is its probability to win.

        Returns:
            the rollout, its pairs as trees of two branches with the winner first, and the shares of ties and of invalid
            verdicts. Pairs with an invalid verdict are left out; their samples stand at 1/2 in the rollout.
        """
        wins = [v.first_wins for v in judge_samples(self.judge, samples[0::2], samples[1::2])]
        scores = [p for win in wins for p in ((0.5, 0.5) if win is None else (win, 1 - win))]
        rollout = rolled(prompts, samples, scores)
        each = [(t, t.branches[i : i + 2]) for t in rollout.trees for i in range(0, len(t.branches), 2)]
        judged = [
            replace(tree, branches=tuple(sorted(pair, key=lambda branch: -branch.score)))
            for (tree, pair), win in zip(each, wins, strict=True)
            if win is not None
        ]
        return rollout, judged, {name: wins.count(v) / len(wins) for name, v in (("ties", 0.5), ("invalid", None))}


def matched(
    judge: Judge, prompts: Sequence[EncodedPrompt], ours: list[Sample], theirs: Sequence[Sample]
) -> tuple[Rollout, dict[str, float]]:
    """Every one of our samples of a prompt against every one of the opponent's, equally many of every prompt.

    Returns:
        our samples, whose reward is their mean probability to win, and the share of invalid verdicts. These are left
        out; a sample that has no other stands at 1/2, and none of its tokens are trained on.
    """
    g, k = len(ours) // len(prompts), len(theirs) // len(prompts)
    first = [sample for sample in ours for _ in range(k)]
    second = [theirs[i // g * k + j] for i in range(len(ours)) for j in range(k)]
    wins = [v.first_wins for v in judge_samples(judge, first, second)]
    valid = [[win for win in wins[i : i + k] if win is not None] for i in range(0, len(wins), k)]
    rollout = rolled(prompts, ours, [sum(won) / len(won) if won else 0.5 for won in valid])
    judged = iter(valid)
    trees = [replace(t, branches=tuple(b if next(judged) else silent(b) for b in t.branches)) for t in rollout.trees]
    return replace(rollout, trees=trees), {"invalid": wins.count(None) / len(wins)}


def silent(branch: Branch) -> Branch:
    """The branch with none of its tokens trained on."""
    return replace(branch, trained=(False,) * len(branch.tokens))


def agreement(outputs: Tensor, trees: Trees) -> Measures:
    """Of every pair of one prompt with different ranks: the log-odds of the better, and whether they favor it.

    Args:
        outputs: (C, 1 + 2k), a score alone (k = 0) or with k planes.
    """
    better, worse = strict_pairs(trees.group, trees.ranks)
    margin = general_preference(outputs.detach()[better], outputs.detach()[worse])
    return {"accuracy": (margin > 0).double() + 0.5 * (margin == 0), "margin": margin}
