"""The rows of a task as a model is asked them: every instruction filled in, the right answers, the options."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from accord.data.answers import normalised
from accord.data.load import open_rows
from accord.data.tasks import Task, checked_options
from accord.data.template import fill, value_at
from accord.errors import InputError
from accord.records import Demonstration, Message, Text

Form: TypeAlias = Literal["chat", "plain"]
"""How a model is asked: by a user's message in its chat template, or by plain text that it goes on from."""


@dataclass(frozen=True, slots=True)
class Example:
    """A row of a task: its number in its file (from 1), the prompt of each template, right answers, and options."""

    row: int
    prompts: tuple[str, ...]
    references: tuple[str, ...]
    options: tuple[str, ...] = ()


def examples_of(task: Task, *, training: bool = False, limit: int | None = None) -> list[Example]:
    """The rows that a task is evaluated on, or trained on, as examples.

    Args:
        task: the task.
        training: the rows of its `train_split`, all of them, in place of those of its `split`.
        limit: at most so many, where the task itself does not ask for fewer.

    Raises:
        InputError: a row lacks a column, has no answer, or an answer that is none of its options, or there are no rows.
    """
    most = None if training else min((n for n in (limit, task.limit) if n is not None), default=None)
    found = []
    name, unit, numbered = open_rows(task.data, task.train_split if training else task.split)
    for number, columns in numbered:
        try:
            if all(_holds(columns, *condition) for condition in task.where.items()):
                found.append(_example(task, number, columns))
        except InputError as error:
            raise InputError(f"{name}, {unit} {number}, for the task {task.label}: {error}.") from None
        if len(found) == most:
            break
    if not found:
        chosen = f" that {_told(task.where)}" if task.where else ""
        raise InputError(f"{task.data} has no rows{chosen} for the task {task.label}.")
    return found


def dialogue(prompt: str, answer: str, form: Form) -> Demonstration:
    """An instruction and its answer: a chat of two turns, or plain text with a space between the two."""
    if form == "chat":
        return Demonstration((Message("user", prompt),), (Message("assistant", answer),))
    return Demonstration(prompt, f" {answer}")


def asked(prompt: str, form: Form) -> Text:
    """The instruction as a model is prompted with it."""
    return dialogue(prompt, "", form).prompt


def _example(task: Task, number: int, columns: Mapping[str, Any]) -> Example:
    prompts = tuple(fill(template, columns) for template in task.prompts)
    if not all(prompts):
        raise InputError("a prompt is empty")
    references = _references(value_at(columns, task.output), task.output)
    options: tuple[str, ...] = ()
    if task.metric == "options":
        options = task.options if isinstance(task.options, tuple) else _row_options(columns, task.options)
        references = tuple(_option(answer, options) for answer in references)
    return Example(number, prompts, references, options)


def _references(value: Any, column: str) -> tuple[str, ...]:
    """The right answers: a text or a number, or a list of such of which any is right."""
    values = value if isinstance(value, list) else [value]
    if not values or not all(isinstance(v, str | int | float) and str(v).strip() for v in values):
        raise InputError(f"the column {column!r} must hold an answer, or a list of right answers, not {value!r}")
    return tuple(str(v).strip() for v in values)


def _option(answer: str, options: Sequence[str]) -> str:
    """The option that an answer is, letter for letter or else `normalised`."""
    same = [option for option in options if option == answer]
    same += [option for option in options if normalised(option) == normalised(answer)]
    if not same:
        raise InputError(f"the answer {answer!r} is none of the options {', '.join(map(repr, options))}")
    return same[0]


def _row_options(columns: Mapping[str, Any], column: str) -> tuple[str, ...]:
    value = value_at(columns, column)
    if not isinstance(value, list):
        raise InputError(f"the column {column!r} must hold a list of options, not {value!r}")
    try:
        return checked_options(value)
    except InputError as error:
        raise InputError(f"the column {column!r}: {str(error).removesuffix('.')}") from None


def _holds(columns: Mapping[str, Any], path: str, wanted: Any) -> bool:
    value = value_at(columns, path)
    return value in wanted if isinstance(wanted, Sequence) and not isinstance(wanted, str) else bool(value == wanted)


def _told(where: Mapping[str, Any]) -> str:
    return " and ".join(f"have {value!r} as {path!r}" for path, value in where.items())
