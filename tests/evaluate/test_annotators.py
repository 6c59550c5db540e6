"""Whom to believe: small cases summed over every truth, limits, symmetries, and what is known of simulated people."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.special import betaln, expit

import accord.evaluate.annotators as annotators
from accord.data.judgments import Judgment
from accord.errors import InputError
from accord.evaluate.agreement import Ratings, rate_items
from accord.evaluate.annotators import ALIKE, MEANS, SPREAD, bradley_terry, dawid_skene, majority, warnings_of
from accord.records import Comparison
from accord.results.intervals import wilson

TABLE = np.array([[2, 2, 2], [2, 2, 0], [0, -1, 2], [1, 2, 2], [-1, 0, -1]])
"""What three annotators said of five items: 2 the first, 0 the second, 1 a tie, -1 nothing."""


def rated(labels: NDArray[np.int64], groups: tuple[str, ...] = (), prompts: int = 10**6) -> Ratings:
    """Ratings of items that are of so many prompts; items of one prompt share their first completion."""
    items = tuple(Comparison(f"p{i % prompts}", "a", f"b{i}") for i in range(len(labels)))
    return Ratings(tuple(f"k{i}" for i in range(labels.shape[1])), labels, 0, items, groups)


def prior() -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """The grid of a group's Beta(a, b), and the weight of each."""
    mean, alike = (grid.ravel() for grid in np.meshgrid(MEANS, ALIKE, indexing="ij"))
    return mean * alike, (1 - mean) * alike, mean**2 / (mean**2).sum()


def summed(labels: NDArray[np.int64], groups: tuple[str, ...]) -> tuple[list[float], list[float]]:
    """P(first is better) of every item and the mean reliability of every annotator, summed over all truths.

    Given a truth an annotator with h hits and m misses has likelihood B(a + h, b + m) / B(a, b), whose mean reliability
    is (a + h) / (a + b + h + m); groups are independent, each a mean over its grid.
    """
    a, b, weight = prior()
    strict = (labels == 0) | (labels == 2)
    total, first, reliability = 0.0, np.zeros(len(labels)), np.zeros(labels.shape[1])
    for truth in product((0, 2), repeat=len(labels)):
        right = strict & (labels == np.array(truth)[:, None])
        hits, misses = right.sum(0)[:, None], (strict & ~right).sum(0)[:, None]
        logs = betaln(a + hits, b + misses) - betaln(a, b)  # (annotators, grid)
        joint, means = 1.0, np.zeros(labels.shape[1])
        for name in set(groups):
            of = np.array([g == name for g in groups])
            grid = weight * np.exp(logs[of].sum(0))
            joint *= grid.sum()
            means[of] = ((a + hits) / (a + b + hits + misses))[of] @ grid / grid.sum()
        total += joint
        first += joint * (np.array(truth) == 2)
        reliability += joint * means
    return (first / total).tolist(), (reliability / total).tolist()


@pytest.mark.parametrize("groups", [("", "", ""), ("red", "blue", "blue")])
def test_dawid_skene_is_the_sum_over_all_truths(groups: tuple[str, ...]) -> None:
    found = dawid_skene(rated(TABLE, groups if any(groups) else ()))
    first, reliability = summed(TABLE, groups)
    assert found.first_better.tolist() == pytest.approx(first, abs=0.03)
    assert [one.reliability.estimate for one in found.annotators if one.reliability] == pytest.approx(
        reliability, abs=0.03
    )
    assert [(one.verdicts, one.ties) for one in found.annotators] == [(3, 1), (4, 0), (4, 0)]
    assert [one.name for one in found.groups] == (["red", "blue"] if any(groups) else [])


def test_bradley_terry_is_the_mean_over_draws_of_everything_weighed_by_likelihood() -> None:
    # Three items of one prompt, so that what is said of one tells of the others, and one item of another.
    labels = np.array([[2, 2], [2, 0], [-1, 2], [0, 0]])
    ratings = rated(labels, prompts=2)
    draw, n = np.random.default_rng(0), 300_000
    a, b, weight = prior()
    grid = draw.choice(len(a), n, p=weight)
    r = draw.beta(a[grid], b[grid], (2, n))
    s = draw.normal(0, SPREAD, (6, n))
    gaps = np.stack([s[0] - s[2], s[1] - s[3], s[0] - s[4], s[1] - s[5]])  # a of each prompt, then b0 to b3
    likelihood = np.ones(n)
    for item, who in zip(*np.nonzero(labels >= 0), strict=True):
        g = expit(gaps[item] if labels[item, who] == 2 else -gaps[item])
        likelihood *= r[who] * g + (1 - r[who]) * (1 - g)
    found = bradley_terry(ratings)
    expected = (expit(gaps) @ likelihood / likelihood.sum()).tolist()
    assert found.first_better.tolist() == pytest.approx(expected, abs=0.03)
    reliability = (r @ likelihood / likelihood.sum()).tolist()
    assert [one.reliability.estimate for one in found.annotators if one.reliability] == pytest.approx(
        reliability, abs=0.03
    )


@pytest.mark.parametrize("model", [dawid_skene, bradley_terry])
def test_one_annotator_is_believed_as_far_as_the_prior_goes(model) -> None:  # type: ignore[no-untyped-def]
    # Nothing tells how reliable he is: his reliability stays the prior's mean, of Beta(3, 1) on the grid.
    mean = (MEANS**3).sum() / (MEANS**2).sum()
    ratings = rated(np.array([[2], [0], [1]] * 30))
    found = model(ratings)
    (only,) = found.annotators
    assert only.reliability.estimate == pytest.approx(mean, abs=0.03)
    if model is dawid_skene:
        assert found.first_better[:3].tolist() == pytest.approx([mean, 1 - mean, 0.5], abs=0.03)
    else:  # less: a score's lead may be small
        assert 0.55 < found.first_better[::3].mean() < mean and 1 - mean < found.first_better[1::3].mean() < 0.45
    assert found.first_better[2] == 0.5
    assert "No comparison was judged by two annotators" in warnings_of(ratings, found)[0]


def test_where_all_agree_there_is_no_doubt_in_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(annotators, "KEPT", (500, 500))
    found = dawid_skene(rated(np.repeat([[2] * 5, [0] * 5], 200, axis=0)))
    assert found.first_better[:200].min() > 0.9999 and found.first_better[200:].max() < 0.0001
    assert all(one.reliability.low > 0.98 for one in found.annotators)  # type: ignore[union-attr]
    # Of scores that differ by d ~ N(0, 2 SPREAD^2) fully reliable people are sure to say so as d says: five of them
    # leave E[g^6] / E[g^5], g = sigmoid(d).
    nodes, weights = np.polynomial.hermite_e.hermegauss(60)
    g = expit(2**0.5 * SPREAD * nodes)
    expected = float(weights @ g**6 / (weights @ g**5))
    assert bradley_terry(rated(np.full((200, 5), 2))).first_better.mean() == pytest.approx(expected, abs=0.005)


@given(st.lists(st.lists(st.integers(-1, 2), min_size=3, max_size=3), min_size=1, max_size=6))
@settings(max_examples=15, deadline=None)
def test_swapped_completions_mirror_beliefs_and_leave_reliabilities(rows: list[list[int]]) -> None:
    labels = np.array([*rows, [2, 0, -1]])
    swapped = np.where(labels >= 0, 2 - labels, -1)
    for model in (majority, dawid_skene):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(annotators, "KEPT", (30, 30))
            found, mirrored = model(rated(labels)), model(rated(swapped))
        assert found.first_better.tolist() == pytest.approx((1 - mirrored.first_better).tolist(), abs=1e-12)
        assert found.annotators == mirrored.annotators


def test_the_majority_by_hand() -> None:
    # Shares: 3 of 3, 2 of 3, 1 of 2, (1/2 + 1 + 1) / 3, 0 of 1. k0 agrees with both others on the first item, with
    # nobody's majority on the second (they differ), disagrees on the third, and ties on the fourth.
    found = majority(rated(TABLE))
    assert found.first_better.tolist() == pytest.approx([1, 2 / 3, 1 / 2, 5 / 6, 0])
    assert [one.reliability for one in found.annotators] == [wilson(1, 2), wilson(2, 2), wilson(2, 4)]


def test_simulated_people_are_known_and_the_careless_ones_heard_less() -> None:
    draw, right = np.random.default_rng(1), np.array([0.9] * 7 + [0.55] * 3)
    truth = draw.integers(2, size=3000) * 2
    labels = np.full((3000, 10), -1)
    for i, better in enumerate(truth):
        who = draw.choice(10, 3, replace=False)
        labels[i, who] = np.where(draw.random(3) < right[who], better, 2 - better)
    found, by_vote = dawid_skene(rated(labels)), majority(rated(labels)).first_better
    held = [one.reliability.low <= r <= one.reliability.high for one, r in zip(found.annotators, right, strict=True)]  # type: ignore[union-attr]
    assert sum(held) >= 9
    correct = [(p > 0.5) == (truth == 2) for p in (found.first_better, by_vote)]
    # Of three people 3, 2, 1 or 0 are careful with 35, 63, 21 and 1 in 120. The majority is then right with .972, .909,
    # .748 and .575, in all .896. Who knows them follows one careful against two careless: .9 in place of .748, .923.
    assert correct[0].mean() == pytest.approx(0.923, abs=0.015) and correct[1].mean() == pytest.approx(0.896, abs=0.015)
    # What is believed with a probability is so as often.
    sure = np.maximum(found.first_better, 1 - found.first_better)
    assert sure.mean() == pytest.approx(correct[0].mean(), abs=0.02)


def test_somebody_who_judged_little_is_taken_for_one_of_his_group() -> None:
    # k0 to k2 agree, k3 to k5 toss coins; k6 and k7 judged one item alike, with k0 and k1.
    draw = np.random.default_rng(0)
    labels = np.full((120, 8), -1)
    labels[:, :3], labels[:, 3:6] = 2, draw.integers(2, size=(120, 3)) * 2
    labels[0, 6:] = 2
    found = dawid_skene(rated(labels, ("good",) * 3 + ("poor",) * 3 + ("good", "poor"))).annotators
    good, poor = (one.reliability.estimate for one in found[6:] if one.reliability)
    assert good > 0.9 and poor < 0.7


def test_an_annotator_of_two_groups_is_refused() -> None:
    rows = [Judgment("p", "a", "b", 1.0, i, "", "ann", group) for i, group in enumerate(("red", ""))]
    with pytest.raises(
        InputError, match=r"^row 2: the annotator ann is in the group '', but in 'red' in an earlier row"
    ):
        rate_items(rows)
