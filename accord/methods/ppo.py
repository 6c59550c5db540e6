"""Proximal policy optimization against a reward, regularized toward the starting model.

    reward of token t = - beta (log pi_old(t) - log ref(t)) + [t is the last] score (or [t is a turn's last] its own)
    advantages by GAE(gamma, lambda) under a value model, whitened over the step
    loss = mean over tokens of max(-rho A, -clip(rho, 1 - c, 1 + c) A) + c_v * clipped value loss,  rho = pi / pi_old

Schulman et al. 2017 (arXiv:1707.06347); for language models Ziegler et al. 2019 (arXiv:1909.08593), Ouyang et al. 2022
(arXiv:2203.02155), including the latter's optional pretraining mix.

Departures: policy and value are separate networks (as in the latter paper) with one learning rate; log pi_old is
computed with the same batches as log pi, so that the first mini-batch has a ratio of exactly 1; a sample cut before its
end-of-turn token loses `missing_end_penalty` of its score.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

from accord import data, engine, feedback, objectives
from accord.errors import InputError
from accord.methods.method import Per, maximum_likelihood, of_kind
from accord.methods.online import DialogueMethod
from accord.methods.policy_gradient import GradientLearner, PolicyGradient
from accord.methods.rollouts import Rollout
from accord.methods.turn_rewards import TurnRewards
from accord.records import Demonstration

if TYPE_CHECKING:
    from torch import Tensor

    from accord.engine import Experience, LossTerm, Measures, Optimizer, Policy, Trees
    from accord.feedback.reward import Reward
    from accord.train.run import Run


@dataclass(kw_only=True)
class PPO(PolicyGradient, DialogueMethod):
    """Proximal policy optimization: a policy against a reward, with a value model and clipped updates."""

    command: ClassVar[str] = "ppo"
    on_ranks: ClassVar[bool] = True
    per: ClassVar[Per] = "token"
    trained_networks: ClassVar[int] = 2

    kl_target: float | None = None
    """Divergence, in nats per completion, at which beta is adapted to hold the policy (default: beta stays fixed)."""
    clip: float = 0.2
    """How far from 1 the ratio of new to old probability may move before its gradient stops."""
    value_clip: float = 0.2
    """How far a value may move from its old one in one step."""
    value_coefficient: float = 0.1
    """Weight of the value loss."""
    gamma: float = 1.0
    """Discount factor of later rewards."""
    lam: float = 0.95
    """GAE's lambda: 1 is unbiased, 0 relies entirely on the value model."""
    inner_epochs: int = 4
    """Passes over each step's samples."""
    minibatches: int = 1
    """Updates per pass."""
    missing_end_penalty: float = 1.0
    """Subtracted from the score of a sample that was cut before its end-of-turn token."""
    pretraining_data: str | None = None
    """Demonstrations or text whose maximum-likelihood loss is added, as in PPO-ptx."""
    pretraining_coefficient: float = 1.0
    """Weight of the loss of the pretraining data."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (0 < self.clip < 1 and self.value_clip > 0 and self.inner_epochs >= 1 and self.minibatches >= 1):
            raise InputError("clip must lie in (0, 1), value_clip above 0, inner_epochs and minibatches at least 1.")
        if self.kl_target is not None and not (self.kl_target > 0 and self.kl_coefficient > 0):
            raise InputError("kl_target must be positive, and needs a positive kl_coefficient to adapt.")
        if not (0 <= self.gamma <= 1 and 0 <= self.lam <= 1):
            raise InputError(f"gamma and lam lie in [0, 1], not {self.gamma} and {self.lam}.")

    @property
    def updates(self) -> tuple[int, int]:
        return self.inner_epochs, self.minibatches

    def loss(self, logp: Tensor, batch: Experience) -> tuple[Tensor, Measures]:
        """The clipped policy loss of every token, (N,)."""
        assert batch.old is not None
        ratio = (logp.detach() - batch.old).exp()
        return objectives.policy.clipped(logp, batch.old, batch.advantage, low=self.clip, high=self.clip), {
            "ratio": ratio,
            "clip_fraction": ((ratio - 1).abs() > self.clip).double(),
            "approximate_kl": objectives.kl.k3(batch.old, logp.detach()),
        }

    def learner(self, policy: Policy, feedback: Any) -> PPOLearner:
        return PPOLearner(self, policy, feedback)


class PPOLearner(GradientLearner):
    """The policy, its frozen reference, and a value model that starts from the reward model where possible."""

    method: PPO

    def __init__(self, method: PPO, policy: Policy, reward: Reward) -> None:
        super().__init__(method, policy, reward)
        is_scorer = isinstance(reward, feedback.learned.LearnedReward) and reward.shares_tokens
        is_start = is_scorer and not reward.model.is_quantized  # type: ignore[attr-defined]
        start = reward.model if is_start else policy  # type: ignore[attr-defined]
        self.value = engine.Scorer.on(start, method.seed).in_dtype(method.dtype)
        if not engine.adapters.adapted(self.value.network):
            if self.value.device != policy.device:
                self.value.network.to(policy.device)  # type: ignore[arg-type]
            self.value.network.requires_grad_(True)
        self.value = engine.memory.prepare_training(self.value, method)
        self.networks = {"policy": policy.network, "value": self.value.network}
        self.kl_coefficient = method.kl_coefficient
        self.mix = pretraining_mix(method, policy) if method.pretraining_data else None

    def state(self) -> dict[str, Any]:
        return super().state() | {"kl_coefficient": self.kl_coefficient}

    def restore(self, state: Mapping[str, Any], run: Run, optimizer: Optimizer) -> None:
        super().restore(state, run, optimizer)
        if self.method.kl_target is not None:  # otherwise --resume may change it
            self.kl_coefficient = state.get("kl_coefficient", self.kl_coefficient)

    def learn(self, step: int, rollout: Rollout, optimizer: Optimizer) -> dict[str, float]:
        row = {"kl_coefficient": self.kl_coefficient} | super().learn(step, rollout, optimizer)
        if self.method.kl_target is not None:
            self.kl_coefficient *= 1 + 0.1 * max(-0.2, min(0.2, row["kl"] / self.method.kl_target - 1))
        return row

    def terms(self, batch: list[Experience], step: int, update: int) -> list[LossTerm]:
        terms = super().terms(batch, step, update)
        if self.mix:
            epochs, minibatches = self.method.updates
            terms.append(self.mix(step * epochs * minibatches + update))
        return terms

    def score(self, trees: Trees) -> Experience:
        """The pack with old log-probabilities, values, and GAE's advantages and returns."""
        import torch

        ppo, batch = self.method, super().score(trees)
        if batch.old is None:
            batch = replace(batch, old=self.policy.log_probs(trees, ppo.temperature))
        value = self.value.values(trees)  # (N,)
        turns = TurnRewards.of(trees)
        rewards, ending = (trees.rewards, trees.owner) if turns is None else (turns.rewards.nan_to_num(), turns.turn)
        learning, owner = torch.unique_consecutive(ending, return_inverse=True)
        kl = batch.kl if len(batch.kl) else value.new_zeros(len(value))
        reward = objectives.advantages.token_rewards(kl, rewards[learning], owner, coefficient=self.kl_coefficient)
        # Without the user's tokens, a turn's last token is followed by the next turn's first, in one episode.
        advantage, returns = objectives.advantages.gae(reward, value, trees.owner, gamma=ppo.gamma, lam=ppo.lam)
        return replace(batch, values=value, advantage=advantage, returns=returns)

    def assign(self, scored: list[Experience]) -> list[Experience]:
        """The packs with advantages whitened over all tokens of the step."""
        import torch

        advantage = torch.cat([t.advantage for t in scored])
        whitened = objectives.advantages.whiten(advantage, mean=advantage.mean(), std=advantage.std(correction=0))
        each = whitened.split([len(t.target) for t in scored])
        return [replace(t, advantage=a) for t, a in zip(scored, each, strict=True)]

    def numbers(self, scored: list[Experience]) -> dict[str, float]:
        import torch

        returns, value = torch.cat([t.returns for t in scored]), torch.cat([t.values for t in scored])
        unexplained = (returns - value).var(correction=0) / returns.var(correction=0).clamp(min=1e-12)
        return super().numbers(scored) | {"explained_variance": float(1 - unexplained)}

    def loss(self, batch: Experience) -> tuple[Tensor, Measures]:
        """The clipped policy loss and the clipped value loss of every token, (N,)."""
        ppo = self.method
        surrogate, measures = super().loss(batch)
        value = self.value.values(batch)
        regression = objectives.policy.value(value, batch.values, batch.returns, clip=ppo.value_clip)
        return surrogate + ppo.value_coefficient * regression, {**measures, "value_loss": regression}


def pretraining_mix(ppo: PPO, policy: Policy) -> Callable[[int], LossTerm]:
    """The likelihood loss of a batch of pretraining rows for the n-th update (Ouyang et al. 2022, eq. 2)."""
    rows = of_kind(str(ppo.pretraining_data), "train", (Demonstration,), "ppo --pretraining-data")
    trees = data.encoding.encode(policy.tokenizer, rows, max_length=ppo.max_length, context=policy.context).trees
    order = data.Order(len(trees), ppo.batch_size, ppo.seed)

    def term(n: int) -> LossTerm:
        packs = engine.pack([trees[i] for i in order.batch(n)], ppo.tokens_per_pass, policy.device)
        return engine.LossTerm(maximum_likelihood(policy), packs, "token", ppo.pretraining_coefficient)

    return term
