"""Best of n from N samples: equal to trying all choices, and to the exact distribution where outcomes are few."""

from __future__ import annotations

from itertools import combinations
from math import comb, log

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from accord.evaluate.curves import best_of_n_divergence, best_of_n_selection, best_of_n_sizes, best_of_n_weights
from accord.objectives.selection import best_of_n as exact
from accord.objectives.selection import best_of_n_kl_bound


@given(st.integers(1, 40), st.data())
def test_weights_are_the_shares_of_choices(samples: int, data: st.DataObject) -> None:
    n = data.draw(st.integers(1, samples))
    shares = [comb(i - 1, n - 1) / comb(samples, n) for i in range(1, samples + 1)]
    assert best_of_n_weights(samples, n).tolist() == pytest.approx(shares)


def test_weights_of_many_samples_neither_overflow_nor_lose_mass() -> None:
    for n in (1, 2, 300, 1023, 1024):
        weights = best_of_n_weights(1024, n)
        assert weights.sum() == pytest.approx(1, abs=1e-12)
        assert weights[-1] == pytest.approx(n / 1024)


@given(st.lists(st.integers(0, 3), min_size=5, max_size=5), st.integers(1, 5))
def test_selection_is_the_mean_over_every_choice(rewards: list[int], n: int) -> None:
    # Every n of the 5 samples is tried; of equally good ones each is taken equally often.
    chosen = np.zeros(5)
    for choice in combinations(range(5), n):
        winners = [i for i in choice if rewards[i] == max(rewards[j] for j in choice)]
        chosen[winners] += 1 / len(winners) / comb(5, n)
    assert best_of_n_selection(np.array([rewards], dtype=float), n)[0].tolist() == pytest.approx(chosen.tolist())


def test_the_estimate_is_unbiased() -> None:
    # Three outcomes of rewards 0, 1, 2 and gold 5, 1, 0. Over all 3^4 ways to draw 4 samples, the estimate of the best
    # of 2 averages to its exact expectation.
    probabilities, gold = np.array([0.5, 0.3, 0.2]), np.array([5.0, 1.0, 0.0])
    mean = 0.0
    for drawn in np.ndindex(3, 3, 3, 3):
        outcome = np.array([drawn])
        estimate = (best_of_n_selection(outcome.astype(float), 2) * gold[outcome]).sum()
        mean += probabilities[list(drawn)].prod() * estimate
    best = exact(torch.tensor(probabilities), torch.arange(3.0, dtype=torch.float64), 2)
    assert best.tolist() == pytest.approx([0.25, 0.39, 0.36])  # .5^2, .8^2 - .5^2, 1 - .8^2
    assert mean == pytest.approx(0.25 * 5 + 0.39)


def test_divergence_without_ties_is_the_bound() -> None:
    rewards = np.array([[0.3, -1.0, 2.0, 0.1], [4.0, 3.0, 2.0, 1.0]])
    assert best_of_n_divergence(rewards, 4).tolist() == pytest.approx([log(4) - 3 / 4] * 2)


def test_divergence_with_ties_is_exact_for_the_shares_seen() -> None:
    # 8 equally likely outcomes, each seen twice: maths by hand gives .62465 for n = 4 and 1.67990 for n = 16, below the
    # bounds .63629 and 1.83509.
    rewards = np.repeat(np.arange(8.0), 2)[None]
    assert best_of_n_divergence(rewards, 4)[0] == pytest.approx(0.62465, abs=5e-6)
    assert best_of_n_divergence(rewards, 16)[0] == pytest.approx(1.67990, abs=5e-6)
    assert (best_of_n_kl_bound(4), best_of_n_kl_bound(16)) == pytest.approx((0.63629, 1.83509), abs=5e-6)
    # All equal: nothing is chosen.
    assert best_of_n_divergence(np.zeros((1, 9)), 5)[0] == pytest.approx(0, abs=1e-12)


@given(st.lists(st.integers(1, 4), min_size=2, max_size=6), st.integers(1, 50))
def test_divergence_equals_the_exact_one_of_tied_levels(counts: list[int], n: int) -> None:
    # Levels seen twice as often as `counts` says, so every level is a tie.
    counts = [2 * c for c in counts]
    rewards = np.repeat(np.arange(float(len(counts))), counts)[None]
    p = torch.tensor(counts, dtype=torch.float64) / sum(counts)
    best = exact(p, torch.arange(len(counts), dtype=torch.float64), n)
    kl = float(torch.where(best > 0, best * (best / p).clamp(min=1e-300).log(), 0.0).sum())
    assert best_of_n_divergence(rewards, n)[0] == pytest.approx(kl, abs=1e-9)


def test_sizes_and_what_cannot_be_chosen() -> None:
    assert best_of_n_sizes(20) == [1, 2, 3, 4, 6, 8, 12, 16, 20]
    assert best_of_n_sizes(2) == [1, 2]
    with pytest.raises(ValueError, match="best of 5 cannot be taken of 4 samples"):
        best_of_n_weights(4, 5)
