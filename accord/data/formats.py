"""How a row of a task is put into words: the one place that writes prompts.

    format       a model reads                                   and is to write
    zero         the instruction                                 the answer
    few          exemplars, the instruction                      the answer

An exemplar is another row of the task, its instruction and its answer as text, as in GPT-3's prompts and FLAN's. They
are drawn from rows that are trained on, and never from those that any task is asked about.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal, TypeAlias

from accord.data.examples import Example, examples_of
from accord.data.tasks import Task
from accord.errors import InputError
from accord.records import Demonstration, Message, Text

Form: TypeAlias = Literal["chat", "plain"]
"""How a model is asked: by a user's message in its chat template, or by plain text that it goes on from."""


@dataclass(frozen=True, slots=True)
class Format:
    """How a row is written: in which form, after how many exemplars (`shots`), which `seed` and row decide."""

    form: Form = "chat"
    shots: int = 0
    seed: int = 0

    @property
    def name(self) -> str:
        """What it is called where formats are mixed."""
        return "few" if self.shots else "zero"


def dialogue(prompt: str, answer: str, form: Form) -> Demonstration:
    """An instruction and its answer: a chat of two turns, or plain text, with a space between the two."""
    if form == "chat":
        return Demonstration((Message("user", prompt),), (Message("assistant", answer),))
    return Demonstration(prompt, f" {answer}" if prompt else answer)


def asked(prompt: str, form: Form) -> Text:
    """The instruction as a model is prompted with it."""
    return dialogue(prompt, "", form).prompt


def question(
    task: Task, example: Example, template: int, format: Format, shown: Sequence[Example] = (), *, blank: bool = False
) -> str:
    """What a model is asked about a row: the exemplars `shown`, then the row in the instruction of this number.

    Exemplars are in the same instruction, each with its answer after a space, and end with the task's separator. With
    `blank` the row's own columns are left out of its instruction.
    """
    before = [f"{e.prompts[template]} {answer(e)}" for e in shown]
    return task.wording.separator.join([*before, (task.blanks if blank else example.prompts)[template]])


def answer(example: Example) -> str:
    """What is to be written about a row."""
    return example.references[0]


class Exemplars:
    """The rows of tasks that may be shown: those to train on, but for rows that any `known` task is asked about.

    Rows are told apart by their file and their number in it.
    """

    def __init__(self, known: Iterable[Task]) -> None:
        self._known = list(known)
        self._pools: dict[str, list[Example]] = {}

    def of(self, task: Task, example: Example, format: Format) -> tuple[Example, ...]:
        """As many as the format shows, in the order to show them: different rows, none of them the one asked about.

        The task, the row and the seed decide which, whatever model is asked and whether it is to learn. Raises
        InputError where there are too few.
        """
        pool, rng = self._pool(task), random.Random(f"exemplars {task.label} {example.row} {format.seed}")
        seen: set[int] = set()
        shown: list[Example] = []
        while len(shown) < format.shots and len(seen) < len(pool):
            i = rng.randrange(len(pool))
            if i not in seen and pool[i].row != example.row and pool[i].prompts != example.prompts:
                shown.append(pool[i])
            seen.add(i)
        if len(shown) < format.shots:
            rows = "1 row" if len(shown) == 1 else f"{len(shown)} rows"
            raise InputError(
                f"{task.data} has {rows} to show as exemplars of the task {task.label}, beside row "
                f"{example.row}, of those it is trained on and no task is asked about: ask for --shots {len(shown)} or "
                "fewer, or give it more by train_split."
            )
        return tuple(shown)

    @cached_property
    def _asked(self) -> set[tuple[Path, int]]:
        return {(task.data.resolve(), e.row) for task in self._known for e in examples_of(task)}

    def _pool(self, task: Task) -> list[Example]:
        """All rows of the task that may be shown, in the order of its file."""
        if task.label not in self._pools:
            file = task.data.resolve()
            rows = examples_of(task, training=True)
            self._pools[task.label] = [e for e in rows if (file, e.row) not in self._asked]
        return self._pools[task.label]
