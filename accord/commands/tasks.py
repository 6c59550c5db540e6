"""`accord tasks`: demonstrations of some clusters of tasks, for a model that is then asked about the others."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Literal

from rich.console import Console
from rich.table import Table

from accord.commands.evaluate.shared import tell
from accord.data.mixing import Mixed, mixture, overlapping
from accord.data.tasks import Task, clusters_named, read_tasks
from accord.errors import InputError
from accord.files import write_rows
from accord.records import row_to_json


def tasks(
    tasks: str,
    out: str,
    *,
    leave_out: str | None = None,
    data: str | None = None,
    per_task: int = 3000,
    mixing_temperature: float = 1.0,
    rows: int | None = None,
    form: Literal["chat", "plain"] = "chat",
    seed: int = 0,
) -> Path:
    """Write demonstrations of the tasks of all clusters but those left out, to fine-tune on with `accord sft`.

    Tasks are mixed in proportion to their rows, each counting --per-task at most; a row is put in one of its task's
    instructions, drawn at random.

    Args:
        tasks: a YAML file of tasks in clusters.
        out: the JSONL file to write.
        leave_out: the cluster, or several with commas, to hold out for evaluation.
        data: the folder of the tasks' data files, where they are not beside the tasks file.
        per_task: rows beyond which a task gets no larger share.
        mixing_temperature: 1 mixes in proportion, higher ones bring all tasks' shares nearer to equal.
        rows: rows to write; all there are, up to --per-task of each task, unless given.
        form: chat writes chats of two turns, plain texts for models without a chat template.
        seed: decides which rows, which instructions and their order.

    Raises:
        InputError: the tasks, their rows or an option cannot be used, or nothing is left to train on.
    """
    for option, count in (("per-task", per_task), ("rows", rows)):
        if count is not None and count < 1:
            raise InputError(f"--{option} must be at least 1, not {count}.")
    if mixing_temperature <= 0:
        raise InputError(f"--mixing-temperature must be positive, not {mixing_temperature:g}.")
    given = read_tasks(tasks, data)
    left = clusters_named(leave_out, given)
    mixed, told = mixture(
        given, left, per_task=per_task, temperature=mixing_temperature, total=rows, form=form, seed=seed
    )
    shared = {t.label: overlapping(t) for t in given if t.cluster not in left}
    tell(
        [*told]
        + [f"{label}: {n} rows are evaluated on too; set split and train_split" for label, n in shared.items() if n]
    )
    Console().print(as_table(given, mixed))
    write_rows(out, ({**row_to_json(m.demonstration), "cluster": m.task.cluster, "task": m.task.name} for m in mixed))
    return Path(out)


def as_table(given: list[Task], mixed: list[Mixed]) -> Table:
    """How many rows each task has in the mix."""
    counts = Counter(row.task.label for row in mixed)
    grid = Table("cluster", "task", "rows", "share")
    for task in given:
        n = counts[task.label]
        grid.add_row(task.cluster, task.name, str(n), f"{n / len(mixed):.1%}")
    return grid
