"""`accord world`: the files of a small world with known truth.

`accord tasks`: demonstrations of some clusters of tasks, for a model that is then asked about the others.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from rich.table import Table

from accord.console import show, status
from accord.errors import InputError
from accord.files import write_rows
from accord.records import row_to_json

if TYPE_CHECKING:
    from accord.data.examples import Mixed
    from accord.data.tasks import Task


def world(out: str, *, name: Literal["cafe", "sums"] = "cafe", seed: int = 0, width: int | None = None) -> Path:
    """Write a small world: demonstrations, prompts to train on and to evaluate on, and an untrained model.

    Args:
        out: the folder to write.
        name: which world: cafe (questions about dishes, with a gold reward) or sums (addition on a scratchpad).
        seed: decides everything that is drawn at random.
        width: of the café's untrained model, a multiple of 12; 192 (1.1 M parameters) unless given.

    Raises:
        InputError: no model has that width.
    """
    if name == "sums" and width is not None:
        raise InputError(f"--width is for the world cafe; the model of {name} has one size.")
    from accord.worlds import cafe, sums

    if name == "cafe":
        cafe.write(Path(out), seed, cafe.WIDTH if width is None else width)
    else:
        sums.write(Path(out), seed)
    return Path(out)


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
    from accord.data.examples import mixture, overlapping
    from accord.data.tasks import clusters_named, read_tasks

    known = read_tasks(tasks, data)
    left = clusters_named(leave_out, known)
    mixed, notes = mixture(
        known, left, per_task=per_task, temperature=mixing_temperature, total=rows, form=form, seed=seed
    )
    for line in notes:
        status(line)
    for task in known:
        if task.cluster not in left and (n := overlapping(task)):
            status(f"{task.label}: {n} rows are evaluated on too; set split and train_split")
    show(rows_of_tasks(known, mixed))
    write_rows(out, ({**row_to_json(m.demonstration), "cluster": m.task.cluster, "task": m.task.name} for m in mixed))
    return Path(out)


def rows_of_tasks(tasks: Sequence[Task], mixed: Sequence[Mixed]) -> Table:
    """How many rows each task has in the mix."""
    counts = Counter(row.task.label for row in mixed)
    grid = Table("cluster", "task", "rows", "share")
    for task in tasks:
        n = counts[task.label]
        grid.add_row(task.cluster, task.name, str(n), f"{n / len(mixed):.1%}")
    return grid
