"""Rankings and verdicts become preferences; verdicts become a ranking where people were transitive."""

from __future__ import annotations

import gzip
import json
import random
from itertools import combinations
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from accord.data.judgments import to_pairs
from accord.errors import InputError
from accord.feedback.people import Counts, labeled, to_ranking
from accord.records import Comparison, Preference, Ranking, Verdict

PEOPLE = Path(__file__).parents[2].parent / "shared" / "data" / "finegrained_rankings.json.gz"


def compare(completions: str) -> list[Comparison]:
    """Every pair of one-letter completions, in order."""
    return [Comparison("p", a, b) for a, b in combinations(completions, 2)]


def verdicts(*values: float | None) -> list[Verdict]:
    return [Verdict(value) for value in values]


def test_a_ranking_gives_its_strict_pairs() -> None:
    # b is best, a and c tie: b > a and b > c, and nothing between a and c.
    assert to_pairs(Ranking("p", ("a", "b", "c"), (1, 0, 1))) == [Preference("p", "b", "a"), Preference("p", "b", "c")]


@given(st.permutations(range(5)))
def test_a_ranking_without_ties_gives_every_pair(ranks: list[int]) -> None:
    pairs = to_pairs(Ranking("p", tuple("abcde"), tuple(ranks)))
    assert len(pairs) == 10
    rank = dict(zip("abcde", ranks, strict=True))
    assert all(rank[str(pair.chosen)] < rank[str(pair.rejected)] for pair in pairs)


def test_verdicts_become_preferences_and_the_rest_is_counted() -> None:
    comparisons = [Comparison("p", "a", "b")] * 5
    preferences, counts = labeled(comparisons, verdicts(1.0, 0.0, 0.5, None, 0.51))
    assert preferences == [Preference("p", "a", "b"), Preference("p", "b", "a"), Preference("p", "a", "b")]
    assert counts == Counts(ties=1, invalid=1)


def test_a_verdict_for_each_comparison() -> None:
    with pytest.raises(ValueError):
        labeled(compare("ab"), [])


def test_transitive_verdicts_are_a_ranking() -> None:
    # a = b, a > c, b > c: a and b share rank 0.
    assert to_ranking(compare("abc"), verdicts(0.5, 1.0, 0.8)) == Ranking("p", ("a", "b", "c"), (0, 0, 1))


@pytest.mark.parametrize(
    "values",
    [
        (1.0, 0.0, 1.0),  # a > b, c > a, b > c: a cycle
        (0.5, 1.0, 0.5),  # a = b, b = c, and yet a > c
        (1.0, None, 1.0),  # a > b > c, but nobody said how a and c compare
    ],
)
def test_verdicts_that_are_no_ranking(values: tuple[float | None, ...]) -> None:
    assert to_ranking(compare("abc"), verdicts(*values)) is None


@given(st.lists(st.integers(0, 3), min_size=2, max_size=6), st.randoms(use_true_random=False))
def test_any_ranking_is_found_again_from_its_verdicts(levels: list[int], rng: random.Random) -> None:
    dense = tuple(sorted(set(levels)).index(level) for level in levels)
    names = tuple("abcdef"[: len(levels)])
    rank = dict(zip(names, dense, strict=True))
    comparisons = [
        pair if rng.random() < 0.5 else Comparison("p", pair.second, pair.first) for pair in compare("".join(names))
    ]
    rng.shuffle(comparisons)
    said = [
        Verdict(0.5 + 0.5 * ((rank[b] > rank[a]) - (rank[b] < rank[a])))
        for a, b in ((str(c.first), str(c.second)) for c in comparisons)
    ]
    found = to_ranking(comparisons, said)
    assert found is not None
    assert dict(zip(found.completions, found.ranks, strict=True)) == rank


@pytest.mark.parametrize(
    ("comparisons", "message"),
    [
        (compare("abc")[:2], "3 completions needs each of their 3 pairs compared once, but 2 comparisons hold 2"),
        ([*compare("ab"), Comparison("p", "b", "a")], "2 comparisons hold 1"),
        ([Comparison("p", "a", "a")], "1 comparisons hold 0"),
        ([Comparison("p", "a", "b"), Comparison("q", "a", "b")], "one prompt"),
        ([], "one prompt"),
    ],
)
def test_comparisons_that_are_no_round_robin_are_refused(comparisons: list[Comparison], message: str) -> None:
    with pytest.raises(InputError, match=message):
        to_ranking(comparisons, verdicts(*[1.0] * len(comparisons)))


@pytest.mark.skipif(not PEOPLE.exists(), reason=f"{PEOPLE} is not here")
def test_people_are_not_always_transitive() -> None:
    # The data set's own description: 500 rows of 6 verdicts, 2,616 strict and 384 ties; 22 rows are no ranking.
    strict = ties = not_a_ranking = 0
    said = {1: 1.0, 2: 0.0, 0: 0.5}
    for row in json.loads(gzip.decompress(PEOPLE.read_bytes())):
        answers = [row[f"prediction {k}"] for k in (1, 2, 3, 4)]
        comparisons = [Comparison(row["question"], a, b) for a, b in combinations(answers, 2)]
        given_verdicts = verdicts(*(said[value] for value in row["preference"]))
        preferences, counts = labeled(comparisons, given_verdicts)
        strict, ties = strict + len(preferences), ties + counts.ties
        ranking = to_ranking(comparisons, given_verdicts)
        not_a_ranking += ranking is None
        if ranking is not None:
            assert {(p.chosen, p.rejected) for p in to_pairs(ranking)} == {(p.chosen, p.rejected) for p in preferences}
    assert (strict, ties, not_a_ranking) == (2616, 384, 22)
