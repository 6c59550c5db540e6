"""Agreement of annotators: the worked examples of those who defined the coefficients, and judgments by hand."""

from __future__ import annotations

from math import nan, sqrt

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from accord.data.judgments import Judgment
from accord.evaluate.agreement import Ratings, agreement, between, rate_items
from accord.evaluate.kappas import (
    agreement_of_numbers,
    ceiling,
    cohen,
    fleiss,
    interval,
    krippendorff,
    nominal,
    observed_agreement,
    ordinal,
)
from accord.results.agreement import AgreementResult

# Fleiss 1971 gives the coefficient; this table of 10 subjects, 5 categories and 14 raters is the usual example of it
# (en.wikipedia.org/wiki/Fleiss%27_kappa), whose value is .210.
FLEISS = """0 0 0 0 14  0 2 6 4 2  0 0 3 5 6  0 3 9 2 0  2 2 8 1 1
            7 7 0 0 0  3 2 6 3 0  2 5 3 2 2  6 5 2 1 0  0 2 2 3 7"""

# Krippendorff 2011, "Computing Krippendorff's alpha-reliability", section C: four observers, twelve units, missing
# data; alpha is .743 nominal, .815 ordinal and .849 interval (section D).
KRIPPENDORFF = """1 2 3 3 2 1 4 1 2 . . .
                  1 2 3 3 2 2 4 1 2 5 . 3
                  . 3 3 3 2 3 4 2 2 5 1 .
                  1 2 3 3 2 4 4 1 2 5 1 ."""


def test_cohens_kappa() -> None:
    # Two readers of 50 proposals: both yes 20, both no 15, yes and no 5, no and yes 10 (en.wikipedia.org/wiki/
    # Cohen%27s_kappa): they agree on .7, by chance on .5 * .6 + .5 * .4 = .5, so kappa is .2 / .5.
    assert cohen(np.array([[20.0, 5.0], [10.0, 15.0]])) == pytest.approx(0.4)
    assert np.isnan(cohen(np.array([[9.0, 0.0], [0.0, 0.0]])))


def test_fleiss_kappa() -> None:
    counts = np.array(FLEISS.split(), dtype=np.float64).reshape(10, 5)
    assert fleiss(counts) == pytest.approx(0.210, abs=5e-4)
    assert fleiss(counts[:3], np.array([2.0, 0.0, 1.0])) == pytest.approx(fleiss(counts[[0, 0, 2]]))
    with pytest.raises(ValueError, match="same number of raters"):
        fleiss(np.array([[2.0, 0.0], [2.0, 1.0]]))


def test_krippendorffs_alpha() -> None:
    rows = [line.split() for line in KRIPPENDORFF.splitlines()]
    counts = np.array([[[row[u] for row in rows].count(str(c)) for c in range(1, 6)] for u in range(12)], dtype=float)
    assert krippendorff(counts, nominal) == pytest.approx(0.743, abs=5e-4)
    assert krippendorff(counts, ordinal) == pytest.approx(0.815, abs=5e-4)
    assert krippendorff(counts, interval(np.arange(1.0, 6.0))) == pytest.approx(0.849, abs=5e-4)
    numbers = agreement_of_numbers([[float(row[u]) for row in rows if row[u] != "."] for u in range(12)])
    assert numbers is not None and (numbers.estimate, numbers.n) == (pytest.approx(0.849, abs=5e-4), 11)
    assert agreement_of_numbers([[2.0, 2.0], [2.0, 2.0]]) is None
    times = np.array([2.0, 1.0, 0.0])
    assert krippendorff(counts[:3], ordinal, times) == pytest.approx(krippendorff(counts[[0, 0, 1]], ordinal))
    assert np.isnan(krippendorff(np.array([[2.0, 0.0]]), nominal))
    assert np.isnan(krippendorff(np.array([[1.0, 0.0]]), nominal))


def test_many_resamples_at_once_are_one_after_the_other() -> None:
    draw = np.random.default_rng(0)
    counts, times = draw.integers(0, 4, (6, 3)) + np.eye(3)[[0, 1, 2, 0, 1, 2]], draw.integers(0, 3, (5, 6)) + 0.0
    tables = draw.integers(1, 9, (5, 3, 3)) + 0.0
    even = np.array(
        [[2.0, 1.0, 0.0], [0.0, 3.0, 0.0], [1.0, 1.0, 1.0], [0.0, 0.0, 3.0], [0.0, 2.0, 1.0], [3.0, 0.0, 0.0]]
    )
    for metric in (nominal, ordinal, interval(np.array([1.0, 2.0, 7.0]))):
        assert krippendorff(counts, metric, times) == pytest.approx([krippendorff(counts, metric, t) for t in times])
    assert fleiss(even, times) == pytest.approx([fleiss(even, t) for t in times])
    assert cohen(tables) == pytest.approx([cohen(table) for table in tables])


def test_the_share_of_raters_who_agree() -> None:
    # Of three raters 2 and 1: one pair of three agrees.
    found = observed_agreement(np.array([[2.0, 1.0], [3.0, 0.0], [1.0, 0.0]]))
    assert found == pytest.approx([1 / 3, 1.0, nan], nan_ok=True)


@given(st.floats(0.5, 1.0))
def test_the_ceiling_undoes_the_agreement(q: float) -> None:
    assert ceiling(q * q + (1 - q) ** 2) == pytest.approx(q, abs=1e-7)


def test_the_ceiling_by_hand() -> None:
    # Agreement .68 = .8^2 + .2^2; .726, that of InstructGPT's labelers (Ouyang et al. 2022), (1 + sqrt(.452)) / 2.
    assert ceiling(0.68) == pytest.approx(0.8)
    assert ceiling(0.726) == pytest.approx(0.836155, abs=1e-6)
    assert np.isnan(ceiling(0.4))


def judged(*rows: tuple[str, str, str, float, str]) -> list[Judgment]:
    return [Judgment(p, a, b, label, annotator=who) for p, a, b, label, who in rows]


def test_items_are_matched_in_either_order() -> None:
    # On (x, y) of p both mean x; on (x, y) of q they differ; ann alone judged r; her second word on p is not counted.
    found = rate_items(
        judged(
            ("p", "x", "y", 1.0, "ann"),
            ("p", "y", "x", 0.0, "bob"),
            ("q", "x", "y", 0.5, "bob"),
            ("q", "y", "x", 1.0, "ann"),
            ("r", "x", "y", 1.0, "ann"),
            ("p", "x", "y", 0.0, "ann"),
        )
    )
    assert (found.annotators, found.repeated) == (("ann", "bob"), 1)
    assert found.labels.tolist() == [[2, 2], [0, 1], [2, -1]]
    assert found.counts.tolist() == [[0, 0, 2], [1, 1, 0]]
    (pair,) = between(found, 9)
    assert (pair.a, pair.b, pair.items, pair.agreement.estimate) == ("ann", "bob", 2, 0.5)


@given(st.lists(st.tuples(st.sampled_from([0.0, 0.5, 1.0]), st.sampled_from([0.0, 0.5, 1.0])), min_size=3, max_size=9))
def test_nothing_depends_on_which_completion_is_called_the_first(labels: list[tuple[float, float]]) -> None:
    one = [
        Judgment(str(i), "x", "y", x, annotator=who)
        for i, both in enumerate(labels)
        for who, x in zip("ab", both, strict=True)
    ]
    two = [Judgment(j.prompt, "y", "x", 1 - j.label, annotator=j.annotator) if int(j.prompt) % 2 else j for j in one]
    assert kappas(one) == pytest.approx(kappas(two), nan_ok=True)


def kappas(judgments: list[Judgment]) -> list[float]:
    """The coefficients of every item in both orders, as `agreement` and `between` compute them."""
    found = rate_items(judgments)
    counts = np.concatenate([found.counts, found.counts[:, ::-1]])
    table = np.zeros((3, 3))
    for a, b in found.labels:
        table[a, b] += 1
        table[2 - a, 2 - b] += 1
    return [cohen(table), fleiss(counts), krippendorff(counts, nominal), krippendorff(counts, ordinal)]


def together(counts: np.ndarray) -> AgreementResult:
    """The agreement of annotators, of whom so many chose each category of every item."""
    labels = np.full((len(counts), int(counts.sum(1).max())), -1)
    for row, often in zip(labels, counts.astype(int), strict=True):
        row[: often.sum()] = np.repeat(np.arange(3), often)
    return agreement(Ratings(tuple(map(str, range(labels.shape[1]))), labels, 0))


def test_all_annotators_together() -> None:
    # Three annotators; on 40 items all say first or all second, on 20 two against one: agreement (40 + 20 / 3) / 60 =
    # 7/9. No ties, and in both orders half of all ratings are first: chance is 1/2, so Fleiss' kappa (7/9 - 1/2) /
    # (1/2) = 5/9. Krippendorff's chance leaves out a rating's pair with itself: 1 - (2/9) / (.5 * 360 / 359).
    counts = np.array([[3, 0, 0], [0, 0, 3]] * 20 + [[2, 0, 1], [1, 0, 2]] * 10, dtype=np.float64)
    found = together(counts)
    assert found.fleiss is not None and found.krippendorff is not None and found.krippendorff_ordinal is not None
    assert found.agreement.estimate == pytest.approx(7 / 9)
    assert found.fleiss.estimate == pytest.approx(5 / 9)
    assert found.krippendorff.estimate == pytest.approx(1 - (2 / 9) / (0.5 * 360 / 359))
    assert found.krippendorff_ordinal.estimate == pytest.approx(
        found.krippendorff.estimate
    )  # two categories have no order
    assert found.strict == found.agreement and found.ceiling is not None
    assert found.ceiling.estimate == pytest.approx((1 + sqrt(5 / 9)) / 2)
    assert found.ceiling.low == pytest.approx(ceiling(found.agreement.low))


def test_ties_are_left_out_of_the_ceiling() -> None:
    # One of three ties an item on which the others agree: of all three pairs one agrees, of those who decided all.
    found = together(np.array([[0, 1, 2]] * 4, dtype=np.float64))
    assert found.strict is not None and found.ceiling is not None
    assert (found.agreement.estimate, found.strict.estimate, found.ceiling.estimate) == (pytest.approx(1 / 3), 1.0, 1.0)
    divided = together(np.array([[1, 0, 1], [0, 2, 1]], dtype=np.float64))
    assert divided.ceiling is None and divided.fleiss is None
