"""Scores of models on clusters of tasks, held out from training or not."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, ClassVar, Literal

from rich.table import Table

from accord.results.base import Evaluation, Intervals, PromptSettings, Record

OptionScore = Literal["sum", "mean", "pmi"]
"""How options are ranked; see `accord.evaluate.tasks.option_scores`."""


class TaskSettings(PromptSettings):
    """How the models were asked."""

    tasks: str = ""
    """The file of tasks."""
    option_score: OptionScore = "sum"
    """How options are ranked."""
    answers: Literal["direct", "cot"] = "direct"
    """Whether models answered directly, or by a chain of thought from which the answer was extracted."""
    samples: int = 1
    """Chains of thought per question; the majority answer counts."""
    instructions: Literal["natural", "prefix"] = "natural"
    """Whether rows were asked in instructions, or with their task's prefix."""
    shots: int = 0
    """Exemplars shown before each row."""
    templates: int | None = None
    """Maximum number of instructions per task."""
    limit: int | None = None
    """Maximum number of rows per task."""
    max_new_tokens: int = 64
    """Maximum number of tokens per answer, unless the task sets its own."""


class TaskRow(Record):
    """A task in numbers: each model's score, and its gain over the first model."""

    name: str
    """The task."""
    metric: str
    """How its answers are scored."""
    n: int
    """Number of rows."""
    templates: int = 1
    """Instructions that every row was asked under."""
    chance: float | None = None
    """The score of a random choice: one over the options, or given in the tasks file; None where unknown."""
    scores: Intervals
    """Each model's mean over the rows."""
    gains: Intervals = {}
    """Each model's score minus the first model's, paired by row."""
    normalized: Intervals = {}
    """Each model's (score - chance) / (1 - chance), where chance is known."""
    normalized_gains: Intervals = {}
    """The gains, divided by 1 - chance."""
    ended: dict[str, float | None] | None = None
    """The share of each model's written answers that ended by themselves; None for options."""
    readable: dict[str, float | None] | None = None
    """The share of each model's chains of thought with an extractable answer; None for direct answers."""


class ClusterRow(Record):
    """A cluster in numbers: its tasks, and the means over them."""

    name: str
    """The cluster."""
    held_out: bool = False
    """Whether it was held out from training."""
    tasks: list[TaskRow]
    """One row per task."""
    mean: Intervals
    """Each model's mean over the tasks, with the interval propagated from theirs."""
    gains: Intervals = {}
    """The mean gain of each model but the first."""
    normalized: Intervals = {}
    """Each model's mean of (score - chance) / (1 - chance) over the tasks, where all chances are known."""
    normalized_gains: Intervals = {}
    """The mean of the tasks' gains, each divided by its 1 - chance."""


class AverageRow(Record):
    """The mean over clusters: held out, held in, or all where none is held out."""

    name: str
    """Which clusters: held out, held in, or all."""
    clusters: int
    """Number of clusters."""
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
    reads_chats: ClassVar[bool] = True
    settings: TaskSettings = TaskSettings()
    """How they were asked."""
    models: list[str] = []
    """Their names; gains are over the first."""
    clusters: list[ClusterRow]
    """One row per cluster."""
    averages: list[AverageRow] = []
    """The means over clusters."""

    def _rows(self) -> Iterable[Mapping[str, Any]]:
        clusters = self.model_dump(mode="json")["clusters"]
        return [task | {"cluster": cluster["name"]} for cluster in clusters for task in cluster["tasks"]]

    @property
    def has_normalized(self) -> bool:
        """Whether any task's chance is known."""
        return any(task.normalized for cluster in self.clusters for task in cluster.tasks)

    def tables(self) -> Iterator[Table]:
        """Clusters and tasks: scores and gains over the first model, then the same above chance."""
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
