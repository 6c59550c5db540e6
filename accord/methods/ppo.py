"""Proximal policy optimisation against a reward, held near the model it started from.

    reward of token t = - beta (log pi_old(t) - log ref(t)) + [t is the last] score
    advantages by GAE(gamma, lambda) under a value model, whitened over the step
    loss = mean over tokens of max(-rho A, -clip(rho, 1 - c, 1 + c) A) + c_v * clipped value loss,  rho = pi / pi_old

Schulman et al. 2017 (arXiv:1707.06347); for language models Ziegler et al. 2019 (arXiv:1909.08593), Ouyang et al. 2022
(arXiv:2203.02155), whose optional pretraining mix is here too.

Departures: policy and value are separate networks (as in the latter paper) that share a step size; log pi_old is
computed with the very batches it is compared in, so that the first mini-batch has a ratio of exactly 1; a sample cut
before its end-of-turn token loses `missing_end_penalty` of its score.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from accord.data import Order, load_data
from accord.data.encoding import encode
from accord.engine.fit import Measures, Optimiser, Work
from accord.engine.forward import log_probabilities, values
from accord.engine.models import Policy, Scorer
from accord.engine.precision import compute_dtype, computing, frozen
from accord.engine.trees import Trees, pack
from accord.errors import InputError
from accord.feedback.judge import Reward
from accord.feedback.learned import LearnedReward
from accord.methods.offline import maximum_likelihood, of_kind
from accord.methods.online import Learner, Online, Rollout, penalise
from accord.objectives import advantages, kl, policy
from accord.records import Demonstration


@dataclass(kw_only=True)
class PPO(Online):
    """Optimise a policy against a reward by proximal policy optimisation."""

    command: ClassVar[str] = "ppo"

    kl_coefficient: float = 0.05
    """beta, the price of a nat of divergence from the reference."""
    kl_target: float | None = None
    """Divergence (nats a completion) that beta is adapted to hold; none keeps beta fixed."""
    clip: float = 0.2
    """How far the ratio of new to old probability may move before its gradient stops."""
    value_clip: float = 0.2
    """How far a value may move in one step."""
    value_coefficient: float = 0.1
    """Weight of the value loss."""
    gamma: float = 1.0
    """Discount of later rewards."""
    lam: float = 0.95
    """GAE's lambda: 1 is unbiased, 0 leans wholly on the value model."""
    inner_epochs: int = 4
    """Passes over each step's samples."""
    minibatches: int = 1
    """Updates in one such pass."""
    missing_end_penalty: float = 1.0
    """Taken off the score of a sample that was cut before its end-of-turn token."""
    pretraining_data: str | None = None
    """Demonstrations or text whose likelihood is kept up beside the reward."""
    pretraining_coefficient: float = 1.0
    """Weight of their loss."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (0 < self.clip < 1 and self.value_clip > 0 and self.inner_epochs >= 1 and self.minibatches >= 1):
            raise InputError("clip must lie in (0, 1), value_clip above 0, inner_epochs and minibatches at least 1.")
        if self.kl_coefficient < 0 or (self.kl_target is not None and not self.kl_target > 0):
            raise InputError("kl_coefficient must not be negative, and kl_target must be positive.")
        if not (0 <= self.gamma <= 1 and 0 <= self.lam <= 1):
            raise InputError(f"gamma and lam lie in [0, 1], not {self.gamma} and {self.lam}.")

    def learner(self, policy: Policy, reward: Reward) -> PPOLearner:
        return PPOLearner(self, policy, reward)


class PPOLearner(Learner):
    """The policy, its frozen start as the reference, and a value model that starts from the reward model if it can."""

    def __init__(self, ppo: PPO, policy: Policy, reward: Reward) -> None:
        self.ppo, self.policy = ppo, policy
        self.dtype = compute_dtype(ppo.dtype, policy.device)
        self.reference = frozen(policy.network, self.dtype)
        learned = reward.scorer if isinstance(reward, LearnedReward) and reward.shares_tokens else None
        self.value = Scorer.on(learned or policy, ppo.seed).network
        self.value.to(next(policy.network.parameters())).requires_grad_()  # type: ignore[arg-type]
        self.networks = {"policy": policy.network, "value": self.value}
        self.kl_coefficient = ppo.kl_coefficient
        self.mix = pretraining_mix(ppo, policy) if ppo.pretraining_data else None

    def state(self) -> dict[str, Any]:
        return {"kl_coefficient": self.kl_coefficient}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.kl_coefficient = state.get("kl_coefficient", self.kl_coefficient)

    def learn(self, step: int, rollout: Rollout, optimiser: Optimiser) -> dict[str, float]:
        batches, row = self.experience(step, rollout)
        updates: list[dict[str, float]] = []
        for epoch in range(self.ppo.inner_epochs):
            for i in _shuffled(len(batches), self.ppo.seed, step, epoch):
                work = [Work(self.loss, batches[i], "token")]
                if self.mix:
                    work.append(self.mix(step * self.ppo.inner_epochs * len(batches) + len(updates)))
                updates.append(optimiser.update(step, *work))
        row["kl_coefficient"] = self.kl_coefficient
        if self.ppo.kl_target is not None:
            self.kl_coefficient *= 1 + 0.1 * max(-0.2, min(0.2, row["kl"] / self.ppo.kl_target - 1))
        return row | {name: sum(u[name] for u in updates) / len(updates) for name in updates[0]}

    def experience(self, step: int, rollout: Rollout) -> tuple[list[list[Trees]], dict[str, float]]:
        """The rollout in mini-batches of packs, with old log-probabilities, values, advantages and returns in `extra`.

        Packs are made once: every pass over them computes the same numbers in the same order.
        """
        penalised = penalise(rollout, self.ppo.missing_end_penalty)
        shuffled = [penalised[i] for i in _shuffled(len(penalised), self.ppo.seed, step)]
        count = min(self.ppo.minibatches, len(shuffled))
        parts = [pack(shuffled[i::count], self.ppo.tokens_per_pass, self.policy.device) for i in range(count)]
        scored = [[self._score(trees) for trees in part] for part in parts]
        every = {name: torch.cat([t.extra[name] for part in scored for t in part]) for name in scored[0][0].extra}
        mean, std = every["advantage"].mean(), every["advantage"].std(correction=0)
        scored = [
            [_with(t, advantage=advantages.whiten(t.extra["advantage"], mean=mean, std=std)) for t in part]
            for part in scored
        ]
        residual = (every["returns"] - every["values"]).var(correction=0)
        drift = torch.cat([(t.extra["old"] - t.logprobs).abs() for part in scored for t in part])
        return scored, {
            "kl": float(every["kl"].sum() / len(rollout.samples)),
            "entropy": float(every["entropy"].mean()),
            "explained_variance": float(1 - residual / every["returns"].var(correction=0).clamp(min=1e-12)),
            "sampler_drift": float(drift.mean()),
        }

    @torch.no_grad()
    def _score(self, trees: Trees) -> Trees:
        with computing(self.dtype, self.policy.device):
            old, entropy = log_probabilities(self.policy.network, trees, self.ppo.temperature, entropy=True)
            reference, _ = log_probabilities(self.reference, trees, self.ppo.temperature)
            value = values(self.value, trees)
        divergence = kl.k1(old, reference)
        reward = advantages.token_rewards(divergence, trees.rewards, trees.owner, coefficient=self.kl_coefficient)
        advantage, returns = advantages.gae(reward, value, trees.owner, gamma=self.ppo.gamma, lam=self.ppo.lam)
        numbers = {"old": old, "entropy": entropy, "kl": divergence, "values": value}
        return _with(trees, **numbers, advantage=advantage, returns=returns)

    def loss(self, trees: Trees) -> tuple[Tensor, Measures]:
        """The clipped policy loss and the clipped value loss of every token, (N,)."""
        ppo, x = self.ppo, trees.extra
        logp, _ = log_probabilities(self.policy.network, trees, ppo.temperature)
        surrogate = policy.clipped(logp, x["old"], x["advantage"], low=ppo.clip, high=ppo.clip)
        regression = policy.value(values(self.value, trees), x["values"], x["returns"], clip=ppo.value_clip)
        ratio = torch.exp(logp.detach() - x["old"])
        return surrogate + ppo.value_coefficient * regression, {
            "ratio": ratio,
            "clip_fraction": ((ratio - 1).abs() > ppo.clip).double(),
            "approximate_kl": kl.k3(x["old"], logp.detach()),
            "value_loss": regression,
        }


def pretraining_mix(ppo: PPO, policy: Policy) -> Callable[[int], Work]:
    """The likelihood of a batch of pretraining rows, to be added to the n-th update (Ouyang et al. 2022, eq. 2)."""
    data = str(ppo.pretraining_data)
    rows = of_kind(load_data(data), (Demonstration,), data, "ppo --pretraining-data")
    trees = encode(policy.tokenizer, rows, max_length=ppo.max_length, context=policy.context).trees
    order = Order(len(trees), ppo.batch_size, ppo.seed)

    def work(n: int) -> Work:
        packs = pack([trees[i] for i in order.batch(n)], ppo.tokens_per_pass, policy.device)
        return Work(maximum_likelihood(policy), packs, "token", ppo.pretraining_coefficient)

    return work


def _with(trees: Trees, **numbers: Tensor) -> Trees:
    return replace(trees, extra={**trees.extra, **numbers})


def _shuffled(count: int, *seed: int) -> list[int]:
    return np.random.default_rng(seed).permutation(count).tolist()
