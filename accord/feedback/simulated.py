"""Simulated labellers: they know a score, and disagree with its order as often as people disagree with each other."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import exp, isfinite, log
from typing import ClassVar

from accord.errors import InputError
from accord.feedback.judge import invalid_gap, score_gap
from accord.records import Comparison, Text, Verdict, text_to_json


@dataclass(frozen=True, slots=True)
class Simulated:
    """A judge with Bradley-Terry noise: P(first is preferred) = sigmoid((s_1 - s_2) / temperature).

    On every call the temperature is the one at which the expected agreement with the score's own order, over the pairs
    it does not tie, is `agreement` (`temperature`). A verdict is a draw, 0 or 1; a tied pair is a fair coin. The draw
    depends on `seed` and on the texts of the pair alone: not on its place in the batch, and swapping the two
    completions swaps the verdict. A pair whose scores are not finite gets an invalid verdict.

    `InputError` where `agreement` is not between .5 and 1, or the score ties every pair.
    """

    score: Callable[[Text, Text], float]
    agreement: float = 0.73
    seed: int = 0
    symmetric: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not 0.5 < self.agreement < 1.0:
            raise InputError(f"the labellers' agreement must lie between .5 and 1, not {self.agreement}")

    @property
    def ceiling(self) -> float:
        """The accuracy that a judge who knew the score would reach on untied pairs labelled so: the agreement."""
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
        raise InputError(
            "the score ties every pair, so no labeller can agree with its order; compare other completions"
        )
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
