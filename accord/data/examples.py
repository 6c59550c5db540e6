"""The rows of tasks as a model is asked them: every instruction filled in, the right answers, the options.

`examples_of` reads those of one task, and `normalized` is how two answers are compared that are to be the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from accord.data.columns import value_at
from accord.data.task_files import rows_of
from accord.data.tasks import Task, checked_options
from accord.data.templates import fill
from accord.errors import InputError, located


@dataclass(frozen=True, slots=True)
class Example:
    """A row of a task: its number in its file (from 1), the prompt of each template, right answers, and options.

    `prefix` is the row in the task's prefix, `rationale` how its answer is found, which is read of rows to train on.
    """

    row: int
    prompts: tuple[str, ...]
    references: tuple[str, ...]
    options: tuple[str, ...] = ()
    prefix: str = ""
    rationale: str = ""


def examples_of(task: Task, *, training: bool = False, limit: int | None = None) -> list[Example]:
    """The rows that a task is evaluated on, or trained on, as examples.

    For `training` these are all rows of its `train_split`, in its `train_data` where it has such a file, in place of
    those of its `split`; those are at most `limit`, where the task itself does not ask for fewer. Raises InputError
    where a row lacks a column, has no answer, or one that is none of its options, or where there are no rows.
    """
    most = None if training else min((n for n in (limit, task.limit) if n is not None), default=None)
    examples = []
    file, split = (task.training_file, task.train_split) if training else (task.data, task.split)
    for number, where, columns in rows_of(file, task.layout, split):
        with located(f"{where}, for the task {task.label}: "):
            if all(_holds(columns, *condition) for condition in task.where.items()):
                examples.append(_example(task, number, columns, training))
        if len(examples) == most:
            break
    if not examples:
        conditions = " and ".join(f"have {value!r} as {path!r}" for path, value in task.where.items())
        chosen = f" that {conditions}" if conditions else ""
        raise InputError(f"{file} has no rows{chosen} for the task {task.label}.")
    return examples


def overlapping(task: Task) -> int:
    """How many of the rows that a task is evaluated on are among those it is trained on."""
    if task.training_file.resolve() != task.data.resolve():
        return 0
    return len({e.row for e in examples_of(task)} & {e.row for e in examples_of(task, training=True)})


def _example(task: Task, number: int, columns: Mapping[str, Any], training: bool) -> Example:
    prompts = tuple(fill(template, columns) for template in task.prompts)
    if not all(prompts) and task.metric != "options":
        raise InputError("a prompt is empty.")
    value = value_at(columns, task.output)
    values = value if isinstance(value, list) else [value]
    if not values or not all(isinstance(v, str | int | float) and str(v).strip() for v in values):
        raise InputError(f"the column {task.output!r} must hold an answer, or a list of right answers, not {value!r}.")
    references = tuple(str(v).strip() for v in values)
    options: tuple[str, ...] = ()
    if task.metric == "options":
        options = task.options if isinstance(task.options, tuple) else _row_options(columns, task.options)
        references = tuple(_option(answer, options) for answer in references)
    prefix = fill(task.prefix, columns) if task.prefix else ""
    rationale = _rationale(columns, task.rationale) if task.rationale and training else ""
    return Example(number, prompts, references, options, prefix, rationale)


def _rationale(columns: Mapping[str, Any], column: str) -> str:
    value = value_at(columns, column)
    if not isinstance(value, str) or not value.strip():
        raise InputError(f"the column {column!r} must hold the rationale as text, not {value!r}.")
    return value.strip()


def _option(answer: str, options: Sequence[str]) -> str:
    """The option that an answer is, letter for letter or else `normalized`."""
    same = [o for o in options if o == answer] or [o for o in options if normalized(o) == normalized(answer)]
    if not same:
        raise InputError(f"the answer {answer!r} is none of the options {', '.join(map(repr, options))}.")
    return same[0]


def _row_options(columns: Mapping[str, Any], column: str) -> tuple[str, ...]:
    value = value_at(columns, column)
    if not isinstance(value, list):
        raise InputError(f"the column {column!r} must hold a list of options, not {value!r}.")
    with located(f"the column {column!r}: "):
        return checked_options(value)


def _holds(columns: Mapping[str, Any], path: str, wanted: Any) -> bool:
    value = value_at(columns, path)
    return value in wanted if isinstance(wanted, Sequence) and not isinstance(wanted, str) else bool(value == wanted)


MARKS = ".!?,;:"
"""The punctuation that does not count at an answer's end."""


def normalized(text: str) -> str:
    """The text as answers are compared: letter case, white space and punctuation at the end (`MARKS`) do not count.

    A run of white space is one space. A text of nothing but punctuation is left as it is.
    """
    plain = " ".join(text.split()).casefold()
    return plain.rstrip(MARKS + " ") or plain
