"""How often a scorer agrees with people: counted by hand."""

from __future__ import annotations

import pytest

from accord.evaluate.accuracy import accuracy, pairwise_accuracy
from accord.evaluate.statistics import wilson


def test_pairs_by_hand() -> None:
    # Right, wrong, equal (half): 1.5 of 3.
    found = accuracy([[2.0, 1.0], [0.0, 3.0], [1.0, 1.0]], [[0, 1]] * 3)
    assert (found.accuracy, found.ties) == (wilson(1.5, 3), 1)
    assert found.accuracy.estimate == 0.5


def test_the_order_of_the_ranks_counts_not_that_of_the_branches() -> None:
    assert accuracy([[1.0, 2.0]], [[1, 0]]).accuracy.estimate == 1.0


def test_a_ranking_gives_its_pairs_of_different_rank() -> None:
    # Ranks 0 1 1 2: of 6 pairs 5 differ. Scores 4 3 5 1: 0 beats 1 and 3 but not 2; both of rank 1 beat 3: 4 of 5.
    found = accuracy([[4.0, 3.0, 5.0, 1.0]], [[0, 1, 1, 2]])
    assert (found.accuracy.estimate, found.accuracy.n, found.ties) == (0.8, 5, 0)


def test_pairs_that_no_score_orders_by_hand() -> None:
    # 0 leads 1 leads 2 leads 0, and 3 leads nobody. Ranks 0 1 2 2 ask about (0,1) (0,2) (0,3) (1,2) (1,3): right,
    # wrong, neither (half), right, right.
    leads = [[0.0, 2.0, -1.0, 0.0], [-2.0, 0.0, 0.5, 1.0], [1.0, -0.5, 0.0, 9.0], [0.0, -1.0, -9.0, 0.0]]
    found = pairwise_accuracy([leads], [[0, 1, 2, 2]])
    assert (found.accuracy, found.ties) == (wilson(3.5, 5), 1)


def test_only_ties_leave_nothing_to_measure() -> None:
    with pytest.raises(ValueError, match="at least one observation"):
        accuracy([[1.0, 2.0]], [[0, 0]])
