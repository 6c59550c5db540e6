"""How often a model's samples are right: one of them, any of k, and what most of them say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import comb

from accord.evaluate.statistics import Interval, mean_of
from accord.feedback.verifiers import leaders


@dataclass(frozen=True)
class Passes:
    """Means over prompts with their 95% intervals: pass@k by k, and the majority's where answers are known."""

    at: dict[int, Interval]
    majority: Interval | None


def pass_at_k(n: int, right: int, k: int) -> float:
    """The unbiased estimate, from n samples of which so many are right, of the chance that one of k is right.

    1 - C(n - right, k) / C(n, k)    (Chen et al. 2021, arXiv:2107.03374, equation 1)

    Raises:
        ValueError: more are right than there are samples, or k is not between 1 and n.
    """
    if not 0 <= right <= n or not 1 <= k <= n:
        raise ValueError(f"pass@{k} of {right} right samples among {n} has no meaning")
    return 1 - comb(n - right, k) / comb(n, k)


def majority_is_right(answers: Sequence[str | None], right: Sequence[bool]) -> float:
    """Whether the answer of most of one prompt's samples is right, 1 or 0; of several that lead, the share that are.

    That share is the chance of whoever draws one of the leaders by lot. Where no sample has an answer it is 0.

    Args:
        answers: what each sample answers, None where it does not.
        right: whether each is right, which samples of one answer are alike.
    """
    verdict = dict(zip(answers, right, strict=True))
    ahead, _ = leaders(answers)
    return sum(verdict[answer] for answer in ahead) / max(1, len(ahead))


def passes(right: Sequence[Sequence[bool]], answers: Sequence[Sequence[str | None]] | None = None) -> Passes:
    """pass@k for k = 1, 2, 4, ... and n, and the majority's correctness, over prompts with n samples each.

    Args:
        right: for each prompt whether each of its samples is right.
        answers: for each prompt what each of its samples answers, where that can be told.
    """
    n = len(right[0])
    ks = sorted({n, *(2**i for i in range(n.bit_length()))})
    at = {k: mean_of([pass_at_k(n, sum(row), k) for row in right]) for k in ks if k <= n}
    if answers is None:
        return Passes(at, None)
    return Passes(at, mean_of([majority_is_right(a, r) for a, r in zip(answers, right, strict=True)]))
