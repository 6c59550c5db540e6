from __future__ import annotations

import pytest
import torch

from accord.objectives.segments import last_index, segment_mean, segment_sum
from tests.objectives.worlds import vector


def test_sums_by_owner_in_any_order_and_leaves_empty_owners_zero() -> None:
    # owner 0: 1 + 8 = 9; owner 1: none; owner 2: 2 + 4 = 6
    assert segment_sum(vector(1, 2, 4, 8), torch.tensor([0, 2, 2, 0]), 3).tolist() == [9.0, 0.0, 6.0]


def test_gradient_of_a_sum_is_each_owners_own() -> None:
    values = vector(1, 2, 4).requires_grad_()
    (segment_sum(values, torch.tensor([0, 1, 1]), 2) * vector(10, 20)).sum().backward()
    assert values.grad is not None
    assert values.grad.tolist() == [10.0, 20.0, 20.0]


def test_the_sum_of_nothing_is_zero() -> None:
    assert segment_sum(torch.zeros(0), torch.zeros(0, dtype=torch.long), 2).tolist() == [0.0, 0.0]


def test_the_mean_of_an_owner_without_values_is_zero() -> None:
    # owner 0: (1 + 8) / 2; owner 1: none; owner 2: (2 + 4) / 2
    assert segment_mean(vector(1, 2, 4, 8), torch.tensor([0, 2, 2, 0]), 3).tolist() == [4.5, 0.0, 3.0]


@pytest.mark.parametrize(
    ("owner", "message"),
    [([0, 2], "segment 2 of only 2"), ([0, -1], "negative"), ([0], "2 integers"), ([0.0, 1.0], "2 integers")],
)
def test_refuses_owners_that_do_not_fit(owner: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        segment_sum(vector(1, 2), torch.tensor(owner), 2)


def test_last_index_of_contiguous_segments() -> None:
    assert last_index(torch.tensor([0, 0, 1, 2, 2, 2]), 3).tolist() == [1, 2, 5]


@pytest.mark.parametrize(
    ("owner", "message"), [([0, 2, 2], "segment 1 has no"), ([1, 0, 2], "not decrease"), ([0, 1, 3], "3 of only 3")]
)
def test_last_index_refuses_gaps_and_disorder(owner: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        last_index(torch.tensor(owner), 3)
