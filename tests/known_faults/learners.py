"""Learners at work on a random policy, what one update of theirs applies, and what updates learn from."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from accord.engine.config import TrainingConfig
from accord.engine.fit import LossTerm, Optimizer
from accord.engine.models import Policy
from accord.feedback.judge import ScoreJudge
from accord.methods import GRPO, PPO, REINFORCE, RLOO, Distill
from accord.methods.online import JudgeMethod, OnlineMethod
from accord.methods.rollouts import Rollout
from accord.records import Demonstration, Preference
from tests.methods.learners import LENGTH, policy_at

DEMONSTRATIONS = [Demonstration("hi", "good"), Demonstration("hello day", "good day bye"), Demonstration("bye", "bad")]

PAIRS = [
    Preference("hi", "day", "bad"),
    Preference("hello", "bye", "bad day"),
    Preference("good", "hi", "bye"),
    Preference("day", "good", "hi hi hi"),
    Preference("bad", "hi", "good day"),
]

JUDGE = ScoreJudge(lambda prompt, text: float(len(text)))


def settings(**given: Any) -> dict[str, Any]:
    return {"dtype": "float32", "group_size": 2, "max_new_tokens": 5, "tokens_per_pass": 4096, **given}


def at_work(method: OnlineMethod, kind: str = "gpt2", weights: torch.dtype = torch.float64) -> tuple[Any, Policy]:
    """An online method at work on a random policy (GPT-2 in float64 computes nothing in less), and that policy."""
    policy = policy_at(kind, weights).in_dtype(method.dtype)
    judged = JUDGE if isinstance(method, JudgeMethod) else LENGTH
    return method.learner(policy, policy if isinstance(method, Distill) else judged), policy


def learned(learner: Any, rollout: Rollout) -> tuple[dict[str, float], list[Tensor]]:
    """The row of one update and the gradient it applied: gradient descent of rate 1 subtracts just that."""
    training = TrainingConfig(learning_rate=1.0, schedule="constant", warmup=0.0, max_grad_norm=1e9, dtype="float32")
    optimizer = Optimizer(learner.networks, training, 1)
    optimizer.rule = torch.optim.SGD(optimizer.parameters(), lr=1.0)  # type: ignore[assignment]
    before = [p.detach().clone() for p in optimizer.parameters()]
    row = learner.learn(0, rollout, optimizer)
    return row, [a - p.detach() for a, p in zip(before, optimizer.parameters(), strict=True)]


def noted(monkeypatch: pytest.MonkeyPatch, stop: int | None = None) -> list[tuple[int, list[Any]]]:
    """A list that fills with what every update learns from, (step, rows with their tokens); `stop` is interrupted."""
    seen: list[tuple[int, list[Any]]] = []
    update = Optimizer.update

    def noting(self: Optimizer, step: int, *work: LossTerm) -> dict[str, float]:
        if step == stop:
            raise KeyboardInterrupt
        trees = sorted((t for job in work for trees in job.packs for t in trees.trees), key=lambda tree: tree.row)
        seen.append((step, [(tree.row, [branch.tokens for branch in tree.branches]) for tree in trees]))
        return update(self, step, *work)

    monkeypatch.setattr(Optimizer, "update", noting)
    return seen


GRADIENTS: dict[str, Any] = {
    "reinforce": lambda **more: REINFORCE(**settings(**more)),
    "rloo": lambda **more: RLOO(**settings(**more)),
    "ppo": lambda **more: PPO(**settings(inner_epochs=1, missing_end_penalty=0.0, **more)),
    "grpo by tokens": lambda **more: GRPO(**settings(normalize="token", **more)),
    "grpo by sequences": lambda **more: GRPO(**settings(normalize="sequence", **more)),
    "grpo by a constant": lambda **more: GRPO(**settings(normalize="constant", **more)),
}
