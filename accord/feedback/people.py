"""People as judges, real or simulated, and the conversion of verdicts to preferences and rankings.

Real people's verdicts are looked up in a file (`Recorded`). Simulated people know a score, and contradict its order as
often as people disagree with each other (`Simulated`).
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import isfinite, log
from typing import ClassVar

import numpy as np
from scipy.special import expit

from accord.data.conventions import user_of
from accord.data.judgments import compared
from accord.errors import InputError
from accord.feedback.judge import invalid_gap, outcome, score_gaps
from accord.feedback.reward import unsampled
from accord.records import Comparison, Message, Preference, Ranking, Row, Text, Verdict, text_to_json


class Recorded:
    """A judge whose verdicts are rows: preferences (`chosen`, `rejected`), or rankings, where equal ranks are a tie.

    A pair is identified by its prompt and its two texts, in either order. Where several rows compare it, P(first wins)
    is the share that prefers the first; ties count half, uncertain preferences by their probability. A pair that no row
    compares has an invalid verdict, unless its texts are equal, which is a tie. A plain prompt equals a chat of that
    one user message, and a plain completion equals the assistant's message.

    Raises InputError where a row is not a comparison.
    """

    symmetric = True

    def __init__(self, rows: Iterable[Row], name: str = "the rows") -> None:
        self.name = name
        self.votes: dict[tuple[Text, str, str], list[float]] = defaultdict(list)
        for i, row in enumerate(rows):
            pairs = compared(row)
            if not pairs:
                raise InputError(
                    f"{name}, row {i + 1}: a verdict has the columns chosen and rejected, or completions and ranks."
                )
            prompt = _chat(row.prompt)
            for first, second, label in pairs:
                a, b = unsampled(prompt, first).text, unsampled(prompt, second).text
                self.votes[prompt, a, b].append(label)
                self.votes[prompt, b, a].append(1 - label)

    def __call__(self, comparisons: Sequence[Comparison]) -> list[Verdict]:
        return [self._verdict(comparison) for comparison in comparisons]

    def _verdict(self, pair: Comparison) -> Verdict:
        first, second = (unsampled(pair.prompt, text).text for text in (pair.first, pair.second))
        if first == second:
            return Verdict(0.5)
        votes = self.votes.get((_chat(pair.prompt), first, second))
        return Verdict(sum(votes) / len(votes)) if votes else Verdict(None, f"nobody compared this pair in {self.name}")


def _chat(prompt: Text) -> Text:
    return (Message("user", prompt),) if isinstance(prompt, str) else prompt


def require_agreement(agreement: float) -> None:
    """Raise InputError unless simulated labelers can agree with a score this often."""
    if not 0.5 < agreement < 1.0:
        raise InputError(f"the labelers' agreement must lie between .5 and 1, not {agreement}")


@dataclass(frozen=True, slots=True)
class Simulated:
    """A judge with Bradley-Terry noise: P(first is preferred) = sigmoid((s_1 - s_2) / temperature).

    On every call the temperature is set so that the expected agreement with the score's own order, over the pairs that
    it does not tie, equals `agreement`, the most that any judge can reach on them. A verdict is a draw, 0 or 1; a tied
    pair is a fair coin. The draw depends only on `seed` and the pair's texts, not on the batch, and swapping the two
    completions swaps the verdict. A pair whose scores are not finite gets an invalid verdict.

    `InputError` where `agreement` is not between .5 and 1, or the score ties every pair.
    """

    score: Callable[[Text, Text], float]
    agreement: float = 0.73
    seed: int = 0
    symmetric: ClassVar[bool] = True

    def __post_init__(self) -> None:
        require_agreement(self.agreement)

    def __call__(self, comparisons: Sequence[Comparison]) -> list[Verdict]:
        gaps = score_gaps(self.score, comparisons)
        if not gaps:
            return []
        noise = temperature(gaps, self.agreement)
        return [
            self._draw(comparison, gap / noise) if isfinite(gap) else invalid_gap(gap)
            for comparison, gap in zip(comparisons, gaps, strict=True)
        ]

    def _draw(self, comparison: Comparison, logit: float) -> Verdict:
        prompt, first, second = (
            json.dumps(text_to_json(text)) for text in (comparison.prompt, comparison.first, comparison.second)
        )
        low, high = sorted((first, second))
        digest = hashlib.sha256(json.dumps([self.seed, prompt, low, high]).encode()).digest()
        uniform = (int.from_bytes(digest[:8], "big") >> 11) / 2**53  # in [0, 1)
        low_wins = uniform < expit(logit if first == low else -logit)
        return Verdict(float(low_wins == (first == low)))


def temperature(gaps: Sequence[float], agreement: float) -> float:
    """The temperature T at which the mean of sigmoid(|gap| / T) over the finite non-zero gaps equals `agreement`.

    The mean falls from 1 to .5 as T grows. At T = min|gap| / logit(agreement) no term is below `agreement`, at
    T = max|gap| / logit(agreement) none is above, so the root lies between and bisection finds it.
    `InputError` where there is no such gap.
    """
    sizes = np.abs([gap for gap in gaps if gap and isfinite(gap)])
    if not sizes.size:
        raise InputError("the score ties every pair, so no labeler can agree with its order; compare other completions")
    logit = log(agreement / (1 - agreement))
    low, high = float(sizes.min()) / logit, float(sizes.max()) / logit
    while (middle := (low + high) / 2) not in (low, high):
        low, high = (middle, high) if expit(sizes / middle).mean() > agreement else (low, middle)
    return high


@dataclass(frozen=True, slots=True)
class Counts:
    """The numbers of verdicts left out of preferences."""

    ties: int
    invalid: int


def labeled(
    comparisons: Sequence[Comparison], verdicts: Sequence[Verdict], *, soft: bool = False
) -> tuple[list[Preference], Counts]:
    """The preferences that follow from verdicts, and the numbers of ties (exactly .5) and invalid verdicts (None).

    A verdict above .5 chooses the first completion, one below .5 the second. With `soft` preferences have the verdict's
    probability, and ties are preferences of probability .5; without it ties are left out.
    """
    outcomes = [_outcome(verdict) for verdict in verdicts]
    preferences = [
        Preference(
            c.prompt,
            *((c.first, c.second) if won else (c.second, c.first)),
            probability=max(p, 1 - p) if soft else 1.0,
            user=user_of(c.columns),
        )
        for c, won, p in zip(comparisons, outcomes, (v.first_wins for v in verdicts), strict=True)
        if p is not None and (soft or won != 0.5)
    ]
    return preferences, Counts(ties=outcomes.count(0.5), invalid=outcomes.count(None))


def to_ranking(
    comparisons: Sequence[Comparison], verdicts: Sequence[Verdict], *, transitive: bool = True
) -> Ranking | None:
    """The ranking of one prompt's K completions that agrees with the verdict on every pair, or None if there is none.

    A completion's score is its number of wins, ties half (Copeland). If any ranking agrees with all verdicts, ties
    included, it is the order of these scores. Verdicts that are not transitive agree with no ranking; unless
    `transitive`, the order of scores is returned for them too. An invalid verdict gives None.

    `InputError` unless the comparisons are of one prompt and hold each pair of its completions exactly once.
    """
    completions = _completions(comparisons)
    outcomes = [_outcome(verdict) for verdict in verdicts]
    known = [(c.first, c.second, o) for c, o in zip(comparisons, outcomes, strict=True) if o is not None]
    standing = dict.fromkeys(completions, 0.0)
    for first, second, won in known:
        standing[first] += won
        standing[second] += 1 - won
    order = sorted(set(standing.values()), reverse=True)
    rank = {completion: order.index(score) for completion, score in standing.items()}
    differs = any(outcome(rank[second] - rank[first]) != won for first, second, won in known)
    if None in outcomes or (differs and transitive):
        return None
    ranks = tuple(rank[completion] for completion in completions)
    return Ranking(comparisons[0].prompt, completions, ranks, user_of(comparisons[0].columns))


def _completions(comparisons: Sequence[Comparison]) -> tuple[Text, ...]:
    """The completions, in order of first appearance; raises InputError where one of their pairs is missing."""
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


def _outcome(verdict: Verdict) -> float | None:
    """1 where the first wins, 0 where the second does, .5 for a tie, None for an invalid verdict."""
    return None if verdict.first_wins is None else outcome(verdict.first_wins - 0.5)
