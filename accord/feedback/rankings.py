"""From verdicts and rankings to the preferences that models are trained on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

from accord.errors import InputError
from accord.records import Comparison, Preference, Ranking, Text, Verdict


@dataclass(frozen=True, slots=True)
class Counts:
    """What was left out when verdicts became preferences."""

    ties: int
    invalid: int


def to_pairs(ranking: Ranking) -> list[Preference]:
    """Every pair of completions with different ranks, the better one chosen; ties give no pair.

    K completions without ties give K(K-1)/2 pairs, in the order of the completions.
    """
    ranked = list(zip(ranking.completions, ranking.ranks, strict=True))
    return [
        Preference(ranking.prompt, a, b) if rank_a < rank_b else Preference(ranking.prompt, b, a)
        for (a, rank_a), (b, rank_b) in combinations(ranked, 2)
        if rank_a != rank_b
    ]


def labelled(comparisons: Sequence[Comparison], verdicts: Sequence[Verdict]) -> tuple[list[Preference], Counts]:
    """The preferences that verdicts amount to, and how many verdicts were ties (exactly .5) or invalid (None).

    A verdict above .5 chooses the first completion, one below .5 the second.
    """
    preferences, ties, invalid = [], 0, 0
    for comparison, verdict in zip(comparisons, verdicts, strict=True):
        sign = _sign(verdict)
        if sign is None:
            invalid += 1
        elif sign == 0:
            ties += 1
        elif sign > 0:
            preferences.append(Preference(comparison.prompt, comparison.first, comparison.second))
        else:
            preferences.append(Preference(comparison.prompt, comparison.second, comparison.first))
    return preferences, Counts(ties, invalid)


def to_ranking(comparisons: Sequence[Comparison], verdicts: Sequence[Verdict]) -> Ranking | None:
    """The ranking of one prompt's K completions that agrees with the verdict on every pair, or None if there is none.

    A completion's standing is its wins minus its losses (Copeland's score). If any ranking agrees with all verdicts,
    ties included, the order of standings is it; people are not always transitive, and then it agrees with none. An
    invalid verdict leaves the order open, so it gives None too.

    `InputError` unless the comparisons are of one prompt and hold each pair of its completions exactly once.
    """
    completions = _completions(comparisons)
    signs = [_sign(verdict) for verdict in verdicts]
    known = [
        (comparison.first, comparison.second, sign)
        for comparison, sign in zip(comparisons, signs, strict=True)
        if sign is not None
    ]
    standing = dict.fromkeys(completions, 0)
    for first, second, sign in known:
        standing[first] += sign
        standing[second] -= sign
    order = sorted(set(standing.values()), reverse=True)
    rank = {completion: order.index(score) for completion, score in standing.items()}
    agrees = all(sign == _compare(rank[second], rank[first]) for first, second, sign in known)
    if not agrees or len(known) < len(comparisons):
        return None
    return Ranking(comparisons[0].prompt, completions, tuple(rank[completion] for completion in completions))


def _completions(comparisons: Sequence[Comparison]) -> tuple[Text, ...]:
    """The completions compared, in order of first appearance, after checking that all their pairs are there."""
    if len({comparison.prompt for comparison in comparisons}) != 1:
        raise InputError("a ranking needs comparisons of exactly one prompt; group the comparisons by prompt first")
    found = tuple(dict.fromkeys(text for pair in comparisons for text in (pair.first, pair.second)))
    pairs = {frozenset((pair.first, pair.second)) for pair in comparisons}
    expected = set(map(frozenset, combinations(found, 2)))
    if pairs != expected or len(comparisons) != len(expected):
        raise InputError(
            f"a ranking of {len(found)} completions needs each of their {len(expected)} pairs compared once, "
            f"but {len(comparisons)} comparisons hold {len(pairs & expected)} of them"
        )
    return found


def _sign(verdict: Verdict) -> int | None:
    """1 where the first wins, -1 where the second does, 0 for a tie, None for an invalid verdict."""
    return None if verdict.first_wins is None else _compare(verdict.first_wins, 0.5)


def _compare(a: float, b: float) -> int:
    return (a > b) - (a < b)
