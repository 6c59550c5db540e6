"""The steps of a policy gradient: samples scored, given advantages, learnt from in one or several updates.

What a method adds is its advantages and its loss. Where the divergence from the reference is taken off the reward, that
of a completion y becomes r(y) - beta log(pi(y) / ref(y)), whose expectation is the KL-regularized objective.

Past policies, kept as frozen networks that take turns.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from accord.engine.fit import LossTerm, Measures, Optimizer
from accord.engine.forward import log_probabilities
from accord.engine.models import Policy
from accord.engine.precision import autocast, compute_dtype, frozen_copy
from accord.engine.trees import Trees, pack
from accord.errors import InputError
from accord.feedback.judge import Reward
from accord.methods.online import Learner, Online
from accord.methods.rollouts import Rollout, penalize, sample
from accord.objectives import kl
from accord.objectives.policy import reinforce
from accord.objectives.segments import segment_sum
from accord.records import EncodedPrompt


@dataclass(kw_only=True)
class PolicyGradient(Online):
    """A method that raises the probability of samples by their advantage."""

    kl_coefficient: float = 0.05
    """beta, the price of a nat of divergence from the reference; 0 does without a reference."""
    missing_end_penalty: float = 0.0
    """Taken off the reward of a sample that was cut before its end-of-turn token."""
    mask_truncated: bool = False
    """Do not train on samples that were cut; their rewards still count for their siblings."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("kl_coefficient", "missing_end_penalty"):
            if getattr(self, name) < 0:
                raise InputError(f"{name} must not be negative, but is {getattr(self, name)}.")

    @property
    def per(self) -> Literal["branch", "token"]:
        """What the loss has a value for."""
        return "branch"

    @property
    def updates(self) -> tuple[int, int]:
        """Passes over a step's samples, and updates in one pass."""
        return 1, 1

    @property
    def reward_kl(self) -> float:
        """beta, as far as the divergence is taken off the reward."""
        return self.kl_coefficient

    @property
    def scores_itself(self) -> bool:
        """Whether log pi before the first update is computed as it is in an update, not taken from the sampler."""
        return self.updates != (1, 1)

    @abstractmethod
    def advantages(self, rewards: Tensor) -> Tensor:
        """How much better each sample was than expected, (P, G), from the rewards (P, G)."""

    def loss(self, logp: Tensor, trees: Trees) -> tuple[Tensor, Measures]:
        """The values of the loss and measures, from log pi (N,): -A(y) log pi(y) of every completion y."""
        values = reinforce(logp, trees.extra["advantage"])
        return segment_sum(values, trees.owner, trees.branches)[trees.learning], {}

    def learner(self, policy: Policy, reward: Reward) -> Learner:
        return GradientLearner(self, policy, reward)


class GradientLearner(Learner):
    """A policy that learns from a reward, and the frozen model it started from."""

    def __init__(self, method: PolicyGradient, policy: Policy, reward: Reward) -> None:
        self.method, self.policy, self.reward = method, policy, reward
        self.dtype = compute_dtype(method.dtype, policy.device)
        self.reference = frozen_copy(policy.network, self.dtype) if method.kl_coefficient else None
        self.networks = {"policy": policy.network}

    def step(
        self, step: int, prompts: Sequence[EncodedPrompt], optimizer: Optimizer
    ) -> tuple[Rollout, dict[str, float]]:
        rollout = self.rollout(step, prompts)
        return rollout, self.learn(step, rollout, optimizer)

    def rollout(self, step: int, prompts: Sequence[EncodedPrompt]) -> Rollout:
        """Samples with their rewards."""
        return sample(self.method, self.policy, prompts, self.reward, step)

    def learn(self, step: int, rollout: Rollout, optimizer: Optimizer) -> dict[str, float]:
        """The method's updates on a rollout; the numbers to log."""
        batches, row = self.experience(step, rollout)
        done: list[dict[str, float]] = []
        for epoch in range(self.method.updates[0]):
            for i in shuffled(len(batches), self.method.seed, step, epoch):
                done.append(optimizer.update(step, *self.work(batches[i], step, len(done))))
        return row | {name: sum(u[name] for u in done) / len(done) for name in (done[0] if done else ())}

    def work(self, batch: list[Trees], step: int, update: int) -> list[LossTerm]:
        """What one update minimizes."""
        return [LossTerm(self.loss, batch, self.method.per)]

    def experience(self, step: int, rollout: Rollout) -> tuple[list[list[Trees]], dict[str, float]]:
        """The rollout in mini-batches of packs whose `extra` holds what the loss needs, and numbers to log.

        Packs are made once: every pass over them computes the same numbers in the same order. Where every sample of a
        mini-batch is masked, there is none.
        """
        method = self.method
        trees = penalize(rollout, method.missing_end_penalty, mask=method.mask_truncated)
        order = [trees[i] for i in shuffled(len(trees), method.seed, step)]
        count = min(method.updates[1], len(order))
        parts = [pack(order[i::count], method.tokens_per_pass, self.policy.device) for i in range(count)]
        scored = self.assign([self.score(batch) for part in parts for batch in part])
        rest = iter(scored)
        batches = [[next(rest) for _ in part] for part in parts]
        return [part for part in batches if any(len(t.target) for t in part)], self.numbers(scored)

    @torch.no_grad()
    def score(self, trees: Trees) -> Trees:
        """The pack with log-probabilities under the reference, and before the first update where the method asks.

        Otherwise there is but one update, and log pi before it is log pi in it; the divergence is by the sampler's.
        """
        found: dict[str, Tensor] = {}
        with autocast(self.dtype, self.policy.device):
            if self.method.scores_itself:
                found["old"], _ = log_probabilities(self.policy.network, trees, self.method.temperature)
            if self.reference is not None:
                found["reference"], _ = log_probabilities(self.reference, trees, self.method.temperature)
                found["kl"] = kl.k1(found.get("old", trees.logprobs), found["reference"])
        return trees.with_extra(**found)

    def assign(self, scored: list[Trees]) -> list[Trees]:
        """The packs with every token's advantage."""
        rewards = [t.rewards - segment_sum(self.price(t), t.owner, t.branches) for t in scored]
        group = len(scored[0].trees[0].branches)
        advantage = self.method.advantages(torch.cat(rewards).view(-1, group)).flatten()
        each = advantage.split([t.branches for t in scored])
        return [t.with_extra(advantage=a[t.owner]) for t, a in zip(scored, each, strict=True)]

    def price(self, trees: Trees) -> Tensor:
        """What every token takes off its completion's reward, (N,)."""
        beta = self.method.reward_kl
        return beta * trees.extra["kl"] if beta else torch.zeros_like(trees.logprobs)

    def numbers(self, scored: list[Trees]) -> dict[str, float]:
        """What to log: nats of divergence a completion, and the share of prompts whose samples all score the same."""
        rewards = [[b.score for b in tree.branches] for t in scored for tree in t.trees]
        row = {"flat_groups": sum(len(set(r)) == 1 for r in rewards) / len(rewards)} if len(rewards[0]) > 1 else {}
        if self.reference is not None:
            counted = sum(len(t.learning) for t in scored)
            row["kl"] = sum(float(t.extra["kl"].sum()) for t in scored) / max(1, counted)
        return row

    def loss(self, trees: Trees) -> tuple[Tensor, Measures]:
        """The method's loss, the entropy of the policy (by its samples), and how far sampler and trainer disagree."""
        logp, _ = log_probabilities(self.policy.network, trees, self.method.temperature)
        values, measures = self.method.loss(logp, trees)
        drift = (trees.extra.get("old", logp.detach()) - trees.logprobs).abs()
        return values, {**measures, "entropy": -trees.logprobs, "sampler_drift": drift}


def shuffled(count: int, *seed: int) -> list[int]:
    """0 ... count - 1 in an order that the seed decides."""
    return np.random.default_rng(seed).permutation(count).tolist()


class Snapshots:
    """The policy as it was every so many steps, the last `count` of them; before the first, as it was at the start."""

    def __init__(self, network: nn.Module, dtype: torch.dtype, *, count: int, every: int) -> None:
        self.kept, self.every = [frozen_copy(network, dtype) for _ in range(count)], every

    @property
    def networks(self) -> dict[str, nn.Module]:
        """What a checkpoint must hold."""
        return {f"past-{i}": network for i, network in enumerate(self.kept)}

    def last(self, steps: int) -> nn.Module:
        """The last snapshot after so many steps."""
        return self.kept[steps // self.every % len(self.kept)]

    def any(self, *seed: int) -> nn.Module:
        """One of them, drawn by the seed."""
        return self.kept[shuffled(len(self.kept), *seed)[0]]

    def keep(self, network: nn.Module, steps: int) -> None:
        """Take the policy in after so many steps, if it is time."""
        if self.kept and steps % self.every == 0:
            self.last(steps).load_state_dict(network.state_dict())
