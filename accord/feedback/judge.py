"""The two seams of feedback: a judge says which of two completions is better, a reward says how good one is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Protocol

import torch

from accord.errors import InputError
from accord.records import Comparison, Sample, Text, Verdict, show


class Judge(Protocol):
    """Anything that compares: people, an AI judge, a verifier, a simulated labeller."""

    def __call__(self, comparisons: Sequence[Comparison]) -> list[Verdict]:
        """One verdict per comparison, in order: P(first is better), .5 for a tie, None where there is no answer."""
        ...


class Reward(Protocol):
    """Anything that scores: a learned reward model, a Python function, a served model."""

    def __call__(self, samples: Sequence[Sample]) -> torch.Tensor:
        """One finite float32 score per sample, (C,), in order; higher is better."""
        ...


@dataclass(frozen=True, slots=True)
class ScoreJudge:
    """A judge that always prefers the higher `score(prompt, completion)`, and calls equal scores a tie.

    A score that is not finite makes the verdict invalid.
    """

    score: Callable[[Text, Text], float]

    def __call__(self, comparisons: Sequence[Comparison]) -> list[Verdict]:
        """1 where the first scores higher, 0 where the second does, .5 where neither."""
        return [self._verdict(comparison) for comparison in comparisons]

    def _verdict(self, comparison: Comparison) -> Verdict:
        gap = score_gap(self.score, comparison)
        return invalid_gap(gap) if not isfinite(gap) else Verdict(0.5 + 0.5 * ((gap > 0) - (gap < 0)))


def score_gap(score: Callable[[Text, Text], float], comparison: Comparison) -> float:
    """score(first) - score(second)."""
    return score(comparison.prompt, comparison.first) - score(comparison.prompt, comparison.second)


def invalid_gap(gap: float) -> Verdict:
    """The verdict on a pair whose scores cannot be compared."""
    return Verdict(None, f"the difference of the two scores is {gap}")


@dataclass(frozen=True, slots=True)
class FunctionReward:
    """A reward from a Python function of the prompt and the completion's text.

    Raises `InputError`, naming the sample, where the function does not return a finite number.
    """

    function: Callable[[Text, str], float]

    def __call__(self, samples: Sequence[Sample]) -> torch.Tensor:
        """function(prompt, text) per sample, (C,) float32."""
        return torch.tensor([self._score(i, sample) for i, sample in enumerate(samples)], dtype=torch.float32)

    def _score(self, i: int, sample: Sample) -> float:
        value = self.function(sample.prompt.prompt, sample.text)
        if not isinstance(value, (int, float)) or not isfinite(value):
            raise InputError(
                f"the reward function returned {value!r} for sample {i + 1} of the batch "
                f"(prompt {_excerpt(show(sample.prompt.prompt))}, completion {_excerpt(sample.text)}); "
                "let it return a finite number"
            )
        return float(value)


def _excerpt(text: str, length: int = 60) -> str:
    return repr(text if len(text) <= length else text[: length - 3] + "...")
