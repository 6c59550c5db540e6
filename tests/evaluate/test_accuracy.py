"""How often whatever is on trial agrees with people: counted by hand."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from accord.data.judgments import Judgment, load_judgments
from accord.errors import InputError
from accord.evaluate.accuracy import (
    Predictions,
    by_length,
    by_margin,
    by_source,
    length,
    length_correlation,
    nearer_on_ties,
)
from accord.evaluate.statistics import wilson
from accord.records import Message


def trial(lead: Sequence[float], label: Sequence[float], **more: Sequence[str]) -> Predictions:
    """A judgment a row, of its own prompt."""
    columns = [dict(zip(more, values, strict=True)) for values in zip(*more.values(), strict=True)] or [{}] * len(lead)
    texts = {"first": "a", "second": "b"}
    rows = [Judgment(f"p{i}", label=x, row=i, **texts | c) for i, (x, c) in enumerate(zip(label, columns, strict=True))]
    return Predictions(rows, np.array(lead, dtype=np.float64))


def test_pairs_by_hand() -> None:
    # Right, wrong, equal (half), and a tie in the labels, which is not asked about: 1.5 of 3.
    found = trial([2.0, -3.0, 0.0, 5.0], [1.0, 1.0, 0.0, 0.5])
    assert found.accuracy() == wilson(1.5, 3)
    assert found.strict.margin.tolist() == [2.0, -3.0, 0.0]


def test_what_was_preferred_counts_not_what_stands_first() -> None:
    assert trial([-1.0], [0.0]).accuracy() == wilson(1, 1)


def test_what_was_drawn_unevenly_is_weighted() -> None:
    """Right on what counts thrice and wrong on what counts once: 3/4; and a pair that ties is in neither sum."""
    rows = [{"prompt": p, "chosen": "a", "rejected": "b", "sampling_weight": w} for p, w in (("x", 1.5), ("y", 0.5))]
    judged = [*load_judgments(rows), Judgment("z", "a", "b", 0.5, 2, weight=9.0)]
    accuracy = Predictions(judged, np.array([1.0, -1.0, 1.0])).accuracy()
    assert accuracy is not None and accuracy.estimate == pytest.approx(0.75) and accuracy.n == 2
    named = {"prompt": "x", "a": "1", "b": "2", "label": "first", "sampling_weight": 1.5}
    assert load_judgments([named], columns={"first": "a", "second": "b"})[0].weight == 1.5
    with pytest.raises(InputError, match="'sampling_weight' must be a number, not 'much'"):
        load_judgments([{**rows[0], "sampling_weight": "much"}])


def test_only_ties_leave_nothing_to_measure() -> None:
    assert trial([1.0, 2.0], [0.5, 0.5]).accuracy() is None


def test_pairs_of_one_prompt_are_drawn_together() -> None:
    # Two prompts of two pairs, one all right and one all wrong: a resample holds 0, 1 or 2 of the right prompt, so its
    # accuracy is 0, .5 or 1, each end in a quarter of them. Four independent pairs would give Wilson's (.150, .850).
    rows = [Judgment(p, "a", "b", 1.0, i) for i, p in enumerate("xxyy")]
    found = Predictions(rows, np.array([1.0, 2.0, -1.0, -2.0])).accuracy()
    assert found is not None
    assert (found.estimate, found.low, found.high, found.n) == (0.5, 0.0, 1.0, 4)


def test_rows_without_a_prompt_stand_for_themselves() -> None:
    lead = np.array([1.0, -1.0, 1.0])
    texts = [Judgment("", "a", "b", 1.0, i) for i in range(3)]
    assert Predictions(texts, lead).accuracy() == wilson(2, 3)
    same = [Judgment("the only prompt", "a", "b", 1.0, i) for i in range(3)]
    assert Predictions(same, lead).accuracy() == wilson(2, 3)


def test_parts_by_margin() -> None:
    # By size .1 .2 | 1 2: the closer half is half right, the clearer all.
    found = by_margin(trial([-0.1, 2.0, 0.2, -1.0], [1.0, 1.0, 1.0, 0.0]), parts=2)
    assert [(p.label, p.accuracy) for p in found] == [
        ("0.10 to 0.20", wilson(1, 2)),
        ("1.00 to 2.00", wilson(2, 2)),
    ]
    assert len(by_margin(trial([1.0], [1.0]))) == 1  # there are no empty parts


def test_parts_by_length() -> None:
    # Preferred: 20 characters against 10; 10 against 10; 10 against 11 (within a tenth); 5 against 10.
    texts = {"first": ["x" * 20, "x" * 10, "x" * 11, "x" * 5], "second": ["y" * 10, "y" * 10, "y" * 10, "y" * 10]}
    found = by_length(trial([1.0, -1.0, -1.0, -1.0], [1.0, 1.0, 0.0, 1.0], **texts))
    assert [(p.label, p.accuracy) for p in found] == [
        ("chosen longer", wilson(1, 1)),
        ("about equal", wilson(1, 2)),
        ("chosen shorter", wilson(0, 1)),
    ]


def test_parts_by_source_are_those_that_have_names() -> None:
    found = by_source(trial([1.0, -1.0, 1.0, 1.0], [1.0] * 4, source=["b", "a", "a", ""]))
    assert [(p.label, p.accuracy) for p in found] == [("a", wilson(1, 2)), ("b", wilson(1, 1))]
    assert by_source(trial([1.0], [1.0])) == []


def test_ties_are_told_apart_as_counted_by_hand() -> None:
    # Leads of ties 1, 2; of others 2, 3, 0: of the six pairs the tie's is smaller in (1,2) (1,3) (2,3) and equal in
    # (2,2), so 3.5 / 6.
    found = nearer_on_ties(trial([1.0, -2.0, 2.0, -3.0, 0.0], [0.5, 0.5, 1.0, 0.0, 1.0]))
    assert found is not None and found.estimate == pytest.approx(3.5 / 6)
    assert nearer_on_ties(trial([1.0], [1.0])) is None


@settings(max_examples=15, deadline=None)
@given(st.lists(st.tuples(st.integers(-5, 5), st.integers(1, 9), st.integers(1, 9)), min_size=2, max_size=12))
def test_correlation_with_length_does_not_depend_on_the_order(rows: list[tuple[int, int, int]]) -> None:
    lead = [float(a) for a, _, _ in rows]
    one, two = ["x" * a for _, a, _ in rows], ["y" * b for _, _, b in rows]
    found = length_correlation(trial(lead, [1.0] * len(rows), first=one, second=two))
    swapped = length_correlation(trial([-x for x in lead], [0.0] * len(rows), first=two, second=one))
    assert (found is None) == (swapped is None)
    if found is not None and swapped is not None:
        assert found.estimate == pytest.approx(swapped.estimate) and -1.000001 <= found.estimate <= 1.000001


def test_a_lead_that_is_the_length_correlates_fully() -> None:
    texts = {"first": ["x" * 3, "x" * 9, "x"], "second": ["y", "y" * 2, "y" * 4]}
    found = length_correlation(trial([2.0, 7.0, -3.0], [1.0] * 3, **texts))
    assert found is not None and found.estimate == pytest.approx(1.0)
    assert length_correlation(trial([2.0, 7.0], [1.0] * 2, first=["x"] * 2, second=["y"] * 2)) is None


def test_the_length_of_a_chat_is_what_the_assistant_says() -> None:
    chat = (Message("assistant", "four"), Message("user", "much longer"), Message("assistant", "six..."))
    assert (length(chat), length("seven..")) == (10, 7)
