"""Scores on clusters of tasks, those held out of training apart."""

from __future__ import annotations

from dataclasses import dataclass

from accord.report.folder import Json, Story
from accord.report.intervals import Interval, interval_of, mapping, objects
from accord.report.results import warnings_of


@dataclass(frozen=True)
class Task:
    """One task: what it is scored by, on how many rows, and each model's score."""

    name: str
    metric: str
    n: int | None
    scores: dict[str, Interval]


@dataclass(frozen=True)
class Cluster:
    """Tasks of one kind, and each model's mean over them."""

    name: str
    held_out: bool
    tasks: tuple[Task, ...]
    mean: dict[str, Interval]


@dataclass(frozen=True)
class TaskTable:
    """Models on clusters of tasks; `settings` are those of generation."""

    stage: str
    models: tuple[str, ...]
    clusters: tuple[Cluster, ...]
    settings: Json
    warnings: tuple[str, ...]


def task_tables(story: Story) -> list[TaskTable]:
    """The evaluations on clusters of tasks in the story."""
    evaluations = [(stage.name, stage.run.evaluation) for stage in story.stages if stage.run.kind == "tasks"]
    return [_table(name, evaluation) for name, evaluation in evaluations]


def _table(stage: str, evaluation: Json) -> TaskTable:
    clusters = tuple(map(_cluster, objects(evaluation.get("clusters"))))
    scored = [scores for cluster in clusters for scores in (cluster.mean, *(task.scores for task in cluster.tasks))]
    models = dict.fromkeys(name for scores in scored for name in scores)
    return TaskTable(stage, tuple(models), clusters, mapping(evaluation.get("settings")), warnings_of(evaluation))


def _cluster(row: Json) -> Cluster:
    tasks = [
        Task(str(task.get("name", "")), str(task.get("metric") or ""), task.get("n"), _scores(task.get("scores")))
        for task in objects(row.get("tasks"))
    ]
    return Cluster(str(row.get("name", "")), bool(row.get("held_out")), tuple(tasks), _scores(row.get("mean")))


def _scores(value: object) -> dict[str, Interval]:
    return {name: interval for name, score in mapping(value).items() if (interval := interval_of(score))}
