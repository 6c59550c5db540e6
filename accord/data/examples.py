"""The rows of tasks as a model is asked them: every instruction filled in, the right answers, the options.

`examples_of` reads those of one task, `mixture` makes demonstrations of many tasks, in proportions that no large task
dominates, and `normalized` is how two answers are compared that are to be the same.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from accord.data.columns import value_at
from accord.data.mix import apportioned
from accord.data.task_files import rows_of
from accord.data.tasks import Task, checked_options, fill
from accord.errors import InputError, located
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

    For `training` these are all rows of its `train_split`, in place of those of its `split`; they are at most `limit`,
    where the task itself does not ask for fewer. Raises InputError where a row lacks a column, has no answer, or one
    that is none of its options, or where there are no rows.
    """
    most = None if training else min((n for n in (limit, task.limit) if n is not None), default=None)
    examples = []
    for number, where, columns in rows_of(task.data, task.layout, task.train_split if training else task.split):
        with located(f"{where}, for the task {task.label}: "):
            if all(_holds(columns, *condition) for condition in task.where.items()):
                examples.append(_example(task, number, columns))
        if len(examples) == most:
            break
    if not examples:
        conditions = " and ".join(f"have {value!r} as {path!r}" for path, value in task.where.items())
        chosen = f" that {conditions}" if conditions else ""
        raise InputError(f"{task.data} has no rows{chosen} for the task {task.label}.")
    return examples


def dialogue(prompt: str, answer: str, form: Form) -> Demonstration:
    """An instruction and its answer: a chat of two turns, or plain text, with a space between the two."""
    if form == "chat":
        return Demonstration((Message("user", prompt),), (Message("assistant", answer),))
    return Demonstration(prompt, f" {answer}" if prompt else answer)


def asked(prompt: str, form: Form) -> Text:
    """The instruction as a model is prompted with it."""
    return dialogue(prompt, "", form).prompt


def _example(task: Task, number: int, columns: Mapping[str, Any]) -> Example:
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
    return Example(number, prompts, references, options)


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


@dataclass(frozen=True, slots=True)
class Mixed:
    """A demonstration of a mix, and the task that it is of."""

    task: Task
    demonstration: Demonstration


def quotas(sizes: Sequence[int], cap: int, temperature: float = 1.0, total: int | None = None) -> list[int]:
    """How many rows of each data set a mix takes, in the proportions of `min(size, cap)^(1 / temperature)`.

    Examples-proportional mixing with a maximum (Raffel et al. 2020, arXiv:1910.10683, section 3.5.2; FLAN's maximum is
    3,000). Temperature 1 gives data sets up to the cap their natural weight, higher ones bring all nearer to equal.
    What division leaves over goes to the largest remainders, the earlier first. Unless `total` is given, the mix has as
    many rows as the data sets have, each up to the cap.
    """
    capped = [min(size, cap) for size in sizes]
    weights = [size ** (1 / temperature) if size else 0.0 for size in capped]
    return apportioned(sum(capped) if total is None else total, weights)


def mixture(
    tasks: Sequence[Task],
    left_out: Sequence[str],
    *,
    per_task: int,
    temperature: float = 1.0,
    total: int | None = None,
    form: Form = "chat",
    seed: int = 0,
) -> tuple[list[Mixed], list[str]]:
    """Demonstrations of the tasks of all clusters but those left out, shuffled, and lines about what was not taken.

    A row appears under one of its task's instructions, drawn at random. Rows that the clusters left out are evaluated
    on are not trained on under other tasks either. Raises InputError where no task is left to train on.
    """
    forbidden = {(t.data.resolve(), e.row) for t in tasks if t.cluster in left_out for e in examples_of(t)}
    pools: list[tuple[Task, list[Example]]] = []
    notes = []
    for task in (task for task in tasks if task.cluster not in left_out):
        rows = examples_of(task, training=True)
        kept = [e for e in rows if (task.data.resolve(), e.row) not in forbidden]
        if lost := len(rows) - len(kept):
            notes.append(f"{task.label}: {lost} rows left out, as clusters held out are asked about them")
        pools.append((task, kept))
    if not any(rows for _, rows in pools):
        raise InputError("no row is left to train on: leave fewer clusters out.")
    counts = quotas([len(rows) for _, rows in pools], per_task, temperature, total)
    mixed = [row for (task, rows), n in zip(pools, counts, strict=True) for row in _drawn(task, rows, n, form, seed)]
    random.Random(f"order {seed}").shuffle(mixed)
    return mixed, notes


def overlapping(task: Task) -> int:
    """How many of the rows that a task is evaluated on are among those it is trained on."""
    return len({e.row for e in examples_of(task)} & {e.row for e in examples_of(task, training=True)})


def _drawn(task: Task, rows: Sequence[Example], n: int, form: Form, seed: int) -> list[Mixed]:
    """n of the rows, none again before all have been taken, each with one of the instructions."""
    rng = random.Random(f"{task.label} {seed}")
    taken: list[Example] = []
    while len(taken) < n:
        taken += rng.sample(rows, min(len(rows), n - len(taken)))
    return [Mixed(task, dialogue(rng.choice(e.prompts), e.references[0], form)) for e in taken]


MARKS = ".!?,;:"
"""The punctuation that does not count at an answer's end."""


def normalized(text: str) -> str:
    """The text as answers are compared: letter case, white space and punctuation at the end (`MARKS`) do not count.

    A run of white space is one space. A text of nothing but punctuation is left as it is.
    """
    plain = " ".join(text.split()).casefold()
    return plain.rstrip(MARKS + " ") or plain
