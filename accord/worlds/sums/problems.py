"""Which sums are demonstrated, practised and held out, drawn from a seed.

A sum of d digits adds two numbers of d digits each. One sum in five is held out, whichever of its numbers comes first.
"""

from __future__ import annotations

import hashlib
import random
from typing import Any

from accord.records import Prompt
from accord.worlds.sums.scratchpad import Sum, hinted

DEMONSTRATED = {1: 0.25, 2: 0.55, 3: 0.15, 4: 0.05}
"""The share of the demonstrations that have so many digits."""

PRACTISED = {1: 0.03, 2: 0.32, 3: 0.35, 4: 0.30}
"""The share of the problems to train on that have so many digits; of 1 digit there are only 77."""

HINTED = 0.5
"""The share of the demonstrations that come with the answer as a hint, at every length."""


def demonstrations(seed: int, n: int) -> list[dict[str, Any]]:
    """`n` rows of prompt, completion, answer and digits: mostly short sums, half of them with a hint."""
    rng = random.Random(f"demonstrations {seed}")
    rows = []
    for digits in rng.choices(*zip(*DEMONSTRATED.items(), strict=True), k=n):
        problem = draw(rng, digits, held_out=False)
        prompt = hinted(problem.prompt, problem.answer) if rng.random() < HINTED else problem.prompt
        rows.append({"prompt": prompt, "completion": problem.scratchpad, "answer": problem.answer, "digits": digits})
    return rows


def problems(seed: int, n: int) -> list[Prompt]:
    """`n` different problems of 1 to 4 digits to train on, in random order, none of which is ever in `heldout`."""
    rng = random.Random(f"problems {seed}")
    drawn = [
        problem for digits, share in PRACTISED.items() for problem in _different(rng, digits, round(n * share), False)
    ]
    rng.shuffle(drawn)
    return [_asked(problem) for problem in drawn]


def heldout(seed: int, digits: int, n: int) -> list[Prompt]:
    """`n` different problems of so many digits to evaluate on, which no other rows hold."""
    return [_asked(problem) for problem in _different(random.Random(f"held out {seed}"), digits, n, True)]


def draw(rng: random.Random, digits: int, *, held_out: bool) -> Sum:
    """A sum of two numbers of so many digits, of those held out or of the others."""
    smallest = 10 ** (digits - 1) if digits > 1 else 0
    while True:
        problem = Sum(rng.randrange(smallest, 10**digits), rng.randrange(smallest, 10**digits))
        if is_held_out(problem) == held_out:
            return problem


def is_held_out(problem: Sum) -> bool:
    """One sum in five, by a digest of its numbers, so the split never moves; 58+27 goes where 27+58 does."""
    small, large = sorted((problem.first, problem.second))
    return hashlib.sha256(f"{small}+{large}".encode()).digest()[0] % 5 == 0


def _different(rng: random.Random, digits: int, n: int, held_out: bool) -> list[Sum]:
    drawn: dict[Sum, None] = {}
    for _ in range(100 * n):
        drawn[draw(rng, digits, held_out=held_out)] = None
        if len(drawn) == n:
            return list(drawn)
    raise ValueError(f"there are only {len(drawn)} different sums of {digits} digits to draw, not {n}")


def _asked(problem: Sum) -> Prompt:
    return Prompt(problem.prompt, {"answer": problem.answer, "digits": problem.digits})
