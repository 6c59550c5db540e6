"""Rows of several completions: the best and the order, by hand."""

from __future__ import annotations

from itertools import combinations
from math import sqrt

import numpy as np
import pytest

from accord.data.judgments import Judgment
from accord.evaluate.accuracy import Predictions
from accord.evaluate.comparisons import ranking_agreement


def trial(*rows: tuple[str, list[float], list[float]]) -> Predictions:
    """Rows of completions' names, the labels of all their pairs, and the leads."""
    judgments = [
        Judgment(f"p{i}", a, b, label, i)
        for i, (names, labels, _) in enumerate(rows)
        for (a, b), label in zip(combinations(names, 2), labels, strict=True)
    ]
    return Predictions(judgments, np.array([lead for _, _, leads in rows for lead in leads]))


def test_one_row_by_hand() -> None:
    # People: a > b > c (pairs ab ac bc: 1 1 1). Leads: b > a > c. One pair of three disagrees: tau (2 - 1) / 3, and the
    # best is not found. By lot it would be in one case of three.
    found = ranking_agreement(trial(("abc", [1.0, 1.0, 1.0], [-1.0, 2.0, 3.0])))
    assert found is not None and found.top is not None and found.tau is not None
    assert (found.rows, found.cyclic, found.top.estimate, found.chance) == (1, 0, 0.0, pytest.approx(1 / 3))
    assert found.tau.estimate == pytest.approx(1 / 3)


def test_ties_on_either_side() -> None:
    # People: a = b > c (labels .5 1 1), so a and b are both best: by lot 2/3. Leads 1 1 0: a leads both others, bc is
    # equal. The best is found. tau-b: agreements on ac; ab is untied on one side only, so 1 / sqrt(2 * 2) = 1/2.
    found = ranking_agreement(trial(("abc", [0.5, 1.0, 1.0], [1.0, 1.0, 0.0])))
    assert found is not None and found.top is not None and found.tau is not None
    assert (found.top.estimate, found.chance) == (1.0, pytest.approx(2 / 3))
    assert found.tau.estimate == pytest.approx(1 / sqrt(4))


def test_leaders_that_tie_share_the_credit() -> None:
    # People: a best. All leads 0: each of three leads, a third of the credit, and there is no order to correlate with.
    found = ranking_agreement(trial(("abc", [1.0, 1.0, 1.0], [0.0, 0.0, 0.0])))
    assert found is not None and found.top is not None
    assert (found.top.estimate, found.tau) == (pytest.approx(1 / 3), None)


def test_people_who_go_in_circles_have_no_best() -> None:
    # a > b > c > a: every one wins once, so nothing is best, but the pairs can still be agreed with, 2 of 3 here.
    found = ranking_agreement(trial(("abc", [1.0, 0.0, 1.0], [1.0, 1.0, 1.0])))
    assert found is not None and found.tau is not None
    assert (found.cyclic, found.top, found.chance, found.tau.estimate) == (1, None, None, pytest.approx(1 / 3))


def test_rows_that_are_incomplete_or_pairs_are_not_rankings() -> None:
    whole = trial(("abc", [1.0] * 3, [1.0] * 3))
    assert ranking_agreement(whole.where(np.array([0, 1]))) is None
    assert ranking_agreement(trial(("ab", [1.0], [1.0]))) is None
