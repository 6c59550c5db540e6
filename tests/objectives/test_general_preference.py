"""Preferences that may run in circles: a score and planes, of pairs and of rankings."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from accord.objectives.preference import bradley_terry, general_preference, general_ranking, ranking
from tests.objectives.worlds import CYCLIC, ZERO3, minimize, vector


@st.composite
def two_completions(draw: st.DrawFn) -> tuple[Tensor, Tensor]:
    width = 1 + 2 * draw(st.integers(0, 5))
    numbers = st.lists(st.floats(-1e3, 1e3, width=32), min_size=width, max_size=width)
    dtype = draw(st.sampled_from([torch.float32, torch.float64]))
    return torch.tensor([draw(numbers)], dtype=dtype), torch.tensor([draw(numbers)], dtype=dtype)


def test_general_preference_literal() -> None:
    # s 2 - .5; first plane 1 * 4 - 2 * 3 = -2; second plane -1 * .5 - 0 * 7 = -.5: 1.5 - 2.5 = -1.
    first, second = vector(2, 1, 2, -1, 0), vector(0.5, 3, 4, 7, 0.5)
    assert general_preference(first[None], second[None]).tolist() == [-1.0]
    both = torch.stack([first, second])
    assert general_preference(both[:, None], both).tolist() == [[0.0, -1.0], [1.0, 0.0]]


@given(two_completions())
def test_general_preference_is_antisymmetric_to_the_last_bit(pair: tuple[Tensor, Tensor]) -> None:
    first, second = pair
    odds, turned = general_preference(first, second), general_preference(second, first)
    assert torch.equal(odds, -turned)
    assert torch.sigmoid(odds.double()).item() + torch.sigmoid(turned.double()).item() == pytest.approx(1, abs=1e-15)
    assert general_preference(first, first).item() == 0
    assert torch.sigmoid(general_preference(first, first)).item() == 0.5


@given(st.floats(-50, 50), st.floats(-50, 50))
def test_without_planes_it_is_bradley_terry(a: float, b: float) -> None:
    rows = vector(a, b)[:, None]
    groups, ranks = torch.tensor([0, 0]), torch.tensor([1, 0])
    torch.testing.assert_close(general_preference(rows[:1], rows[1:]), vector(a - b))
    torch.testing.assert_close(general_ranking(rows, groups, ranks), bradley_terry(vector(b), vector(a)))


@given(st.lists(st.floats(-5, 5), min_size=5, max_size=5), st.permutations(range(3)))
def test_without_planes_and_ties_the_loss_is_that_of_ranking(scores: list[float], order: list[int]) -> None:
    groups, ranks = torch.tensor([1, 0, 1, 0, 1]), torch.tensor([order[0], 1, order[1], 0, order[2]])
    losses = general_ranking(vector(*scores)[:, None], groups, ranks)
    torch.testing.assert_close(losses, ranking(vector(*scores), groups, ranks))


def test_general_ranking_counts_a_tie_as_half_a_win_for_each() -> None:
    # Scores log 3, 0, 0 of ranks 0 1 1: pairs (0,1), (0,2) cost log(4/3), the tie at even odds log 2. Tied with its
    # ranks equal, log-odds log 3 cost half log(4/3) and half log 4. One completion alone has no pairs.
    rows = vector(math.log(3), 0, 0, math.log(3), 0, 7)[:, None]
    losses = general_ranking(rows, torch.tensor([0, 0, 0, 1, 1, 2]), torch.tensor([0, 1, 1, 5, 5, 0]))
    expected = vector((2 * math.log(4 / 3) + math.log(2)) / 3, (math.log(4 / 3) + math.log(4)) / 2, 0)
    torch.testing.assert_close(losses, expected)


def test_a_tie_s_optimum_is_even_odds() -> None:
    # Two completions that only ever tie, from unequal scores and points: the least loss is log 2, at log-odds 0.
    start = torch.stack([vector(1, 0.5, -1), vector(-1, 2, 0.3)])
    zeros = torch.zeros(2, dtype=torch.long)

    def loss(x: Tensor) -> Tensor:
        return general_ranking(start + x.view(2, 3), zeros, zeros).sum()

    found = start + minimize(loss, 6).view(2, 3)
    assert general_preference(found[0], found[1]).item() == pytest.approx(0, abs=1e-6)
    assert loss((found - start).flatten()).item() == pytest.approx(math.log(2), abs=1e-12)


def test_one_plane_represents_a_cycle_that_no_scores_do() -> None:
    # CYCLIC has log-odds log 9, log 4, log 4 around 0 > 1 > 2 > 0. Points (log 9, 0), (log 4, 1) and (x, y) with
    # log 9 * 1 - 0 * log 4 = log 9, log 9 * y - 0 = -log 4 (2 beats 0) and log 4 * y - x = log 4 give the three.
    y = -math.log(4) / math.log(9)
    rows = torch.stack([vector(0, math.log(9), 0), vector(0, math.log(4), 1), vector(0, math.log(4) * (y - 1), y)])
    torch.testing.assert_close(torch.sigmoid(general_preference(rows[:, None], rows)), CYCLIC)


def test_a_score_and_one_plane_represent_any_preferences_among_four() -> None:
    # M antisymmetric (4, 4), x with sum 1 and s = M x: M - s 1' + 1 s' takes x to M x - s + (x' M' x) 1 = 0, so it has
    # rank 2 and is a b' - b a' with a its first column and b its second over its entry [0, 1].
    square = torch.randn(4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    odds, x = square - square.T, vector(0.1, 0.2, 0.3, 0.4)
    s = odds @ x
    rest = odds - (s[:, None] - s)
    rows = torch.stack([s, rest[:, 0], rest[:, 1] / rest[0, 1]], dim=1)
    torch.testing.assert_close(general_preference(rows[:, None], rows), odds)


def test_general_ranking_is_stable_at_huge_odds() -> None:
    # A cyclic part of 1e4 against the ranks costs 1e4, along with them nothing.
    rows = torch.tensor([[0.0, 100.0, 0.0], [0.0, 0.0, 100.0]], requires_grad=True)
    zeros = torch.zeros(2, dtype=torch.long)
    assert general_ranking(rows, zeros, torch.tensor([0, 1])).tolist() == [0.0]
    loss = general_ranking(rows, zeros, torch.tensor([1, 0]))
    loss.sum().backward()
    assert loss.tolist() == [1e4]
    assert rows.grad is not None
    assert rows.grad.tolist() == [[1.0, 100.0, 0.0], [-1.0, 0.0, 100.0]]


def test_general_preference_refuses_rows_that_are_no_score_and_planes() -> None:
    with pytest.raises(ValueError, match="first must hold rows of 1 \\+ 2k floating-point numbers"):
        general_preference(vector(1, 2)[None], vector(1, 2)[None])
    with pytest.raises(ValueError, match="second must hold rows"):
        general_preference(vector(1), torch.tensor([1]))
    with pytest.raises(ValueError, match="rows of equal length: first 1, second 3"):
        general_preference(vector(1), vector(1, 2, 3))
    with pytest.raises(ValueError, match="one row per completion"):
        general_ranking(vector(1, 2, 3), ZERO3, ZERO3)
    with pytest.raises(ValueError, match="group 0 has no completions"):
        general_ranking(vector(1, 2, 3)[:, None], ZERO3 + 1, ZERO3)
