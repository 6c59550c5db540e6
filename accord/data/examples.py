"""The rows of tasks as examples: filled instruction templates, reference answers, options."""

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
    """A row of a task: its number in the file (from 1), a prompt per template, the right answers, and the options.

    `prefix` is the task's T5-style template filled in; `rationale` is the reasoning, read of training rows only.
    """

    row: int
    prompts: tuple[str, ...]
    references: tuple[str, ...]
    options: tuple[str, ...] = ()
    prefix: str = ""
    rationale: str = ""


def examples_of(task: Task, *, training: bool = False, limit: int | None = None) -> list[Example]:
    """Read the task's evaluation rows (`split` of `data`), or with `training` its training rows, as examples.

    Training rows are the `train_split` of `train_data` or `data`. `limit` and the task's own limit bound evaluation
    rows only. Raises InputError if a row lacks a column or an answer, its answer is not among its options, or there are
    no rows.
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
    """The number of the task's evaluation rows that are also training rows."""
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
    """The option equal to the answer, exactly or else after `normalized`."""
    same = [o for o in options if o == answer] or [o for o in options if normalized(o) == normalized(answer)]
    if not same:
        raise InputError(f"the answer {answer!r} is not among the options {', '.join(map(repr, options))}.")
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
"""Punctuation that is ignored at the end of an answer."""


def normalized(text: str) -> str:
    """Normalize an answer for comparison: casefold, collapse white space, strip `MARKS` at the end.

    A text of punctuation alone keeps it.
    """
    plain = " ".join(text.split()).casefold()
    return plain.rstrip(MARKS + " ") or plain
