"""`accord tasks`: training data from clusters of tasks, for a model that is then evaluated on the held-out clusters."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rich.table import Table

from accord.console import show, status
from accord.errors import InputError
from accord.evaluate.options import checked_by
from accord.outputs import require_file, save_rows
from accord.records import row_to_json

if TYPE_CHECKING:
    from accord.data.formats import Format
    from accord.data.task_mix import Mixed
    from accord.data.tasks import Task


def _check(
    per_task: int,
    rows: int | None,
    shots: int | None,
    mixing_temperature: float,
    formats: str | None,
    templates: int | None,
) -> None:
    from accord.data.formats import weighted_formats

    for option, count in (("per-task", per_task), ("rows", rows), ("shots", shots), ("templates", templates)):
        if count is not None and count < 1:
            raise InputError(f"--{option} must be at least 1, not {count}.")
    if mixing_temperature <= 0:
        raise InputError(f"--mixing-temperature must be positive, not {mixing_temperature:g}.")
    weighted_formats(formats, shots, "chat", 0)


@checked_by(_check)
def tasks(
    tasks: str,
    out: str,
    *,
    leave_out: str | None = None,
    max_clusters: int | None = None,
    data: str | None = None,
    per_task: int = 3000,
    mixing_temperature: float = 1.0,
    rows: int | None = None,
    templates: int | None = None,
    formats: str | None = None,
    shots: int | None = None,
    form: Literal["chat", "plain"] = "chat",
    seed: int = 0,
) -> Path:
    """Write demonstrations of tasks, except those of held-out clusters, to fine-tune on with `accord sft`.

    Tasks are mixed in proportion to their rows, counting at most --per-task of each; each row is put in one of its
    task's instructions, drawn at random.

    Args:
        tasks: a YAML file of tasks in clusters, a file or folder in one of the field's own layouts, or probes.
        out: the JSONL file to write.
        leave_out: the clusters to hold out for evaluation, separated by commas.
        max_clusters: use only this many of the remaining clusters, chosen by the seed.
        data: the folder of the tasks' data files (default: that of the tasks file).
        per_task: the number of rows beyond which a task's share stops growing.
        mixing_temperature: 1 mixes tasks in proportion to their rows; higher values bring their shares closer together.
        rows: how many rows to write (default: all, up to --per-task of each task).
        templates: use only the first N instructions of each task.
        formats: how rows are written, each in one format drawn by its weight:
            zero:2,few:1,cot:1,few-cot:1,inverse:1,inverse-cot:1, or prefix (default: zero, or few with --shots).
        shots: how many other rows of the task, with answers, precede each row of few and few-cot (default: 3).
        form: chat writes chats of two turns; plain writes texts, for models without a chat template.
        seed: seed of the choice and order of clusters, rows and instructions.

    Raises:
        InputError: the tasks, their rows or an option cannot be used, or nothing is left to train on.
    """
    _check(per_task, rows, shots, mixing_temperature, formats, templates)
    from accord.data.formats import weighted_formats
    from accord.data.task_mix import mixture
    from accord.data.tasks import clusters_beyond, clusters_named, read_tasks

    written = weighted_formats(formats, shots, form, seed)
    known = read_tasks(tasks, data, templates)
    require_file(out, tasks, [file for task in known for file in (task.data, task.training_file)])
    left = clusters_named(leave_out, known)
    left += clusters_beyond(max_clusters, left, known, seed)
    mixed, notes = mixture(
        known, left, per_task=per_task, temperature=mixing_temperature, total=rows, formats=written, seed=seed
    )
    for line in notes:
        status(line)
    _warn_of_overlaps([task for task in known if task.cluster not in left])
    save_rows(out, map(row_of_task, mixed))
    show(table_of_tasks(known, mixed), table_of_formats(written, mixed))
    return Path(out)


def _warn_of_overlaps(tasks: Iterable[Task]) -> None:
    """Print how many rows each task is both trained and evaluated on."""
    from accord.data.examples import overlapping

    for task in tasks:
        if n := overlapping(task):
            status(f"{task.label}: {n} rows are evaluated on too; set split and train_split")


def row_of_task(mixed: Mixed) -> dict[str, Any]:
    """A demonstration with its cluster, task and format, and its answer alone for verifiers."""
    more = {"cluster": mixed.task.cluster, "task": mixed.task.name, "format": mixed.format.name}
    answer = {} if mixed.answer is None else {"answer": mixed.answer}
    return {**row_to_json(mixed.demonstration), **more, **answer}


def table_of_tasks(tasks: Sequence[Task], mixed: Sequence[Mixed]) -> Table:
    """The number of rows of each task in the mix."""
    counts = Counter(row.task.label for row in mixed)
    grid = Table("cluster", "task", "rows", "share")
    for task in tasks:
        n = counts[task.label]
        grid.add_row(task.cluster, task.name, f"{n:,}", f"{n / len(mixed):.1%}")
    return grid


def table_of_formats(formats: Iterable[Format], mixed: Sequence[Mixed]) -> Table:
    """The number of rows of the mix in each format."""
    counts = Counter(row.format for row in mixed)
    grid = Table("format", "rows", "share")
    for format in formats:
        grid.add_row(format.name, f"{counts[format]:,}", f"{counts[format] / len(mixed):.1%}")
    return grid
