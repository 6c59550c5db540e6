"""People as judges, and what their verdicts amount to as preferences and rankings.

Real people's verdicts were given before, in a file, and are looked up (`Recorded`). Simulated ones know a score, and
disagree with its order as often as people disagree with each other (`Simulated`).
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations, permutations
from math import exp, isfinite, log
from pathlib import Path
from typing import ClassVar

from accord.data.judgments import ranked_completions
from accord.data.load import load_data
from accord.data.readers import format_of
from accord.errors import InputError
from accord.feedback.judge import invalid_gap, score_gap
from accord.feedback.reward import unsampled
from accord.records import Comparison, Message, Preference, Ranking, Row, Sample, Text, Verdict, text_to_json


class Recorded:
    """A judge whose verdicts are rows: preferences (`chosen`, `rejected`), or rankings, where equal ranks are a tie.

    A pair is known by its prompt and its two texts, in either order. Where several rows compare it, P(first wins) is
    the share of them that prefer the first, ties half. A pair that no row compares has an invalid verdict, unless its
    texts are the same, which is a tie. A plain prompt and a chat of that one user message are the same; so are a plain
    completion and the assistant's message.

    Raises InputError where a row is no comparison.
    """

    symmetric = True

    def __init__(self, rows: Iterable[Row], name: str = "the rows") -> None:
        self.name = name
        self.votes: dict[tuple[Text, str, str], list[float]] = defaultdict(list)
        for i, row in enumerate(rows):
            ranked = ranked_completions(row)
            if ranked is None:
                raise InputError(
                    f"{name}, row {i + 1}: a verdict has the columns chosen and rejected, or completions and ranks."
                )
            prompt = _chat(row.prompt)
            texts = [(unsampled(prompt, completion).text, rank) for completion, rank in ranked]
            for (a, rank), (b, other) in permutations(texts, 2):
                self.votes[prompt, a, b].append(0.5 + 0.5 * _compare(other, rank))

    def __call__(self, comparisons: Sequence[Comparison]) -> list[Verdict]:
        """One verdict per comparison."""
        return [
            self._verdict(c.prompt, unsampled(c.prompt, c.first).text, unsampled(c.prompt, c.second).text)
            for c in comparisons
        ]

    def samples(self, first: Sequence[Sample], second: Sequence[Sample]) -> list[Verdict]:
        """One verdict per pair of samples of one prompt."""
        return [self._verdict(a.prompt.prompt, a.text, b.text) for a, b in zip(first, second, strict=True)]

    def _verdict(self, prompt: Text, first: str, second: str) -> Verdict:
        if first == second:
            return Verdict(0.5)
        votes = self.votes.get((_chat(prompt), first, second))
        return Verdict(sum(votes) / len(votes)) if votes else Verdict(None, f"nobody compared this pair in {self.name}")


def people_named(name: str) -> Recorded | None:
    """The people whose verdicts a file of rows holds; None where the name is no file of rows.

    Raises:
        InputError: there is no such file, or it holds no comparisons.
    """
    return Recorded(load_data(name), name) if format_of(Path(name)) is not None else None


def _chat(prompt: Text) -> Text:
    return (Message("user", prompt),) if isinstance(prompt, str) else prompt


@dataclass(frozen=True, slots=True)
class Simulated:
    """A judge with Bradley-Terry noise: P(first is preferred) = sigmoid((s_1 - s_2) / temperature).

    On every call the temperature is the one at which the expected agreement with the score's own order, over the pairs
    it does not tie, is `agreement` (`temperature`). A verdict is a draw, 0 or 1; a tied pair is a fair coin. The draw
    depends on `seed` and on the texts of the pair alone: not on the batch, and swapping the two
    completions swaps the verdict. A pair whose scores are not finite gets an invalid verdict.

    `InputError` where `agreement` is not between .5 and 1, or the score ties every pair.
    """

    score: Callable[[Text, Text], float]
    agreement: float = 0.73
    seed: int = 0
    symmetric: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not 0.5 < self.agreement < 1.0:
            raise InputError(f"the labelers' agreement must lie between .5 and 1, not {self.agreement}")

    @property
    def ceiling(self) -> float:
        """The accuracy that a judge who knew the score would reach on untied pairs labeled so: the agreement."""
        return self.agreement

    def __call__(self, comparisons: Sequence[Comparison]) -> list[Verdict]:
        """One draw per comparison, 0 or 1."""
        gaps = [score_gap(self.score, comparison) for comparison in comparisons]
        if not gaps:
            return []
        noise = temperature(gaps, self.agreement)
        return [
            self._draw(comparison, gap / noise) if isfinite(gap) else invalid_gap(gap)
            for comparison, gap in zip(comparisons, gaps, strict=True)
        ]

    def _draw(self, comparison: Comparison, logit: float) -> Verdict:
        first, second = _key(comparison.first), _key(comparison.second)
        low, high = sorted((first, second))
        low_wins = _uniform(self.seed, _key(comparison.prompt), low, high) < _sigmoid(logit if first == low else -logit)
        return Verdict(float(low_wins == (first == low)))


def temperature(gaps: Sequence[float], agreement: float) -> float:
    """The temperature T at which the mean of sigmoid(|gap| / T) over the finite non-zero gaps equals `agreement`.

    The mean falls from 1 to .5 as T grows. At T = min|gap| / logit(agreement) no term is below `agreement`, at
    T = max|gap| / logit(agreement) none is above, so the root lies between and bisection finds it.
    `InputError` where there is no such gap.
    """
    sizes = [abs(gap) for gap in gaps if gap and isfinite(gap)]
    if not sizes:
        raise InputError("the score ties every pair, so no labeler can agree with its order; compare other completions")
    logit = log(agreement / (1 - agreement))
    low, high = min(sizes) / logit, max(sizes) / logit
    while (middle := (low + high) / 2) not in (low, high):
        expected = sum(_sigmoid(size / middle) for size in sizes) / len(sizes)
        low, high = (middle, high) if expected > agreement else (low, middle)
    return high


def _sigmoid(x: float) -> float:
    return 1 / (1 + exp(-x)) if x >= 0 else exp(x) / (1 + exp(x))


def _key(text: Text) -> str:
    return json.dumps(text_to_json(text))


def _uniform(seed: int, *texts: str) -> float:
    """A number in [0, 1) that depends on the seed and the texts alone."""
    digest = hashlib.sha256(json.dumps([seed, *texts]).encode()).digest()
    return (int.from_bytes(digest[:8], "big") >> 11) / 2**53


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


def labeled(comparisons: Sequence[Comparison], verdicts: Sequence[Verdict]) -> tuple[list[Preference], Counts]:
    """The preferences that verdicts amount to, and how many verdicts were ties (exactly .5) or invalid (None).

    A verdict above .5 chooses the first completion, one below .5 the second.
    """
    preferences, ties, invalid = [], 0, 0
    for comparison, verdict in zip(comparisons, verdicts, strict=True):
        match _sign(verdict):
            case None:
                invalid += 1
            case 0:
                ties += 1
            case 1:
                preferences.append(Preference(comparison.prompt, comparison.first, comparison.second))
            case _:
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
    completions = tuple(dict.fromkeys(text for pair in comparisons for text in (pair.first, pair.second)))
    pairs = {frozenset((pair.first, pair.second)) for pair in comparisons}
    expected = set(map(frozenset, combinations(completions, 2)))
    if pairs != expected or len(comparisons) != len(expected):
        raise InputError(
            f"a ranking of {len(completions)} completions needs each of their {len(expected)} pairs compared once, "
            f"but {len(comparisons)} comparisons hold {len(pairs & expected)} of them"
        )
    return completions


def _sign(verdict: Verdict) -> int | None:
    """1 where the first wins, -1 where the second does, 0 for a tie, None for an invalid verdict."""
    return None if verdict.first_wins is None else _compare(verdict.first_wins, 0.5)


def _compare(a: float, b: float) -> int:
    return (a > b) - (a < b)
