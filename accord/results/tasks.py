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
    answers: Literal["direct", "cot"] = "direct"
    """Whether models answered at once or, by a chain of thought, wrote what the answer was read out of."""
    samples: int = 1
    """Chains of thought of each question, of whose answers the majority's counts."""
    instructions: Literal["natural", "prefix"] = "natural"
    """Whether rows were asked in instructions, or in their task's prefix."""
    shots: int = 0
    """Exemplars shown before each row."""
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
    """The score of a choice by lot: one in the options, or what the tasks file says; None where nobody says it."""
    scores: Intervals
    """Each model's mean over the rows."""
    gains: Intervals = {}
    """What each model but the first scores above the first, row by row."""
    normalized: Intervals = {}
    """Each model's (score - chance) / (1 - chance), where chance is known."""
    normalized_gains: Intervals = {}
    """The gains, divided by 1 - chance."""
    ended: dict[str, float | None] | None = None
    """The share of each model's written answers that ended by themselves; None of options."""
    readable: dict[str, float | None] | None = None
    """The share of each model's chains of thought out of which an answer could be read; None of direct answers."""


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
    normalized: Intervals = {}
    """Each model's mean of the tasks' (score - chance) / (1 - chance), where the chance of all is known."""
    normalized_gains: Intervals = {}
    """The mean of the tasks' gains, each divided by its 1 - chance."""


class AverageRow(Record):
    """The mean over clusters: those held out, the others, or all where none is."""

    name: str
    """Which clusters: held out, held in, or all."""
    clusters: int
    """How many."""
    mean: Intervals
    """Each model's mean over the clusters."""
    gains: Intervals = {}
    """The mean gain of each model but the first."""
    normalized: Intervals = {}
    """Each model's mean of (score - chance) / (1 - chance), where the chance of all their tasks is known."""
    normalized_gains: Intervals = {}
    """The mean of the gains, each divided by its task's 1 - chance."""


class TasksResult(Evaluation):
    """Models on clusters of tasks."""

    kind: Literal["tasks"] = "tasks"
    settings: TaskSettings = TaskSettings()
    """How they were asked."""
    models: list[str] = []
    """Their names, the one that gains are counted from first."""
    clusters: list[ClusterRow]
    """A row a cluster."""
    averages: list[AverageRow] = []
    """The means over clusters."""

    def _rows(self) -> Iterable[Mapping[str, Any]]:
        clusters = self.model_dump(mode="json")["clusters"]
        return [task | {"cluster": cluster["name"]} for cluster in clusters for task in cluster["tasks"]]

    @property
    def has_normalized(self) -> bool:
        """Whether the chance of some task is known."""
        return any(task.normalized for cluster in self.clusters for task in cluster.tasks)

    def tables(self) -> Iterator[Table]:
        """Clusters with their tasks: scores, and gains over the first model; then the same above chance."""
        yield self._grid("", normalized=False)
        if self.has_normalized:
            yield self._grid("(score - chance) / (1 - chance)", normalized=True)

    def _grid(self, title: str, *, normalized: bool) -> Table:
        gains = [f"{model} - {first}" for first in self.models[:1] for model in self.models[1:]]
        read = ["answer read"] if any(task.readable for cluster in self.clusters for task in cluster.tasks) else []
        grid = Table("cluster, task", "metric", "rows", "chance", *read, *self.models, *gains, title=title or None)
        for cluster in self.clusters:
            mark = " (held out)" if cluster.held_out else ""
            n = str(sum(task.n for task in cluster.tasks))
            cells = self._cells(cluster, normalized)
            grid.add_row(cluster.name + mark, "mean", n, "", *("" for _ in read), *cells, style="bold")
            for task in cluster.tasks:
                chance = "" if task.chance is None else f"{task.chance:.2f}"
                cells = [" ".join(f"{share or 0:.2f}" for share in (task.readable or {}).values()) for _ in read]
                cells += self._cells(task, normalized)
                grid.add_row(f"  {task.name}", task.metric, str(task.n), chance, *cells)
            grid.add_section()
        for average in self.averages if len(self.clusters) > 1 else ():
            cells = [*("" for _ in read), *self._cells(average, normalized)]
            grid.add_row(f"clusters, {average.name}", f"mean of {average.clusters}", "", "", *cells, style="bold")
        return grid

    def _cells(self, row: TaskRow | ClusterRow | AverageRow, normalized: bool) -> list[str]:
        scores, gains = (row.scores if isinstance(row, TaskRow) else row.mean), row.gains
        if normalized:
            scores, gains = row.normalized, row.normalized_gains
        cells = [f"{scores[model]:.2f}" if model in scores else "" for model in self.models]
        return cells + [f"{gains[model]:+.2f}" if model in gains else "" for model in self.models[1:]]
