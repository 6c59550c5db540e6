"""The game of words: its equilibrium and exploitability by definition, its judge, and its model."""

from __future__ import annotations

from math import exp, log

import pytest
import torch
from torch import Tensor

from accord.feedback.judge import judge_samples
from accord.records import Comparison, Completion, Sample
from examples.worlds.game import Game

GAME = Game()
REFERENCE = torch.tensor(GAME.reference, dtype=torch.float64)
POLICY = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64)


def divergence(policy: Tensor) -> float:
    """KL(policy, ref)."""
    return float((policy * (policy / REFERENCE).log()).sum())


def test_preferences_by_hand() -> None:
    # Against (.2, .5, .3) rock wins .5 * .2 + .9 * .5 + .2 * .3 = .61, scissors .02 + .25 + .24 = .51, paper .41.
    assert GAME.wins(POLICY).tolist() == pytest.approx([0.61, 0.51, 0.41])
    assert float(POLICY @ GAME.wins(POLICY)) == pytest.approx(0.5)
    # Without a mixture the policy; of equal parts the normalized root of (.1, .15, .06); wholly mixed the reference.
    assert GAME.mixed(POLICY, 0.0).tolist() == pytest.approx(POLICY.tolist())
    roots = torch.tensor([0.1, 0.15, 0.06], dtype=torch.float64).sqrt()
    assert GAME.mixed(POLICY, 0.5).tolist() == pytest.approx((roots / roots.sum()).tolist())
    assert GAME.mixed(POLICY, 1.0).tolist() == pytest.approx(GAME.reference)
    # Of two words, the first preferred to .5 of the second's by 1/2: ref exp(.75) against ref exp(.25), tau = 1.
    sure = Game(("yes", "no"), ((0.5, 1.0), (0.0, 0.5)), (0.5, 0.5))
    even = torch.tensor([0.5, 0.5], dtype=torch.float64)
    assert sure.best_response(even, 1.0).tolist() == pytest.approx([1 / (1 + exp(-0.5)), 1 / (1 + exp(0.5))])


@pytest.mark.parametrize(("tau", "mixture"), [(0.1, 0.0), (0.1, 0.125), (0.02, 0.0), (2.0, 1.0)])
def test_the_equilibrium_is_its_own_best_response(tau: float, mixture: float) -> None:
    found = GAME.equilibrium(tau, mixture)
    torch.testing.assert_close(found, GAME.best_response(GAME.mixed(found, mixture), tau), rtol=0, atol=1e-9)


def test_equilibria_by_number() -> None:
    # As tau goes to 0 it becomes that of the game without a reference, where every word wins half the time.
    assert GAME.equilibrium(0.1).tolist() == pytest.approx([0.400889, 0.211822, 0.387289], abs=6e-7)
    assert GAME.equilibrium(0.1, 0.125).tolist() == pytest.approx([0.399129, 0.192548, 0.408322], abs=6e-7)
    limit = torch.tensor([0.3, 0.3, 0.4], dtype=torch.float64)
    assert GAME.wins(limit).tolist() == pytest.approx([0.5, 0.5, 0.5])
    assert GAME.equilibrium(0.02).tolist() == pytest.approx(limit.tolist(), abs=0.03)


def test_exploitability_is_what_the_best_response_gains() -> None:
    for tau in (0.1, 1.0):
        best = GAME.best_response(POLICY, tau)
        gain = float(best @ GAME.wins(POLICY)) - tau * divergence(best)
        assert GAME.exploitability(POLICY, tau) == pytest.approx(gain - (0.5 - tau * divergence(POLICY)))
        assert GAME.exploitability(POLICY, tau) > 0
        assert GAME.exploitability(GAME.equilibrium(tau), tau) == pytest.approx(0, abs=1e-9)


def test_no_reward_stands_for_its_preferences() -> None:
    # Around a circle the odds of Bradley and Terry multiply to 1.
    odds = [log(GAME.preferences[i][j] / GAME.preferences[j][i]) for i, j in ((0, 1), (1, 2), (2, 0))]
    assert sum(odds) == pytest.approx(log(9 * 4 * 4))
    assert all(GAME.preferences[i][j] + GAME.preferences[j][i] == pytest.approx(1) for i in range(3) for j in range(3))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_model_says_what_the_reference_does(dtype: torch.dtype) -> None:
    state = torch.random.get_rng_state()
    policies = [GAME.policy(seed, dtype) for seed in (0, 0, 1)]
    assert torch.equal(torch.random.get_rng_state(), state)
    first, again, other = (policy.network.lm_head.weight for policy in policies)
    assert torch.equal(first, again) and not torch.equal(first, other)
    for policy in policies:
        assert GAME.distribution(policy.network).tolist() == pytest.approx(
            GAME.reference, abs=1e-6 if dtype == torch.float32 else 1e-12
        )
        assert all(p.requires_grad for p in policy.network.parameters())
    assert policies[0].tokenizer("rock scissors paper")["input_ids"] == list(GAME.tree.prompt) == [0, 1, 2]
    assert policies[0].end == 0


def test_the_judge_reads_texts_and_tokens() -> None:
    judge, policy = GAME.judge(), GAME.policy()
    texts = [Comparison("", "rock", "scissors"), Comparison("", "", "scissors"), Comparison("", "paper", "scissors")]
    assert [v.first_wins for v in judge(texts)] == [0.9, 0.9, 0.2]
    said = [
        Sample(GAME.prompt, policy.text(b.tokens), (0, 1, 2), Completion(b.tokens, (-1.0,), "length"))
        for b in GAME.tree.branches
    ]
    assert [sample.text for sample in said] == ["", "scissors", "paper"]  # the first word is the end of turn
    assert [v.first_wins for v in judge_samples(judge, said, [said[2], said[0], said[2]])] == [0.2, 0.1, 0.5]
