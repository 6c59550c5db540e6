"""What each filter rejects, and that nothing accepted is too like another."""

from __future__ import annotations

from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from accord.synthesis.filters import Pool, settle
from accord.synthesis.tasks import Candidate, Instance, Task
from tests.synthesis.rouge import by_package

POOL = ["Tell me a story about the old sea", "Name the capital of a country"]


@pytest.mark.parametrize(
    ("instruction", "filter_"),
    [
        ("Sort these words", "length"),
        ("Sort these words now", ""),
        ("word " * 151, "length"),
        ("Describe the picture in words", "keyword"),
        ("Picture this in four words", "keyword"),
        ("Depict your imagery with words", ""),  # of whole words alone
        ("Please go to the next shop", "keyword"),
        ("Save it in a FILE please", "keyword"),
        ('"Sort" the words of a text', "beginning"),
        ("3 words that rhyme with sea", "beginning"),
        ("Écris une phrase à propos du temps", "beginning"),
        ("name the capital of a country!", "duplicate"),
        ("Name the old capital of a country", "similar"),  # 6 of 7 and 6 words: F = 2 * 6 / 13 = .92
        ("Count the letters in each word", ""),
    ],
)
def test_instructions(instruction: str, filter_: str) -> None:
    candidate = Candidate(instruction)
    passed = Pool([Task(text) for text in POOL]).screen([candidate])
    assert (candidate.rejected, passed) == (filter_, [] if filter_ else [candidate])


def test_one_is_compared_with_those_of_its_round_and_marked_ones_are_passed_over() -> None:
    candidates = [
        Candidate("Count the letters in each word", rejected="copied"),
        Candidate("Count the letters in each word"),
        Candidate("Count all letters in each word"),
        Candidate("Count the letters in each word"),
    ]
    passed = Pool([]).screen(candidates)
    assert passed == [candidates[1]]
    assert [c.rejected for c in candidates] == ["copied", "", "similar", "duplicate"]
    assert candidates[2].nearest == by_package(candidates[1].instruction, candidates[2].instruction)


@given(
    st.lists(st.lists(st.sampled_from("abcde"), min_size=4, max_size=9).map(" ".join), max_size=30), st.floats(0.3, 0.9)
)
def test_no_two_that_pass_are_as_alike_as_that(texts: list[str], similar: float) -> None:
    passed = Pool([Task(texts[0])] if texts else [], similar).screen([Candidate(text) for text in texts])
    every = [*texts[:1], *(candidate.instruction for candidate in passed)]
    assert all(by_package(a, b) < similar for a, b in combinations(every, 2))


@pytest.mark.parametrize(
    ("given_", "kept", "dropped"),
    [
        ([("a", "b")], [("a", "b")], []),
        ([], [], []),
        ([("a", " ")], [], ["empty"]),
        ([("a", "None")], [], ["empty"]),
        ([("a", "These are:")], [], ["unfinished"]),
        ([("Words:", "a")], [], ["unfinished"]),
        ([("The sea", "the sea.")], [], ["echo"]),
        ([("", "Do this for me!")], [], ["echo"]),  # it says the instruction again
        ([("a", "Sorry, I cannot.")], [], ["refusal"]),
        ([("a", "I am sorry to say no")], [], ["refusal"]),
        ([("a", "He was sorry.")], [("a", "He was sorry.")], []),
        ([("a", "...")], [], ["refusal"]),
        ([("a", "b"), ("a", "c"), ("d", "e")], [("d", "e")], ["contradictory", "contradictory"]),
        ([("a", "b"), ("a", "b")], [("a", "b")], ["repeated"]),
        ([("", "b"), ("", "c")], [], ["contradictory", "contradictory"]),
    ],
)
def test_instances(given_: list[tuple[str, str]], kept: list[tuple[str, str]], dropped: list[str]) -> None:
    candidate = Candidate("Do this for me", instances=[Instance(*pair) for pair in given_])
    settle(candidate)
    assert candidate.instances == [Instance(*pair) for pair in kept]
    assert [name for name, _ in candidate.dropped] == dropped
    assert candidate.rejected == ("" if kept else dropped[0] if dropped else "no instance")
