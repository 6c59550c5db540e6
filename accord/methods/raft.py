"""RAFT: samples are ranked by a reward, and the best become demonstrations (online expert iteration).

    y_1 ... y_G ~ pi(.|x);  loss = - mean over the tokens of the kept samples of log pi(token | prompt, earlier tokens)

Dong et al. 2023 (arXiv:2304.06767) keep the best of every prompt; with `--at-least` a threshold decides, such as 1 for
a verifier, which is rejection-sampling fine-tuning (Yuan et al. 2023, arXiv:2308.01825). In expectation T rounds of the
best of k sample from the best of k^T.

Departures: one update per step, so the samples are the policy's own (except with `--stale-steps`); of identical samples
of a prompt one is kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

from accord import engine
from accord.errors import InputError
from accord.methods.method import maximum_likelihood
from accord.methods.online import AsynchronousLearner, AsynchronousMethod, RewardMethod
from accord.methods.rollouts import sample
from accord.records import EncodedPrompt
from accord.train.learner import StepResult

if TYPE_CHECKING:
    from accord.arrays import Tokens
    from accord.engine import Branch, Optimizer, Policy, Tree
    from accord.feedback.reward import Reward


@dataclass(kw_only=True)
class RAFT(AsynchronousMethod, RewardMethod):
    """Reward-ranked fine-tuning: fine-tune a policy on the best of its own samples."""

    command: ClassVar[str] = "raft"
    on_ranks: ClassVar[bool] = True
    least_group: ClassVar[int] = 2

    learning_rate: float = 1e-5
    batch_size: int = 8
    group_size: int = 8
    keep: int = 1
    """The most samples per prompt to learn from, the best first."""
    at_least: float | None = None
    """The least reward of a sample to learn from."""
    keep_truncated: bool = False
    """Also learn from samples that were cut before their end-of-turn token."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.keep <= self.group_size:
            raise InputError(f"keep must lie between 1 and group_size ({self.group_size}), not {self.keep}.")

    def learner(self, policy: Policy, feedback: Any) -> RAFTLearner:
        return RAFTLearner(self, policy, feedback)

    def best(self, tree: Tree, ends: Sequence[int]) -> list[Branch]:
        """The branches to learn from, best first; ties in sampling order."""
        distinct: dict[Tokens, Branch] = {}
        for branch in tree.branches:
            good = self.at_least is None or branch.score >= self.at_least
            if good and (self.keep_truncated or branch.tokens[-1] in ends):
                distinct.setdefault(branch.tokens, branch)
        return sorted(distinct.values(), key=lambda branch: -branch.score)[: self.keep]


class RAFTLearner(AsynchronousLearner):
    """A policy that learns from the best of its own samples."""

    method: RAFT

    def __init__(self, method: RAFT, policy: Policy, reward: Reward) -> None:
        self.method, self.policy, self.reward = method, policy, reward
        self.networks = {"policy": policy.network}
        self.objective = maximum_likelihood(policy, method.temperature)

    def step(self, step: int, items: Sequence[EncodedPrompt], optimizer: Optimizer) -> StepResult:
        rollout = sample(self.method, self.policy, items, self.reward, step)
        best = [(tree, self.method.best(tree, self.policy.ends)) for tree in rollout.trees]
        kept = [replace(tree, branches=tuple(branches)) for tree, branches in best if branches]
        rewards = [branch.score for tree in kept for branch in tree.branches]
        row = {"kept": len(rewards) / len(rollout.samples)}
        if kept:
            packs = engine.pack(kept, self.method.tokens_per_pass, self.policy.device)
            row |= {"kept_reward": sum(rewards) / len(rewards)}
            row |= optimizer.update(step, engine.LossTerm(self.objective, packs, "token"))
        return rollout.result(row)
