"""Tasks by clusters: options ranked by a model's log-probabilities, and scores summed up as FLAN does.

A row's score is the mean over its task's instructions, a task's the mean over rows, a cluster's the mean over its tasks
(Wei et al. 2021, arXiv:2109.01652, section 3). A difference between two models is taken row by row.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import sqrt
from typing import Any, Literal, TypeAlias

from accord.evaluate.passes import mean_of
from accord.evaluate.statistics import Interval, as_json, bootstrap_mean

OptionScore: TypeAlias = Literal["sum", "mean", "pmi"]
"""What makes an option the most likely one; see `ranked`."""

Scores: TypeAlias = Mapping[str, Sequence[float]]
"""Each model's score of every row."""


def ranked(
    logps: Sequence[float], tokens: Sequence[int], priors: Sequence[float] | None, by: OptionScore
) -> list[float]:
    """The score of each option of a prompt; the highest is the model's choice.

        sum   log pi(option | prompt)
        mean  log pi(option | prompt) / tokens of the option
        pmi   log pi(option | prompt) - log pi(option | the instruction without the row)

    `sum` is the probability that the model gives this answer and ends there. `mean` takes the advantage from short
    options, `pmi` from options that are likely whatever is asked (Holtzman et al. 2021, arXiv:2104.08315).

    Args:
        logps: log pi of each option after the prompt, its end of turn included.
        tokens: how many tokens each option has.
        priors: for `pmi`, log pi of each option after the instruction without the row.
    """
    if by == "pmi":
        if priors is None:
            raise ValueError("pmi needs the options' log-probabilities without the row")
        return [logp - prior for logp, prior in zip(logps, priors, strict=True)]
    return [logp / n if by == "mean" else logp for logp, n in zip(logps, tokens, strict=True)]


def mean_of_tasks(tasks: Sequence[Interval]) -> Interval:
    """The mean over tasks, with the interval that follows from the tasks' own (Zou and Donner 2008).

    With k tasks of estimates m_i in [l_i, u_i] and m their mean:

        low = m - sqrt(sum (m_i - l_i)^2) / k        high = m + sqrt(sum (u_i - m_i)^2) / k

    The tasks stay, their rows vary: the interval is for these tasks on other rows, and says nothing of other tasks.
    """
    k = len(tasks)
    mean = sum(task.estimate for task in tasks) / k
    below = sqrt(sum((task.estimate - task.low) ** 2 for task in tasks)) / k
    above = sqrt(sum((task.high - task.estimate) ** 2 for task in tasks)) / k
    return Interval(mean, mean - below, mean + above, sum(task.n for task in tasks))


def task_row(
    name: str,
    metric: str,
    templates: int,
    scores: Scores,
    chance: float | None,
    ended: Mapping[str, float | None] | None,
) -> dict[str, Any]:
    """A task in numbers: each model's score, and its gain over the first model.

    Args:
        name: the task's.
        metric: how its answers are scored.
        templates: instructions that every row was asked under.
        scores: each model's score of every row.
        chance: the score of a choice by lot, for options.
        ended: the share of each model's written answers that ended by themselves.
    """
    return {
        "name": name,
        "metric": metric,
        "n": len(next(iter(scores.values()))),
        "templates": templates,
        "chance": chance,
        "scores": {model: as_json(mean_of(values)) for model, values in scores.items()},
        "gains": {model: as_json(bootstrap_mean(values)) for model, values in _gains(scores).items()},
        "ended": ended,
    }


def cluster_row(name: str, held_out: bool, tasks: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """A cluster in numbers: its tasks, and the means over them of scores and of gains over the first model."""
    means = {
        kind: {
            model: as_json(mean_of_tasks([Interval(**task[kind][model]) for task in tasks])) for model in tasks[0][kind]
        }
        for kind in ("scores", "gains")
    }
    return {"name": name, "held_out": held_out, "tasks": list(tasks), "mean": means["scores"], "gains": means["gains"]}


def _gains(scores: Scores) -> dict[str, list[float]]:
    """What each model but the first scores above it, row by row."""
    first, *others = scores
    return {m: [a - b for a, b in zip(scores[m], scores[first], strict=True)] for m in others}
