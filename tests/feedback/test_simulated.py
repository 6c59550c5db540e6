"""Simulated labelers: calibrated to their agreement, deterministic in the texts, symmetric in the order shown."""

from __future__ import annotations

from math import exp, log

import pytest
from hypothesis import given
from hypothesis import strategies as st

from accord.errors import InputError
from accord.feedback.judge import ScoreJudge
from accord.feedback.people import Simulated, temperature
from accord.records import Comparison, Text

SCORES = st.lists(st.floats(-1e6, 1e6, allow_subnormal=False).filter(bool), min_size=1, max_size=20)


def value(prompt: Text, completion: Text) -> float:
    return float(str(completion))


def pairs(n: int) -> list[Comparison]:
    """n pairs of numbers whose differences are spread over -1 ... 1, none of them 0."""
    return [
        Comparison(f"prompt {i}", str((i * 37 % 101) / 101), str((i * 53 + 50) % 101 / 101 + 1e-3)) for i in range(n)
    ]


def test_one_gap_has_its_temperature_in_closed_form() -> None:
    # sigmoid(2 / T) = .73  =>  T = 2 / log(.73 / .27) = 2.0109...
    assert temperature([2.0], 0.73) == pytest.approx(2 / log(0.73 / 0.27), rel=1e-12)


def test_two_gaps_by_hand() -> None:
    # With x = exp(-1/T), gaps 1 and 2 give 1/(1+x) + 1/(1+x^2) = 2 * .75. At x = 1/2 the sum is 2/3 + 4/5 = 22/15,
    # so agreement 11/15 is met at exactly T = 1 / log 2.
    assert temperature([1.0, -2.0, 0.0, float("nan")], 11 / 15) == pytest.approx(1 / log(2), rel=1e-12)


@given(SCORES, st.floats(0.501, 0.999))
def test_the_temperature_gives_the_agreement_asked_for(gaps: list[float], agreement: float) -> None:
    noise = temperature(gaps, agreement)
    assert sum(1 / (1 + exp(-min(abs(gap) / noise, 700))) for gap in gaps) / len(gaps) == pytest.approx(
        agreement, abs=1e-9
    )


def test_draws_agree_with_the_score_as_often_as_asked() -> None:
    comparisons = pairs(4000)
    verdicts = Simulated(value, agreement=0.73)(comparisons)
    agree = [
        (value("", pair.first) > value("", pair.second)) == (verdict.first_wins == 1.0)
        for pair, verdict in zip(comparisons, verdicts, strict=True)
    ]
    # The standard error of the share is at most sqrt(.73 * .27 / 4000) = .0070; four of them are .028.
    assert sum(agree) / len(agree) == pytest.approx(0.73, abs=0.028)
    assert {verdict.first_wins for verdict in verdicts} == {0.0, 1.0}


def test_a_verdict_does_not_depend_on_its_place_in_the_batch() -> None:
    comparisons = pairs(200)
    judge = Simulated(value, seed=3)
    assert judge(comparisons[::-1])[::-1] == judge(comparisons) == judge(comparisons)


def test_swapping_the_two_completions_swaps_the_verdict() -> None:
    comparisons = pairs(200)
    swapped = [Comparison(pair.prompt, pair.second, pair.first) for pair in comparisons]
    judge = Simulated(value)
    assert [1.0 - (verdict.first_wins or 0.0) for verdict in judge(swapped)] == [
        verdict.first_wins for verdict in judge(comparisons)
    ]


def test_another_seed_is_another_labeler() -> None:
    # Two labelers with expected agreement .73 each differ on about 2 * .73 * .27 = .39 of 400 pairs or fewer.
    first, second = (Simulated(value, seed=seed)(pairs(400)) for seed in (0, 1))
    assert 60 < sum(a != b for a, b in zip(first, second, strict=True)) < 200


def test_a_tied_pair_is_a_fair_coin() -> None:
    ties = [Comparison(f"prompt {i}", "1", "1.0") for i in range(1000)]
    verdicts = Simulated(value)([*ties, Comparison("", "1", "2")])[:1000]
    # The standard deviation of the count is sqrt(1000) / 2 = 15.8; four of them are 63.
    assert sum(verdict.first_wins or 0.0 for verdict in verdicts) == pytest.approx(500, abs=63)


def test_a_pair_without_a_finite_score_is_invalid_and_not_calibrated_on() -> None:
    verdicts = Simulated(value)([Comparison("", "nan", "1"), *pairs(50)])
    assert verdicts[0].first_wins is None
    assert verdicts[1:] == Simulated(value)(pairs(50))


def test_what_cannot_be_simulated_is_refused() -> None:
    with pytest.raises(InputError, match="ties every pair"):
        Simulated(value)([Comparison("", "1", "1.0")])
    for agreement in (0.5, 1.0, float("nan")):
        with pytest.raises(InputError, match=r"between \.5 and 1"):
            Simulated(value, agreement=agreement)


def test_no_comparisons_no_verdicts() -> None:
    assert Simulated(value)([]) == []


def test_the_ceiling_is_the_agreement() -> None:
    labels, known = Simulated(value, agreement=0.8)(pairs(2000)), ScoreJudge(value)(pairs(2000))
    agreed = [label == right for label, right in zip(labels, known, strict=True)]
    assert sum(agreed) / len(agreed) == pytest.approx(0.8, abs=0.04)
