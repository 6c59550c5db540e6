"""Models on clusters of tasks, those held out from training and others."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal

from rich.table import Table

from accord.results.base import Evaluation, Intervals, Record

OptionScore = Literal["sum", "mean", "pmi"]
"""What makes an option the most likely one; see `accord.evaluate.tasks.option_scores`."""


class TaskSettings(Record):
    """How models were asked."""

    tasks: str = ""
    """The file of tasks."""
    form: Literal["chat", "plain"] = "chat"
    """Asked by a user's message, or by text to go on from."""
    option_score: OptionScore = "sum"
    """What makes an option the most likely one."""
    chat_template: str | None = None
    """The chat template that the models were given, where they were given one."""
    system: Literal["refuse", "fold"] = "refuse"
    """Whether system messages were folded into the first question."""
    templates: int | None = None
    """Only so many instructions of each task."""
    limit: int | None = None
    """Only so many rows of each task."""
    max_new_tokens: int = 64
    """Tokens after which an answer was cut, where the task says nothing else."""
    temperature: float = 0.0
    """What divided the logits; 0 for the most likely token."""
    seed: int = 0
    """What the draws were seeded with."""
    dtype: str = ""
    """The precision of matrix products."""


class TaskRow(Record):
    """A task in numbers: each model's score, and its gain over the first model."""

    name: str
    """The task's."""
    metric: str
    """How its answers are scored."""
    n: int
    """Rows that were asked about."""
    templates: int = 1
    """Instructions that every row was asked under."""
    chance: float | None = None
    """The score of a choice by lot, of options; None of answers that are written."""
    scores: Intervals
    """Each model's mean over the rows."""
    gains: Intervals = {}
    """What each model but the first scores above the first, row by row."""
    ended: dict[str, float | None] | None = None
    """The share of each model's written answers that ended by themselves; None of options."""


class ClusterRow(Record):
    """A cluster in numbers: its tasks, and the means over them."""

    name: str
    """The cluster's."""
    held_out: bool = False
    """Whether it was held out from training."""
    tasks: list[TaskRow]
    """A row a task."""
    mean: Intervals
    """Each model's mean over the tasks, with the interval that follows from theirs."""
    gains: Intervals = {}
    """The mean gain of each model but the first."""


class TasksResult(Evaluation):
    """Models on clusters of tasks."""

    kind: Literal["tasks"] = "tasks"
    settings: TaskSettings = TaskSettings()
    """How they were asked."""
    models: list[str] = []
    """Their names, the one that gains are counted from first."""
    clusters: list[ClusterRow]
    """A row a cluster."""

    def _rows(self) -> Iterable[Mapping[str, Any]]:
        clusters = self.model_dump(mode="json")["clusters"]
        return [task | {"cluster": cluster["name"]} for cluster in clusters for task in cluster["tasks"]]

    def tables(self) -> Iterator[Table]:
        """Clusters with their tasks: scores, and gains over the first model."""
        first = self.models[:1]
        gains = [f"{model} - {first[0]}" for model in self.models[1:]]
        grid = Table("cluster, task", "metric", "rows", "chance", *self.models, *gains)
        for cluster in self.clusters:
            mark = " (held out)" if cluster.held_out else ""
            n = str(sum(task.n for task in cluster.tasks))
            cells = self._cells(cluster.mean, cluster.gains)
            grid.add_row(cluster.name + mark, "mean", n, "", *cells, style="bold")
            for task in cluster.tasks:
                chance = "" if task.chance is None else f"{task.chance:.2f}"
                cells = self._cells(task.scores, task.gains)
                grid.add_row(f"  {task.name}", task.metric, str(task.n), chance, *cells)
            grid.add_section()
        yield grid

    def _cells(self, scores: Intervals, gains: Intervals) -> list[str]:
        cells = [f"{scores[model]:.2f}" if model in scores else "" for model in self.models]
        return cells + [f"{gains[model]:+.2f}" if model in gains else "" for model in self.models[1:]]
