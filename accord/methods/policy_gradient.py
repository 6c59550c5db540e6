"""Policy gradients: samples are scored, given advantages, and learned from in one or several updates.

A method adds its advantages and its loss. Where the divergence from the reference is subtracted from the reward, that
of a completion y becomes r(y) - beta log(pi(y) / ref(y)), whose expectation is the KL-regularized objective.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from accord import engine, objectives
from accord.engine.config import require_positive
from accord.errors import InputError
from accord.methods.method import Per
from accord.methods.online import AsynchronousLearner, AsynchronousMethod, DialogueMethod
from accord.methods.rollouts import Rollout, penalize, sample
from accord.methods.turn_rewards import advantages_by_turn
from accord.records import EncodedPrompt
from accord.train.learner import Learner, StepResult

if TYPE_CHECKING:
    from torch import Tensor

    from accord.engine import Experience, LossTerm, Measures, Optimizer, Policy, Trees
    from accord.feedback.reward import Reward


@dataclass(kw_only=True)
class PolicyGradient(AsynchronousMethod, ABC):
    """A method that changes the probability of samples by their advantage."""

    kl_coefficient: float = 0.05
    """Penalty (beta) per nat of divergence from the reference; 0 needs no reference."""
    missing_end_penalty: float = 0.0
    """Subtracted from the reward of a sample that was cut before its end-of-turn token."""
    mask_truncated: bool = False
    """Do not train on samples that were cut; their rewards still enter the other samples' advantages."""
    importance_cap: float | None = None
    """Truncated importance sampling: weight each token's advantage by min(c, pi / sampler) with this c, such as 2,
    where the sampler differs from the trained policy, as a quantized server does (default: off)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.importance_cap is not None:
            require_positive(importance_cap=self.importance_cap)
        for name in ("kl_coefficient", "missing_end_penalty"):
            if not 0 <= getattr(self, name) < math.inf:
                raise InputError(f"{name} must be 0 or more, and finite, not {getattr(self, name)}.")

    @property
    def frozen_copies(self) -> int:
        return int(self.kl_coefficient > 0)

    @property
    def per(self) -> Per:
        """The element that the loss has one value for."""
        return "branch"

    @property
    def updates(self) -> tuple[int, int]:
        """Passes over a step's samples, and updates per pass."""
        return 1, 1

    @property
    def reward_kl(self) -> float:
        """beta, if the divergence is subtracted from the reward, else 0."""
        return self.kl_coefficient

    @property
    def scores_itself(self) -> bool:
        """Whether log pi before the first update is recomputed as in training, not taken from the sampler.

        It must be where several updates are compared with it, and where an older policy has sampled but the divergence
        of the current one is subtracted from the reward.
        """
        return self.updates != (1, 1) or (self.samples_ahead and self.reward_kl > 0)

    def loss(self, logp: Tensor, batch: Experience) -> tuple[Tensor, Measures]:
        """The loss values and measures, from log pi (N,): -A(y) log pi(y) of every completion y."""
        values = objectives.policy.reinforce(logp, batch.advantage)
        return objectives.segments.segment_sum(values, batch.owner, batch.branches)[batch.learning], {}


@dataclass(kw_only=True)
class GroupPolicyGradient(PolicyGradient, ABC):
    """A policy gradient whose advantages compare the rewards of samples."""

    compared: ClassVar[Literal["prompt", "step"]] = "prompt"
    """Which other samples each is compared with: those of its prompt, or all of its step."""

    @abstractmethod
    def advantages(self, rewards: Tensor) -> Tensor:
        """The advantage of each sample, (P, G), from the rewards (P, G)."""

    def learner(self, policy: Policy, feedback: Any) -> Learner:
        return GroupLearner(self, policy, feedback)


class GradientLearner(AsynchronousLearner, ABC):
    """A policy that learns from a reward, and the frozen reference it started from."""

    method: PolicyGradient

    def __init__(self, method: PolicyGradient, policy: Policy, reward: Reward) -> None:
        self.method, self.policy, self.reward = method, policy, reward
        self.reference = engine.offload.reference_copy(policy, method) if method.kl_coefficient else None
        self.dialogue = method.dialogue() if isinstance(method, DialogueMethod) else None
        self.networks = {"policy": policy.network}

    def step(self, step: int, items: Sequence[EncodedPrompt], optimizer: Optimizer) -> StepResult:
        rollout = sample(self.method, self.policy, items, self.reward, step, self.dialogue)
        return rollout.result(self.learn(step, rollout, optimizer))

    def learn(self, step: int, rollout: Rollout, optimizer: Optimizer) -> dict[str, float]:
        """The method's updates on a rollout; returns the numbers to log."""
        batches, row = self.experience(step, rollout)
        done: list[dict[str, float]] = []
        for epoch in range(self.method.updates[0]):
            for i in shuffled(len(batches), self.method.seed, step, epoch):
                done.append(optimizer.update(step, *self.terms(batches[i], step, len(done))))
        return row | {name: sum(u[name] for u in done) / len(done) for name in (done[0] if done else ())}

    def terms(self, batch: list[Experience], step: int, update: int) -> list[LossTerm]:
        """The loss terms of one update."""
        return [engine.LossTerm(self.loss, batch, self.method.per)]

    def experience(self, step: int, rollout: Rollout) -> tuple[list[list[Experience]], dict[str, float]]:
        """The rollout in mini-batches of packs with what the loss needs, and numbers to log.

        Packs are made once, so that every pass over them computes the same numbers in the same order. A mini-batch of
        only masked samples is dropped.
        """
        import torch

        method = self.method
        trees = penalize(rollout, method.missing_end_penalty, mask=method.mask_truncated)
        order = [trees[i] for i in shuffled(len(trees), method.seed, step)]
        count = min(method.updates[1], len(order))
        parts = [engine.pack(order[i::count], method.tokens_per_pass, self.policy.device) for i in range(count)]
        with torch.no_grad():
            scored = self.assign(engine.trees.on_every_rank([batch for part in parts for batch in part], self.score))
        rest = iter(scored)
        batches = [[next(rest) for _ in part] for part in parts]
        return [part for part in batches if any(len(t.target) for t in part)], self.numbers(scored)

    def score(self, trees: Trees) -> Experience:
        """The pack with log-probabilities under the reference, and under the policy before the first update if
        `scores_itself`.

        Otherwise there is only one update, whose own log pi serves, and the divergence uses the sampler's
        log-probabilities.
        """
        temperature = self.method.temperature
        batch = engine.Experience.of_samples(trees)
        if self.method.scores_itself:
            batch = replace(batch, old=self.policy.log_probs(trees, temperature))
        if self.reference is None:
            return batch
        reference = self.reference.log_probs(trees, temperature)
        before = trees.logprobs if batch.old is None else batch.old
        return replace(batch, reference=reference, kl=objectives.kl.k1(before, reference))

    @abstractmethod
    def assign(self, scored: list[Experience]) -> list[Experience]:
        """The packs with every token's advantage."""

    def numbers(self, scored: list[Experience]) -> dict[str, float]:
        """Numbers to log: nats of divergence per completion, and the share of prompts whose samples all score the
        same."""
        trees = [tree for t in scored for tree in t.trees]
        rewards = [[(b.score, *(turn.reward for turn in b.turns)) for b in tree.branches] for tree in trees]
        row = {"flat_groups": sum(len(set(r)) == 1 for r in rewards) / len(rewards)} if len(rewards[0]) > 1 else {}
        if self.reference is not None:
            counted = sum(len(t.learning) for t in scored)
            row["kl"] = sum(float(t.kl.sum()) for t in scored) / max(1, counted)
        return row

    def loss(self, batch: Experience) -> tuple[Tensor, Measures]:
        """The method's loss, the policy's entropy estimated from its samples, and the difference between sampler and
        trainer.

        With samples of an older policy the difference is logged as off-policy drift, not as numerical drift.
        """
        logp = self.policy.log_probs(batch, self.method.temperature)
        gap = (logp.detach() if batch.old is None else batch.old) - batch.logprobs
        name = "off_policy_drift" if self.method.samples_ahead else "sampler_drift"
        logged = {"entropy": -batch.logprobs, name: gap.abs()}
        if self.method.importance_cap is not None:
            weight = gap.exp().clamp(max=self.method.importance_cap)  # the loss is linear in A for positive weights
            logged["importance_weight"] = weight
            batch = replace(batch, advantage=batch.advantage * weight)
        values, measures = self.method.loss(logp, batch)
        return values, {**measures, **logged}


class GroupLearner(GradientLearner):
    """Advantages by comparing the rewards of a prompt's samples."""

    method: GroupPolicyGradient

    def assign(self, scored: list[Experience]) -> list[Experience]:
        import torch

        if scored[0].trees[0].branches[0].turns:
            packs = [(t, self.kl_penalty(t)) for t in scored]
            by_token = advantages_by_turn(self.method.advantages, packs, across=self.method.compared == "step")
            return [replace(t, advantage=a) for t, a in zip(scored, by_token, strict=True)]
        rewards = [t.rewards - objectives.segments.segment_sum(self.kl_penalty(t), t.owner, t.branches) for t in scored]
        group = len(scored[0].trees[0].branches)
        advantage = self.method.advantages(torch.cat(rewards).view(-1, group)).flatten()
        each = advantage.split([t.branches for t in scored])
        return [replace(t, advantage=a[t.owner]) for t, a in zip(scored, each, strict=True)]

    def kl_penalty(self, batch: Experience) -> Tensor:
        """The penalty that each token subtracts from its completion's reward, (N,)."""
        beta = self.method.reward_kl
        return beta * batch.kl if beta else batch.logprobs.new_zeros(len(batch.logprobs))


def shuffled(count: int, *seed: int) -> list[int]:
    """A permutation of 0 ... count - 1, determined by the seed."""
    return np.random.default_rng(seed).permutation(count).tolist()
