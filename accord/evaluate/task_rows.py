"""Aggregation of task scores: of a task over its rows, of a cluster over its tasks, and over clusters.

Differences between two models are paired by row. Scores are also given above chance:

    normalized = (score - chance) / (1 - chance)

which is 0 for random answers and 1 where all are right, for any task (Srivastava et al. 2022, arXiv:2206.04615, section
3.1, with chance as the low score and 1 as the high one).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import sqrt
from typing import TypeAlias

from accord.evaluate.statistics import bootstrap_mean, mean_of
from accord.results.intervals import Interval
from accord.results.tasks import AverageRow, ClusterRow, TaskRow

Scores: TypeAlias = Mapping[str, Sequence[float]]
"""Each model's score of every row."""


def mean_of_intervals(parts: Sequence[Interval]) -> Interval:
    """The mean over tasks, or over clusters, with the interval propagated from theirs (Zou and Donner 2008).

    With k tasks of estimates m_i in [l_i, u_i] and m their mean:

        low = m - sqrt(sum (m_i - l_i)^2) / k        high = m + sqrt(sum (u_i - m_i)^2) / k

    The interval is for the same tasks on other rows; it does not cover the choice of tasks.
    """
    k = len(parts)
    mean = sum(part.estimate for part in parts) / k
    below = sqrt(sum((part.estimate - part.low) ** 2 for part in parts)) / k
    above = sqrt(sum((part.high - part.estimate) ** 2 for part in parts)) / k
    return Interval(mean, mean - below, mean + above, sum(part.n for part in parts))


def above_chance(score: Interval, chance: float) -> Interval:
    """(score - chance) / (1 - chance), for the estimate and both ends."""
    return _scaled(score, chance, 1 - chance)


def _scaled(interval: Interval, origin: float, unit: float) -> Interval:
    estimate, low, high = ((end - origin) / unit for end in (interval.estimate, interval.low, interval.high))
    return Interval(estimate, low, high, interval.n)


def task_row(
    name: str,
    metric: str,
    templates: int,
    scores: Scores,
    chance: float | None,
    ended: Mapping[str, float | None] | None,
    readable: Mapping[str, float | None] | None = None,
) -> TaskRow:
    """A task in numbers: each model's score, and its gain over the first model; see the fields of `TaskRow`."""
    first, *others = scores
    gains = {m: [a - b for a, b in zip(scores[m], scores[first], strict=True)] for m in others}
    means = {model: mean_of(values) for model, values in scores.items()}
    gained = {model: bootstrap_mean(values) for model, values in gains.items()}
    return TaskRow(
        name=name,
        metric=metric,
        n=len(scores[first]),
        templates=templates,
        chance=chance,
        scores=means,
        gains=gained,
        normalized={} if chance is None else {m: above_chance(mean, chance) for m, mean in means.items()},
        normalized_gains={} if chance is None else {m: _scaled(gain, 0, 1 - chance) for m, gain in gained.items()},
        ended=None if ended is None else dict(ended),
        readable=None if readable is None else dict(readable),
    )


def cluster_row(name: str, held_out: bool, tasks: Sequence[TaskRow]) -> ClusterRow:
    """A cluster in numbers: its tasks, and the means over them of scores and of gains over the first model."""
    return ClusterRow(
        name=name,
        held_out=held_out,
        tasks=list(tasks),
        mean=_means([task.scores for task in tasks]),
        gains=_means([task.gains for task in tasks]),
        normalized=_means([task.normalized for task in tasks]),
        normalized_gains=_means([task.normalized_gains for task in tasks]),
    )


def average_rows(clusters: Sequence[ClusterRow]) -> list[AverageRow]:
    """The means over held-out clusters and over the others; over all where none is held out."""
    groups = {"held out": [c for c in clusters if c.held_out], "held in": [c for c in clusters if not c.held_out]}
    if not groups["held out"]:
        groups = {"all": list(clusters)}
    return [
        AverageRow(
            name=name,
            clusters=len(some),
            mean=_means([cluster.mean for cluster in some]),
            gains=_means([cluster.gains for cluster in some]),
            normalized=_means([cluster.normalized for cluster in some]),
            normalized_gains=_means([cluster.normalized_gains for cluster in some]),
        )
        for name, some in groups.items()
        if some
    ]


def _means(parts: Sequence[Mapping[str, Interval]]) -> dict[str, Interval]:
    """Each model's mean over the parts; empty where one of the parts lacks the number."""
    return {model: mean_of_intervals([part[model] for part in parts]) for model in parts[0]} if all(parts) else {}
