"""pi_ref exp(r / beta) / Z swept over beta: exact on an enumerable world, and estimated from samples."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from accord.evaluate.curves import EFFECTIVE, betas, effective, tilted
from accord.evaluate.overoptimization import best_of_n_path, of_sweep, sweep_path
from accord.objectives.preference import bradley_terry
from accord.objectives.selection import best_of_n, best_of_n_kl_bound
from examples.worlds.enumerable import Enumerable, bradley_terry_preferences, kl_regularized_optimum
from tests.worlds.sequences import sequence_logps

WORLD = Enumerable(4, 3)


@cache
def reference(seed: int = 1) -> np.ndarray:
    with torch.no_grad():
        return sequence_logps(WORLD, WORLD.new_model(seed)).numpy()


def fitted_reward(gold: torch.Tensor, logp: torch.Tensor, comparisons: int, seed: int) -> torch.Tensor:
    """Bradley-Terry scores fitted to noisy comparisons of pairs from the reference, with a slight pull to zero."""
    generator = torch.Generator().manual_seed(seed)
    pairs = torch.multinomial(logp.exp(), 2 * comparisons, replacement=True, generator=generator).view(-1, 2)
    wins = torch.rand(comparisons, generator=generator) < bradley_terry_preferences(2 * gold)[pairs[:, 0], pairs[:, 1]]
    chosen = torch.where(wins, pairs[:, 0], pairs[:, 1])
    rejected = torch.where(wins, pairs[:, 1], pairs[:, 0])
    scores = torch.zeros(len(gold), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([scores], max_iter=100, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = bradley_terry(scores[chosen], scores[rejected]).mean() + 1e-3 * scores.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    return scores.detach()


@settings(max_examples=30)
@given(st.floats(0.05, 20.0), st.integers(0, 2))
def test_the_policy_is_the_optimum_and_its_divergence_the_sum(beta: float, seed: int) -> None:
    logp, reward = reference(seed), WORLD.reward.numpy()
    policy = tilted(logp, reward, beta)
    optimum = kl_regularized_optimum(torch.tensor(logp), WORLD.reward, beta).numpy()
    assert policy.probabilities.tolist() == pytest.approx(optimum.tolist(), abs=1e-12)
    seen = optimum > 0
    kl = (optimum[seen] * (np.log(optimum[seen]) - logp[seen])).sum()
    assert float(policy.kl) == pytest.approx(kl, abs=1e-9)


def test_an_infinite_beta_is_the_reference() -> None:
    logp = reference()
    policy = tilted(logp, WORLD.reward.numpy(), float("inf"))
    assert policy.probabilities.tolist() == pytest.approx(np.exp(logp).tolist())
    assert float(policy.kl) == pytest.approx(0, abs=1e-12)
    with pytest.raises(ValueError, match="beta must be positive"):
        tilted(logp, logp, 0.0)


@settings(max_examples=20)
@given(st.floats(0.1, 5.0))
def test_along_the_sweep_a_nat_buys_beta_of_the_proxy(beta: float) -> None:
    # pi_beta maximizes E[r] - beta KL, so its derivative along any path through it is 0: d E[r] / d KL = beta.
    logp, reward, step = reference()[None], WORLD.reward.numpy()[None], 1e-4
    path = sweep_path(logp, reward, reward, [beta * (1 - step), beta * (1 + step)])
    slope = (path.proxy[0, 1] - path.proxy[0, 0]) / (path.kl[0, 1] - path.kl[0, 0])
    assert slope == pytest.approx(beta, rel=1e-5)


def test_with_the_truth_as_proxy_gold_never_turns() -> None:
    gold = WORLD.reward.numpy()[None]
    path = sweep_path(reference()[None], gold, gold, np.geomspace(20, 0.02, 60).tolist())
    assert (np.diff(path.kl[0]) > -1e-12).all() and (np.diff(path.gold[0]) > -1e-12).all()
    assert path.gold[0, -1] == pytest.approx(WORLD.reward.max())  # in the end only the best sequence is left


def test_with_a_proxy_from_few_noisy_comparisons_gold_turns_over() -> None:
    # 60 noisy comparisons of 40 sequences: past the turn the sweep follows what the proxy guessed.
    logp = torch.tensor(reference())
    proxy = fitted_reward(WORLD.reward, logp, comparisons=60, seed=0)
    prices = np.geomspace(50, 0.01, 200).tolist()
    path = sweep_path(logp.numpy()[None], proxy.numpy()[None], WORLD.reward.numpy()[None], prices)
    gold, top = path.gold[0], int(path.gold[0].argmax())
    assert (np.diff(path.proxy[0]) > -1e-12).all()
    assert 0 < top < len(gold) - 1
    assert gold[top] - gold[0] > 0.2 and gold[top] - gold[-1] > 0.2
    # Best of n follows the same proxy, exactly, and its divergence stays below the bound.
    p = logp.exp()
    for n in (2, 16, 256):
        best = best_of_n(p, proxy, n)
        kl = float(torch.where(best > 0, best * ((best / p).clamp(min=1e-300)).log(), 0.0).sum())
        assert 0 < kl < best_of_n_kl_bound(n)


def test_samples_of_a_known_reward_give_the_known_curve() -> None:
    # Standard normal rewards: exp(r / beta) shifts their mean to 1 / beta, at a divergence of 1 / (2 beta^2).
    rewards = np.random.default_rng(0).normal(size=(400, 512))
    path = sweep_path(np.full(rewards.shape, -np.log(512)), rewards, rewards, [2.0, 1.0])
    assert path.gold.mean(0).tolist() == pytest.approx([0.5, 1.0], abs=0.02)
    assert path.kl.mean(0).tolist() == pytest.approx([1 / 8, 1 / 2], abs=0.02)
    # The best of 2 of a standard normal has the mean 1 / sqrt(pi).
    assert best_of_n_path(rewards, rewards).gold.mean(0)[:2].tolist() == pytest.approx([0, np.pi**-0.5], abs=0.01)


def test_the_sweep_ends_where_few_samples_count() -> None:
    assert effective(np.array([[0.25] * 4, [1.0, 0, 0, 0]])).tolist() == pytest.approx([4, 1])
    rewards = np.random.default_rng(1).normal(size=(30, 64))
    curve = of_sweep("sweep", rewards, rewards)
    last = curve.points[-1].at
    assert last is not None
    weights = tilted(np.full(rewards.shape, -np.log(64)), rewards, last).probabilities
    assert 1 / np.mean(1 / effective(weights)) >= EFFECTIVE
    (line,) = [w for w in curve.warnings if "left out" in w]
    assert f"fewer than {EFFECTIVE:g} of 64 samples" in line and f"below beta = {last:.3g}" in line
    # Normal rewards of deviation s: d = s / (beta sqrt(2)), so the prices aim at evenly spaced distances.
    found = betas(rewards)
    assert found[0] == float("inf") and found[1] == pytest.approx(rewards.std(-1).mean() / (0.1 * 2**0.5))


def test_equal_rewards_lead_nowhere() -> None:
    curve = of_sweep("sweep", np.ones((3, 5)), np.ones((3, 5)))
    assert curve.fit is None and len(curve.points) == 1
    assert curve.warnings[0] == (
        "sweep: the samples of each prompt all have the same proxy, so there is nothing to optimize."
    )
