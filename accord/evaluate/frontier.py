"""What a method earns for the distance it goes: a judge's mean score against the divergence from the reference.

A point on the frontier is a finished model; a family is one method over its coefficient. Best of n needs no training
and is the line that training should beat: its divergence from the model it draws from is log n - (n - 1) / n at most.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from accord.evaluate import best_of_n
from accord.evaluate.gao import Array
from accord.evaluate.statistics import Interval, as_json, bootstrap_mean
from accord.objectives.selection import best_of_n_kl_bound

FEW = 20
"""Fewer prompts than this give intervals that mean little."""


@dataclass(frozen=True)
class Point:
    """A model: its name, the coefficient it was trained with where it is known, its divergence and its score."""

    name: str
    coefficient: float | None
    kl: Interval
    score: Interval

    def as_json(self) -> dict[str, Any]:
        """The point as an object."""
        intervals = {"kl": as_json(self.kl), "score": as_json(self.score)}
        return {"name": self.name, "coefficient": self.coefficient, **intervals}


def family(points: Sequence[Point]) -> list[Point]:
    """The points of one method, the nearest to the reference first."""
    return sorted(points, key=lambda point: point.kl.estimate)


def best_of_n_points(proxy: Array, score: Array) -> list[dict[str, Any]]:
    """The best of 1, 2, 3, 4, 6, ... N by the proxy, from N samples of P prompts, (P, N) each.

    `kl` takes off the bound what ties among the samples take off it; `kl_bound` does not.
    """
    return [
        {
            "n": n,
            "kl_bound": best_of_n_kl_bound(n),
            "kl": as_json(bootstrap_mean(best_of_n.divergence(proxy, n))),
            "score": as_json(bootstrap_mean((best_of_n.selection(proxy, n) * score).sum(-1))),
        }
        for n in best_of_n.sizes(proxy.shape[1])
    ]


def warnings(prompts: int) -> list[str]:
    """What to beware of."""
    return [f"{prompts} prompts are few: the intervals mean little below {FEW}"] if prompts < FEW else []
