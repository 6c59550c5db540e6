"""ROUGE-L is that of rouge-score, to the last bit."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from accord.synthesis.similarity import ComparedText, f_measure, words
from tests.synthesis.rouge import by_package

PIECES = ["a", "the", "The", "cat", "sat", "naïve", "x2", "don't", "Straße", "İ", "K", "—", ".", "\n", "_", "日本", ""]
TEXTS = st.lists(st.sampled_from(PIECES), max_size=40).map(" ".join) | st.text(max_size=30)


@given(TEXTS, TEXTS)
def test_it_is_what_the_package_computes(first: str, second: str) -> None:
    assert ComparedText(first).rouge(words(second)) == by_package(first, second)


@given(TEXTS, st.lists(TEXTS, max_size=6))
def test_the_nearest_is_the_highest_of_all(text: str, others: list[str]) -> None:
    found = ComparedText(text).nearest(map(words, others))
    assert found == max((by_package(text, other) for other in others), default=0.0)


def test_by_hand() -> None:
    # The common subsequence of "the cat sat on the mat" (6) and "the dog sat on a mat" (6) is "the sat on mat": 4 / 6.
    compared = ComparedText("The cat sat on the mat.")
    assert compared.common(words("the dog sat on a mat")) == 4
    assert compared.rouge(words("the dog sat on a mat")) == pytest.approx(4 / 6)
    # P = 2/3, R = 2/5, F = 2 * (4/15) / (16/15) = 1/2.
    assert f_measure(2, 3, 5) == pytest.approx(0.5)
    assert f_measure(0, 3, 0) == 0


def test_words_across_the_bits_of_a_machine_word() -> None:
    long = " ".join(f"w{i}" for i in range(200))
    every_other = " ".join(f"w{i}" for i in range(0, 200, 2))
    assert ComparedText(long).common(words(every_other)) == 100
    assert ComparedText(every_other).common(words(long)) == 100
