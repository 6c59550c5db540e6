"""The order of rows: every epoch a permutation, every batch a function of the seed and the step."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from accord.data import Order

sizes = st.integers(1, 60)


@given(count=sizes, size=sizes, seed=st.integers(0, 2**32), epoch=st.integers(0, 5))
def test_an_epoch_neither_skips_nor_repeats_a_row(count, size, seed, epoch):
    order = Order(count, size, seed)
    first = epoch * order.steps_per_epoch
    batches = [order.batch(step) for step in range(first, first + order.steps_per_epoch)]
    assert sorted(row for batch in batches for row in batch) == list(range(count))
    assert all(len(batch) == min(size, count) for batch in batches[:-1])
    assert len(batches[-1]) == (count % size or size)


@given(count=sizes, size=sizes, seed=st.integers(0, 9), steps=st.lists(st.integers(0, 99), min_size=1, max_size=9))
def test_a_batch_does_not_depend_on_what_was_asked_before(count, size, seed, steps):
    order = Order(count, size, seed)
    assert [order.batch(step) for step in steps] == [Order(count, size, seed).batch(step) for step in steps]


def test_epochs_and_seeds_have_orders_of_their_own():
    # 50! orders: two of three drawn alike would be a fault, not chance.
    orders = {tuple(Order(50, 50, seed).batch(step)) for seed, step in ((0, 0), (0, 1), (1, 0), (1, 1))}
    assert len(orders) == 4


def test_epochs_are_rounded_up_to_whole_steps():
    order = Order(count=10, batch_size=4)
    assert order.steps_per_epoch == 3
    # .7 * 3 = 2.1 steps; .07 * 100 steps are 7, though floats make it 7.000000000000001.
    assert [order.steps(epochs) for epochs in (1, 2.0, 0.5, 0.7)] == [3, 6, 2, 3]
    assert 0.07 * 100 > 7 and Order(100, 1).steps(0.07) == 7
    assert order.epoch(4) == 4 / 3


@pytest.mark.parametrize("wrong", [(0, 1, 0), (1, 0, 0), (1, 1, -1)])
def test_sizes_below_one_are_refused(wrong):
    with pytest.raises(ValueError, match=r"an order needs count and batch_size of at least 1"):
        Order(*wrong)
