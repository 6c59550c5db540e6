"""Kinds of annotation tasks: one file per kind, with a template of the same name in `templates/tasks`.

A kind defines which rows it can ask about (`items`), the order in which answers are shown (`shown`), what a filled form
means (`read`), and the rows that answers become (`rows`). To add one, write its file and template, and list it here.
"""

from __future__ import annotations

from accord.annotate.tasks.base import Task
from accord.annotate.tasks.compare import Compare
from accord.annotate.tasks.converse import Converse
from accord.annotate.tasks.edit import Edit
from accord.annotate.tasks.rank import Rank
from accord.annotate.tasks.rate import Rate
from accord.annotate.tasks.write import FewShot, Plain, UseCase, Write
from accord.errors import InputError, nearest

TASKS: dict[str, Task] = {
    task.name: task for task in (Compare(), Rank(), Rate(), Write(), Plain(), FewShot(), UseCase(), Edit(), Converse())
}
"""The kinds of task, by name."""


def task_named(name: str) -> Task:
    """The kind of this name. Raises InputError where there is none."""
    if name not in TASKS:
        hint = nearest(name, TASKS, " (did you mean {}?)")
        raise InputError(f"there is no task {name!r}{hint}: there is {', '.join(TASKS)}.")
    return TASKS[name]
