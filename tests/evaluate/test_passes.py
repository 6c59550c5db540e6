"""pass@k and the majority's correctness: every subset counted, every estimate unbiased."""

from __future__ import annotations

from itertools import combinations
from math import comb

import pytest
from hypothesis import given
from hypothesis import strategies as st

from accord.evaluate.passes import majority, majority_is_right, mean_of, pass_at_k, passes
from accord.evaluate.statistics import bootstrap_mean, wilson


@pytest.mark.parametrize("n", [1, 2, 5, 7])
def test_pass_at_k_is_the_share_of_all_k_subsets_with_a_right_sample(n: int) -> None:
    for right in range(n + 1):
        samples = [True] * right + [False] * (n - right)
        for k in range(1, n + 1):
            drawn = [any(subset) for subset in combinations(samples, k)]
            assert pass_at_k(n, right, k) == pytest.approx(sum(drawn) / len(drawn), abs=1e-15)


@given(st.integers(1, 40), st.data(), st.floats(0, 1))
def test_pass_at_k_is_unbiased(n: int, data: st.DataObject, p: float) -> None:
    # The number of right samples is binomial; the mean estimate is the chance that one of k is right, 1 - (1 - p)^k.
    k = data.draw(st.integers(1, n))
    mean = sum(comb(n, c) * p**c * (1 - p) ** (n - c) * pass_at_k(n, c, k) for c in range(n + 1))
    assert mean == pytest.approx(1 - (1 - p) ** k, abs=1e-9)


@pytest.mark.parametrize(("n", "right", "k"), [(4, 5, 1), (4, -1, 1), (4, 2, 0), (4, 2, 5)])
def test_what_has_no_meaning_is_refused(n: int, right: int, k: int) -> None:
    with pytest.raises(ValueError, match="has no meaning"):
        pass_at_k(n, right, k)


def test_the_majority_by_hand() -> None:
    def marked(*answers: str | None) -> float:
        return majority_is_right(answers, [a == "4" for a in answers])

    assert marked("4", "5", "4") == 1.0
    assert marked("4", "5", "5") == 0.0
    assert marked("4", "5") == 0.5  # drawn by lot
    assert marked("4", "5", "6", None) == 1 / 3
    assert marked(None, None) == 0.0


def test_the_majority_of_an_even_number_is_right_as_often_as_of_one_fewer() -> None:
    # At p = .6, m = 4: .6^4 + 4 .6^3 .4 + half of 6 .6^2 .4^2 = .1296 + .3456 + .0864 + .0864 = .648, as of m = 3.
    def chance(m: int) -> float:
        votes = [["right"] * k + ["wrong"] * (m - k) for k in range(m + 1)]
        credit = [majority_is_right(v, [a == "right" for a in v]) for v in votes]
        return sum(comb(m, k) * 0.6**k * 0.4 ** (m - k) * credit[k] for k in range(m + 1))

    assert chance(4) == pytest.approx(0.648, abs=1e-12)
    assert chance(3) == pytest.approx(0.648, abs=1e-12)
    assert chance(5) == pytest.approx(0.68256, abs=1e-12)


def test_means_over_prompts() -> None:
    # Of 6 samples 0, 3 and 6 are right. pass@2: 0, 1 - C(3,2)/C(6,2) = 12/15, 1; pass@4: 0, 1, 1 (only 3 are wrong).
    right = [[False] * 6, [True, False] * 3, [True] * 6]
    answers = [[None] * 6, ["1", "2"] * 3, ["1"] * 6]
    found = passes(right)
    assert list(found) == [1, 2, 4, 6]
    assert [i.estimate for i in found.values()] == pytest.approx([0.5, 0.6, 2 / 3, 2 / 3], abs=1e-15)
    assert majority(answers, right).estimate == pytest.approx(0.5, abs=1e-15)
    assert all(i.n == 3 for i in found.values())
    assert list(passes([[True]])) == [1]


def test_intervals_are_of_prompts() -> None:
    # Wilson's where each prompt is right or wrong, which has a width where all are wrong; else the bootstrap's.
    assert mean_of([0.0] * 20) == wilson(0, 20)
    assert mean_of([1.0, 0.0, 1.0]) == wilson(2, 3)
    assert mean_of([0.5, 0.0, 1.0]) == bootstrap_mean([0.5, 0.0, 1.0])
