"""The board equals choix's on whole wins, and the closed forms of two and of three models."""

from __future__ import annotations

from itertools import combinations
from math import log

import choix
import numpy as np
import pytest

from accord.evaluate.statistics import RIDGE, fit_logistic
from accord.evaluate.wins import ELO, board

NAMES = ["a", "b", "c", "d"]
PAIRS = [(j, i) for i, j in combinations(range(4), 2)]


def ratings(wins: np.ndarray, **options: float) -> np.ndarray:
    found = {s.name: s.rating.estimate for s in board(NAMES, PAIRS, wins, resamples=2, **options)}
    return np.array([found[name] for name in NAMES])


def whole_wins(prompts: int) -> tuple[np.ndarray, list[tuple[int, int]]]:
    """Wins and losses of four models, and the same as choix has them: (winner, loser)."""
    wins = (np.random.default_rng(1).random((6, prompts)) < 0.65).astype(float)
    duels = zip(PAIRS, wins, strict=True)
    return wins, [(i, j) if w else (j, i) for (i, j), row in duels for w in row]


@pytest.mark.parametrize("ridge", [RIDGE, 0.5])
def test_it_is_choixs_maximum_with_the_same_penalty(ridge: float) -> None:
    wins, data = whole_wins(50)
    expected = choix.opt_pairwise(4, data, alpha=ridge / 2, tol=1e-12)  # its penalty is alpha |theta|^2
    assert ratings(wins, ridge=ridge) == pytest.approx(expected, abs=1e-6)


def test_without_a_penalty_to_speak_of_it_is_the_maximum_of_the_likelihood() -> None:
    wins, data = whole_wins(50)
    assert ratings(wins, ridge=1e-9) == pytest.approx(choix.ilsr_pairwise(4, data), abs=1e-6)


def test_ties_are_half_a_win_for_either() -> None:
    # choix has no ties: every tie is a win for one and a win for the other, at half the weight, as in a dense matrix.
    wins = np.random.default_rng(2).choice([0.0, 0.5, 1.0], size=(6, 30))
    counts = np.zeros((4, 4))
    for (i, j), row in zip(PAIRS, wins, strict=True):
        counts[i, j] += row.sum()
        counts[j, i] += (1 - row).sum()
    assert ratings(wins, ridge=1e-9) == pytest.approx(choix.ilsr_pairwise_dense(counts), abs=1e-6)


def test_win_rates_that_ratings_explain_exactly_give_those_ratings() -> None:
    # sigmoid(log 2) = 2/3 and sigmoid(log 4) = 4/5: a at -log 2, b at 0, c at log 2.
    wins = np.array([[2 / 3] * 30, [4 / 5] * 30, [2 / 3] * 30])
    found = board(["a", "b", "c"], [(1, 0), (2, 0), (2, 1)], wins, ridge=1e-9, resamples=4)
    assert [s.name for s in found] == ["c", "b", "a"]
    assert [s.rating.estimate for s in found] == pytest.approx([log(2), 0, -log(2)], abs=1e-8)
    assert [s.rating.high - s.rating.low for s in found] == pytest.approx([0, 0, 0], abs=1e-8)  # all prompts are alike
    assert found[0].elo.estimate == pytest.approx(400 * log(2) / log(10)) == found[0].rating.estimate * ELO


def test_invalid_verdicts_count_for_nobody() -> None:
    wins = np.random.default_rng(3).choice([0.0, 1.0], size=(6, 40))
    holes = wins.copy()
    holes[2, 10:], holes[4, :5] = np.nan, np.nan
    counts = np.zeros((4, 4))
    for (i, j), row in zip(PAIRS, holes, strict=True):
        counts[i, j] += np.nansum(row)
        counts[j, i] += np.nansum(1 - row)
    assert ratings(holes, ridge=1e-9) == pytest.approx(choix.ilsr_pairwise_dense(counts), abs=1e-6)


def test_a_model_that_never_loses_has_a_finite_rating() -> None:
    # Two models, n wins: n (1 - sigmoid(d)) = RIDGE d / 2.
    best, other = board(["a", "b"], [(1, 0)], np.ones((1, 100)), resamples=2)
    gap = best.rating.estimate - other.rating.estimate
    assert best.name == "b" and best.rating.estimate == pytest.approx(-other.rating.estimate)
    assert 100 / (1 + np.exp(gap)) == pytest.approx(RIDGE * gap / 2, rel=1e-6)


def test_the_fit_is_where_the_slope_is_nothing_for_every_resample() -> None:
    generator = np.random.default_rng(4)
    design, trials = generator.normal(size=(20, 3)), generator.integers(0, 4, size=(5, 20)).astype(float)
    wins = trials * generator.random((5, 20))
    theta = fit_logistic(design, wins, trials)
    chance = 1 / (1 + np.exp(-theta @ design.T))
    assert (wins - trials * chance) @ design == pytest.approx(RIDGE * theta, abs=1e-9)
