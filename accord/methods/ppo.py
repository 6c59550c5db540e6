"""Proximal policy optimization against a reward, held near the model it started from.

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
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from accord.data import Order, load_data
from accord.data.encoding import encode
from accord.engine.fit import LossTerm, Measures, Optimizer
from accord.engine.forward import log_probabilities, values
from accord.engine.models import Policy, Scorer
from accord.engine.precision import autocast
from accord.engine.trees import Trees, pack
from accord.errors import InputError
from accord.feedback.judge import Reward
from accord.feedback.learned import LearnedReward
from accord.methods.offline import maximum_likelihood, of_kind
from accord.methods.policy_gradient import GradientLearner, PolicyGradient
from accord.methods.rollouts import Rollout
from accord.objectives import advantages, kl, policy
from accord.records import Demonstration


@dataclass(kw_only=True)
class PPO(PolicyGradient):
    """Optimize a policy against a reward by proximal policy optimization."""

    command: ClassVar[str] = "ppo"

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
        if self.kl_target is not None and not (self.kl_target > 0 and self.kl_coefficient > 0):
            raise InputError("kl_target must be positive, and kl_coefficient too where there is one to adapt.")
        if not (0 <= self.gamma <= 1 and 0 <= self.lam <= 1):
            raise InputError(f"gamma and lam lie in [0, 1], not {self.gamma} and {self.lam}.")

    @property
    def per(self) -> Literal["branch", "token"]:
        return "token"

    @property
    def updates(self) -> tuple[int, int]:
        return self.inner_epochs, self.minibatches

    def advantages(self, rewards: Tensor) -> Tensor:
        """The advantages of tokens (N,) over the whole step, whitened."""
        return advantages.whiten(rewards, mean=rewards.mean(), std=rewards.std(correction=0))

    def loss(self, logp: Tensor, trees: Trees) -> tuple[Tensor, Measures]:
        x = trees.extra
        ratio = torch.exp(logp.detach() - x["old"])
        return policy.clipped(logp, x["old"], x["advantage"], low=self.clip, high=self.clip), {
            "ratio": ratio,
            "clip_fraction": ((ratio - 1).abs() > self.clip).double(),
            "approximate_kl": kl.k3(x["old"], logp.detach()),
        }

    def learner(self, policy: Policy, reward: Reward) -> PPOLearner:
        return PPOLearner(self, policy, reward)


class PPOLearner(GradientLearner):
    """The policy, its frozen start as the reference, and a value model that starts from the reward model if it can."""

    method: PPO

    def __init__(self, method: PPO, policy: Policy, reward: Reward) -> None:
        super().__init__(method, policy, reward)
        learned = reward.scorer if isinstance(reward, LearnedReward) and reward.shares_tokens else None
        self.value = Scorer.on(learned or policy, method.seed).network
        self.value.to(next(policy.network.parameters())).requires_grad_()  # type: ignore[arg-type]
        self.networks = {"policy": policy.network, "value": self.value}
        self.kl_coefficient = method.kl_coefficient
        self.mix = pretraining_mix(method, policy) if method.pretraining_data else None

    def state(self) -> dict[str, Any]:
        return {"kl_coefficient": self.kl_coefficient}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.kl_coefficient = state.get("kl_coefficient", self.kl_coefficient)

    def learn(self, step: int, rollout: Rollout, optimizer: Optimizer) -> dict[str, float]:
        row = {"kl_coefficient": self.kl_coefficient} | super().learn(step, rollout, optimizer)
        if self.method.kl_target is not None:
            self.kl_coefficient *= 1 + 0.1 * max(-0.2, min(0.2, row["kl"] / self.method.kl_target - 1))
        return row

    def work(self, batch: list[Trees], step: int, update: int) -> list[LossTerm]:
        work = super().work(batch, step, update)
        if self.mix:
            epochs, minibatches = self.method.updates
            work.append(self.mix(step * epochs * minibatches + update))
        return work

    @torch.no_grad()
    def score(self, trees: Trees) -> Trees:
        """The pack with old log-probabilities, values, and GAE's advantages and returns."""
        ppo, trees = self.method, super().score(trees)
        if "old" not in trees.extra:
            with autocast(self.dtype, self.policy.device):
                trees = trees.with_extra(old=log_probabilities(self.policy.network, trees, ppo.temperature)[0])
        with autocast(self.dtype, self.policy.device):
            value = values(self.value, trees)
        price, owner = trees.extra.get("kl", torch.zeros_like(value)), torch.searchsorted(trees.learning, trees.owner)
        score = trees.rewards[trees.learning]
        reward = advantages.token_rewards(price, score, owner, coefficient=self.kl_coefficient)
        advantage, returns = advantages.gae(reward, value, owner, gamma=ppo.gamma, lam=ppo.lam)
        return trees.with_extra(values=value, advantage=advantage, returns=returns)

    def assign(self, scored: list[Trees]) -> list[Trees]:
        whitened = self.method.advantages(torch.cat([t.extra["advantage"] for t in scored]))
        each = whitened.split([len(t.target) for t in scored])
        return [t.with_extra(advantage=a) for t, a in zip(scored, each, strict=True)]

    def numbers(self, scored: list[Trees]) -> dict[str, float]:
        returns, value = (torch.cat([t.extra[name] for t in scored]) for name in ("returns", "values"))
        unexplained = (returns - value).var(correction=0) / returns.var(correction=0).clamp(min=1e-12)
        return super().numbers(scored) | {"explained_variance": float(1 - unexplained)}

    def loss(self, trees: Trees) -> tuple[Tensor, Measures]:
        """The clipped policy loss and the clipped value loss of every token, (N,)."""
        ppo, x = self.method, trees.extra
        surrogate, measures = super().loss(trees)
        regression = policy.value(values(self.value, trees), x["values"], x["returns"], clip=ppo.value_clip)
        return surrogate + ppo.value_coefficient * regression, {**measures, "value_loss": regression}


def pretraining_mix(ppo: PPO, policy: Policy) -> Callable[[int], LossTerm]:
    """The likelihood of a batch of pretraining rows, to be added to the n-th update (Ouyang et al. 2022, eq. 2)."""
    data = str(ppo.pretraining_data)
    rows = of_kind(load_data(data), (Demonstration,), data, "ppo --pretraining-data")
    trees = encode(policy.tokenizer, rows, max_length=ppo.max_length, context=policy.context).trees
    order = Order(len(trees), ppo.batch_size, ppo.seed)

    def work(n: int) -> LossTerm:
        packs = pack([trees[i] for i in order.batch(n)], ppo.tokens_per_pass, policy.device)
        return LossTerm(maximum_likelihood(policy), packs, "token", ppo.pretraining_coefficient)

    return work
