"""Distillation: its mean gradient over all sequences, discounted and not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from accord.engine.models import Policy
from accord.engine.trees import Trees
from accord.errors import InputError
from accord.methods import Distill
from accord.methods.rollouts import Rollout
from examples.worlds.game import Game
from tests.engine.tiny import policy_of
from tests.methods.enumerated import TWO_TOKENS, chances, gradient, network_in, prompts_in, same, sequence_logps, spoken
from tests.methods.games import COMMON, GAME, SURE


def distilled(gamma: float, teacher: Any) -> tuple[Tensor, Policy, Trees]:
    """The mean gradient over all sequences, the student, and the scored pack."""
    policy = policy_of(network_in(TWO_TOKENS, 1))
    learner: Any = Distill(gamma=gamma, max_new_tokens=2, **COMMON).learner(policy, policy_of(teacher))
    samples = spoken(TWO_TOKENS, policy.network)
    rollout = Rollout.of(prompts_in(TWO_TOKENS, len(samples)), samples, [0.0] * len(samples))
    trees = learner.score(Trees.of(rollout.trees))
    values, _ = learner.loss(trees)
    return gradient((chances(samples) * values).sum(), policy.network), policy, trees


def test_undiscounted_distillation_is_the_exact_gradient_of_the_divergence() -> None:
    got, policy, trees = distilled(1.0, network_in(TWO_TOKENS, 2))
    teacher = sequence_logps(network_in(TWO_TOKENS, 2), TWO_TOKENS).detach()
    logp = sequence_logps(policy.network, TWO_TOKENS)
    divergence = (logp.exp() * (logp - teacher)).sum()
    same(got, gradient(divergence, policy.network))
    per_token = logp.detach().exp()[trees.owner] * trees.kl
    assert float(per_token.sum()) == pytest.approx(divergence.item(), abs=1e-10)


def test_distillation_token_by_token_is_the_gradient_at_every_prefix() -> None:
    # Sum over prefixes of pi(prefix) grad KL(pi(. | prefix), teacher(. | prefix)); how often a prefix comes is given.
    got, policy, _ = distilled(0.0, network_in(TWO_TOKENS, 2))
    teacher, exact = network_in(TWO_TOKENS, 2), torch.zeros((), dtype=torch.float64)
    for prefix in ((), (1,), (2,)):
        tokens = torch.tensor([[*TWO_TOKENS.prompt, *prefix]])
        logp = policy.network(input_ids=tokens).logits[0].log_softmax(-1)
        with torch.no_grad():
            theirs = teacher(input_ids=tokens).logits[0].log_softmax(-1)[-1]
        reached = logp.detach()[1, prefix[0]].exp() if prefix else 1.0  # the prompt has two tokens
        exact = exact + reached * (logp[-1].exp() * (logp[-1] - theirs)).sum()
    same(got, gradient(exact, policy.network))


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0])
def test_a_student_that_is_its_teacher_learns_nothing(gamma: float) -> None:
    got, _, trees = distilled(gamma, network_in(TWO_TOKENS, 1))
    assert float(trees.kl.abs().max()) < 1e-14
    assert float(got.abs().max()) < 1e-13


def test_a_teacher_of_another_vocabulary_is_refused(tmp_path: Path) -> None:
    student, teacher = Game().policy(), SURE.policy()
    student.name, teacher.name = "small", "large"
    with pytest.raises(InputError, match="the teacher large and the student small have different vocabularies"):
        Distill(max_steps=1, max_new_tokens=1).fit(student, [GAME.prompt], teacher=teacher, out=tmp_path / "run")
