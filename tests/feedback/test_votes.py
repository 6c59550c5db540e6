"""The majority's answer: by hand, and how often it is right, summed over all votes."""

from __future__ import annotations

from itertools import product
from math import comb

import pytest
from hypothesis import given
from hypothesis import strategies as st

from accord.feedback.verifiers import leaders, majority


@pytest.mark.parametrize(
    ("answers", "ahead", "share", "winner"),
    [
        (["4", "5", "4"], ["4"], 2 / 3, "4"),
        (["5", "4", "4", "5"], ["5", "4"], 1 / 2, None),  # a tie is no majority
        (["4", None, None, "4", None], ["4"], 2 / 5, "4"),  # no answer leads nobody, and is no agreement either
        ([None, None], [], 0.0, None),
        ([], [], 0.0, None),
        (["7"], ["7"], 1.0, "7"),
    ],
)
def test_by_hand(answers: list[str | None], ahead: list[str], share: float, winner: str | None) -> None:
    assert leaders(answers) == (ahead, share)
    assert majority(answers) == (winner, share)


@given(
    st.lists(st.sampled_from(["1", "2", "3", None]), max_size=9).flatmap(
        lambda v: st.tuples(st.just(v), st.permutations(v))
    )
)
def test_the_order_of_votes_decides_nothing(votes: tuple[list[str | None], list[str | None]]) -> None:
    before, after = votes
    assert majority(before) == majority(after)
    assert sorted(leaders(before)[0]) == sorted(leaders(after)[0])


def test_five_voters_who_are_right_with_probability_three_fifths() -> None:
    # All 32 ways to vote: .6^5 + 5 .6^4 .4 + 10 .6^3 .4^2 = .07776 + .2592 + .3456
    chance = 0.0
    for votes in product(["right", "wrong"], repeat=5):
        k = votes.count("right")
        chance += 0.6**k * 0.4 ** (5 - k) * (majority(votes)[0] == "right")
    assert chance == pytest.approx(0.68256, abs=1e-12)


@pytest.mark.parametrize(("m", "expected"), [(1, 0.6), (5, 0.68256), (31, 0.871618)])
def test_more_voters_are_right_more_often(m: int, expected: float) -> None:
    # Order decides nothing, so the 2^m ways to vote are m + 1 kinds, of C(m, k) each.
    wins = [k for k in range(m + 1) if majority(["right"] * k + ["wrong"] * (m - k))[0] == "right"]
    assert sum(comb(m, k) * 0.6**k * 0.4 ** (m - k) for k in wins) == pytest.approx(expected, abs=1e-6)
