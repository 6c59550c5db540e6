"""`accord evaluate tasks`: models on clusters of tasks, held out from training or not.

A row's score is the mean over its task's instructions, a task's the mean over rows, a cluster's the mean over its tasks
(Wei et al. 2021, arXiv:2109.01652, section 3). Differences between two models are paired by row.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from accord import engine
from accord.engine.config import TemplateOptions
from accord.errors import InputError
from accord.evaluate.options import takes
from accord.evaluate.statistics import FEW
from accord.evaluate.task_answers import Answered, Questions, answer, questions_of, sampling_for
from accord.evaluate.task_rows import average_rows, cluster_row, task_row
from accord.evaluate.task_scores import metric_named
from accord.outputs import require_folder, save_rows
from accord.results.base import FILE
from accord.results.tasks import TaskRow, TaskSettings, TasksResult

if TYPE_CHECKING:
    from accord.data.formats import Format


@dataclass(kw_only=True)
class TaskOptions(TemplateOptions):
    """How models are asked."""

    form: Literal["chat", "plain"] = "chat"
    """chat asks in a user's message; plain gives text to continue, as suits a model without a chat template."""
    option_score: Literal["sum", "mean", "pmi"] = "sum"
    """How an answer option is scored: its log-probability (sum), that per token (mean), or its gain over the option
    without the row (pmi)."""
    answers: Literal["direct", "cot"] = "direct"
    """direct answers at once; cot writes a chain of thought and reads the answer after its answer phrase."""
    samples: int = 1
    """Self-consistency: take the majority's answer of this many chains of thought, sampled at a --temperature above
    0."""
    instructions: Literal["natural", "prefix"] = "natural"
    """natural asks with each of a task's instructions, prefix with its one prefix."""
    shots: int = 0
    """How many solved training rows of its task are shown before each row."""
    templates: int | None = None
    """Use only the first N instructions of each task."""
    limit: int | None = None
    """Use only the first N rows of each task."""
    max_new_tokens: int = 64
    """Longest answer, in tokens, unless the task says otherwise."""
    temperature: float = 0.0
    """Sampling temperature; 0 always takes the most likely token."""
    seed: int = 0
    """The same seed gives the same answers."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Precision of matrix products; auto is bfloat16 where the processor supports it."""

    def __post_init__(self) -> None:
        for option, count in (("limit", self.limit), ("templates", self.templates)):
            if count is not None and count < 1:
                raise InputError(f"--{option} must be at least 1, not {count}.")
        if self.shots < 0:
            raise InputError(f"--shots must be 0 or more, not {self.shots}.")
        if self.samples < 1:
            raise InputError(f"--samples must be at least 1, not {self.samples}.")
        engine.Sampling(self.max_new_tokens, self.temperature, seed=self.seed)
        if self.samples > 1 and self.temperature == 0:
            raise InputError("--samples needs a --temperature above 0, or all chains of thought are the same.")
        if self.samples > 1 and self.answers == "direct":
            raise InputError("--samples is for chains of thought: give --answers cot.")
        if self.option_score != "sum" and self.answers == "cot":
            raise InputError("--option-score is for choosing options; with --answers cot they are written.")

    @property
    def format(self) -> Format:
        """The prompt format."""
        from accord.data.formats import Format

        is_cot, is_prefix = self.answers == "cot", self.instructions == "prefix"
        return Format(self.form, self.shots, cot=is_cot, prefix=is_prefix, seed=self.seed)


@takes(TaskOptions)
def evaluate_tasks(
    tasks: str,
    out: str,
    *,
    models: dict[str, str],
    clusters: str | None = None,
    held_out: str | None = None,
    data: str | None = None,
    **options: Any,
) -> TasksResult:
    """Evaluate models on tasks: written answers by exact match, number or ROUGE, options by their log-probability.

    Every row is asked under every instruction of its task, alone or after exemplars; models answer directly, by a chain
    of thought, or by the majority of several. Scores have 95% intervals; clusters have the mean over their tasks,
    models their gain over the first; all are also given above chance, where that is known. predictions.jsonl has every
    answer.

    Args:
        tasks: a YAML file of tasks in clusters, a file or folder in one of the field's own layouts, or probes.
        out: the folder to write evaluation.json and predictions.jsonl to.
        models: models by name, as --models.base runs/base/model, or a mapping in YAML.
        clusters: the clusters to ask about, separated by commas (default: all).
        held_out: the clusters that a model was not trained on, separated by commas; the tables mark them.
        data: the folder of the tasks' data files, if they are not beside the tasks file.
        options: the fields of `TaskOptions`.

    Raises:
        InputError: the tasks, their rows or an option cannot be used.
    """
    from accord.data.formats import Exemplars
    from accord.data.tasks import clusters_named, read_tasks

    settings = TaskOptions(**options)
    require_folder(out, tasks, models, data, options, leaves=(FILE, "predictions.jsonl"))
    known = read_tasks(tasks, data, settings.templates)
    wanted, left_out = clusters_named(clusters, known), clusters_named(held_out, known)
    dtype = str(engine.precision.compute_dtype(settings.dtype)).removeprefix("torch.")
    recorded = TaskSettings(**{**dataclasses.asdict(settings), "tasks": tasks, "dtype": dtype})
    exemplars, questions = Exemplars(known), []
    for task in (task for task in known if not wanted or task.cluster in wanted):
        questions.append(questions_of(task, settings.format, exemplars, settings.limit))
        sampling_for(questions[-1], recorded)
        if task.metric != "options":
            metric_named(task.metric)
    answered = {
        name: answer(settings.templated(engine.load.load_model(folder, dtype=settings.dtype)), questions, recorded)
        for name, folder in models.items()
    }
    save_rows(Path(out) / "predictions.jsonl", _predictions(questions, answered))
    return summary(questions, answered, left_out, recorded).publish(out)


def summary(
    questions: Sequence[Questions],
    answered: Mapping[str, list[Answered]],
    held_out: Sequence[str],
    settings: TaskSettings,
) -> TasksResult:
    """All measures, cluster by cluster."""
    clusters: dict[str, list[TaskRow]] = {}
    for i, q in enumerate(questions):
        scores = {model: answers[i].by_row(q.templates) for model, answers in answered.items()}
        chosen = q.task.metric == "options" and not q.format.cot
        ended = None if chosen else {m: answers[i].ended for m, answers in answered.items()}
        readable = {m: answers[i].readable for m, answers in answered.items()} if q.format.cot else None
        row = task_row(q.task.name, q.task.metric, q.templates, scores, q.chance, ended, readable)
        clusters.setdefault(q.task.cluster, []).append(row)
    rows = [cluster_row(name, name in held_out, tasks) for name, tasks in clusters.items()]
    return TasksResult(
        settings=settings,
        models=list(answered),
        clusters=rows,
        averages=average_rows(rows),
        warnings=_warnings(questions, answered, held_out),
    )


def _warnings(
    questions: Sequence[Questions], answered: Mapping[str, list[Answered]], held_out: Sequence[str]
) -> list[str]:
    from accord.data.examples import overlapping

    lines = []
    for i, q in enumerate(questions):
        if q.rows < FEW:
            lines.append(f"{q.task.label} has only {q.rows} rows: its intervals are rough; ask about {FEW} or more.")
        if held_out and q.task.cluster not in held_out and (shared := overlapping(q.task)):
            lines.append(
                f"{q.task.label}: {shared} of the rows asked about are also training rows; set split and train_split."
            )
        for model, answers in answered.items():
            if (ended := answers[i].ended) is not None and ended < 0.5:
                lines.append(
                    f"{q.task.label}: {1 - ended:.0%} of the answers of {model} were cut off, which affects its score."
                )
            if (readable := answers[i].readable) is not None and readable < 0.9:
                lines.append(
                    f"{q.task.label}: {1 - readable:.0%} of the chains of thought of {model} have no answer after "
                    f"{q.task.wording.answer_phrase!r}, and count as wrong."
                )
    return lines


def _chains(answered: Answered, question: int) -> list[str]:
    return answered.written[question] if answered.written else []


def _predictions(questions: Sequence[Questions], answered: Mapping[str, list[Answered]]) -> list[dict[str, Any]]:
    return [
        {
            "cluster": q.task.cluster,
            "task": q.task.name,
            "row": one.example.row,
            "template": one.template + 1,
            "exemplars": list(one.exemplars),
            "prompt": one.prompt,
            "right": list(one.example.references),
            "answers": {model: answers[i].answers[k] for model, answers in answered.items()},
            "scores": {model: answers[i].scores[k] for model, answers in answered.items()},
            **({"written": {m: _chains(answers[i], k) for m, answers in answered.items()}} if q.format.cot else {}),
        }
        for i, q in enumerate(questions)
        for k, one in enumerate(q.asked)
    ]
