"""How unsure judges are: entropies worked out by hand."""

from __future__ import annotations

from collections.abc import Sequence
from math import log

import pytest

from accord.errors import InputError
from accord.feedback.uncertainty import uncertainty
from accord.records import Comparison, Verdict

PAIRS = [Comparison("p", str(i), "other") for i in range(3)]


def says(*chances: float | None) -> object:
    def judge(comparisons: Sequence[Comparison]) -> list[Verdict]:
        return [Verdict(chance, "" if chance is not None else "it is too long") for chance in chances]

    return judge


def test_one_judge_is_as_unsure_as_its_verdict_is_even() -> None:
    assert uncertainty([says(0.5, 1.0, 0.25)], PAIRS) == pytest.approx([log(2), 0, 0.25 * log(4) + 0.75 * log(4 / 3)])


def test_an_ensemble_is_unsure_where_it_disagrees_and_not_where_all_toss_coins() -> None:
    found = uncertainty([says(0.5, 1.0, 0.2), says(0.5, 0.0, 0.6)], PAIRS)
    entropies = [-(p * log(p) + (1 - p) * log(1 - p)) for p in (0.2, 0.6, 0.4)]
    assert found == pytest.approx([0, log(2), entropies[2] - (entropies[0] + entropies[1]) / 2])


def test_a_verdict_that_is_missing_is_told() -> None:
    with pytest.raises(InputError, match="comparison 2 has no verdict: it is too long"):
        uncertainty([says(0.5, None, 0.5)], PAIRS)
    with pytest.raises(InputError, match="needs a model that judges"):
        uncertainty([], PAIRS)
