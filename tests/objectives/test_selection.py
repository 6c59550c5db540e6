from __future__ import annotations

from itertools import product

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from accord.objectives.selection import best_of_n, best_of_n_kl_bound
from tests.objectives.worlds import vector


@pytest.mark.parametrize(("n", "kl", "bound"), [(1, 0.0, 0.0), (4, 0.62465, 0.63629), (16, 1.67990, 1.83509)])
def test_divergence_of_best_of_n_over_eight_uniform_outcomes(n: int, kl: float, bound: float) -> None:
    uniform = torch.full((8,), 1 / 8, dtype=torch.float64)
    selected = best_of_n(uniform, torch.arange(8, dtype=torch.float64), n)
    assert torch.xlogy(selected, selected / uniform).sum().item() == pytest.approx(kl, abs=6e-6)
    assert best_of_n_kl_bound(n) == pytest.approx(bound, abs=6e-6)


def test_ties_share_in_proportion() -> None:
    # Rewards 1, 1, 0 with probabilities .3, .1, .6 and n = 2: F^2 gives the level 1 - .36 = .64, shared 3 to 1.
    torch.testing.assert_close(best_of_n(vector(0.3, 0.1, 0.6), vector(1, 1, 0), 2), vector(0.48, 0.16, 0.36))


@given(st.lists(st.integers(1, 9), min_size=2, max_size=4), st.integers(1, 4), st.data())
def test_it_is_what_enumerating_every_draw_gives(weights: list[int], n: int, data: st.DataObject) -> None:
    rewards = data.draw(st.lists(st.integers(0, 2), min_size=len(weights), max_size=len(weights)))
    probabilities = vector(*weights) / sum(weights)
    expected = torch.zeros(len(weights), dtype=torch.float64)
    for draw in product(range(len(weights)), repeat=n):
        best = max(rewards[i] for i in draw)
        winner = next(i for i in draw if rewards[i] == best)
        expected[winner] += probabilities[list(draw)].prod()
    torch.testing.assert_close(best_of_n(probabilities, vector(*rewards), n), expected)


def test_rounds_of_selection_multiply() -> None:
    # Top 1 of 3 of the top 1 of 2 is the top 1 of 6.
    probabilities, rewards = vector(0.5, 0.2, 0.2, 0.1), vector(0, 3, 1, 2)
    twice = best_of_n(best_of_n(probabilities, rewards, 2), rewards, 3)
    torch.testing.assert_close(twice, best_of_n(probabilities, rewards, 6))


def test_refuses_what_is_no_distribution_or_no_sample() -> None:
    with pytest.raises(ValueError, match="at least 1 sample"):
        best_of_n_kl_bound(0)
    with pytest.raises(ValueError, match="sum to 1"):
        best_of_n(vector(0.5, 0.4), vector(0, 1), 2)
