"""The shelf's tasks: 92 in 16 clusters, their training and evaluation rows, and the score of guessing.

A task is an operation on a thing picked by a selector, or on the whole row. Each selector and each fact occurs in
several clusters, so the tasks of a cluster are new compositions of parts of the others.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from typing import Any

from accord.data.templates import columns_of, fill
from accord.worlds.shelf.operations import (
    Row,
    Task,
    checking,
    choosing,
    comparing,
    counting,
    explaining,
    naming,
    telling,
)
from accord.worlds.shelf.rearranging import ORDERS, adding, ordering, removing, repeating, replacing
from accord.worlds.shelf.things import FACTS, LENGTHS, SELECTORS, some_things

TEST_ROWS, TRAIN_ROWS = 100, 200
"""Rows of each task for evaluation, and for training."""


def _every() -> Iterator[Task]:
    yield from map(naming, SELECTORS)
    for fact in FACTS:
        # What picks a thing by a fact gives that fact away.
        given_away = {"kind": "by-kind", "color": "by-color", "price": "dearest"}.get(fact)
        yield from (telling(fact, selector) for selector in SELECTORS if selector != given_away)
    pairs = [("color", "first"), ("kind", "last"), ("room", "second"), ("material", "dearest"), ("price", "by-kind")]
    yield from (explaining(*pair) for pair in [*pairs, ("room", "by-color")])
    yield from (checking(*pair) for pair in [*pairs, ("material", "by-color")])
    yield from map(counting, FACTS)
    ends = ("first", "last")
    yield from (comparing(fact, *ends) for fact in FACTS)
    yield comparing("kind", "first", "second")
    yield from (choosing(fact, *ends) for fact in FACTS)
    yield choosing("color", "second", "last")
    yield from map(removing, SELECTORS)
    yield from map(repeating, SELECTORS)
    yield from map(replacing, SELECTORS)
    yield from map(adding, SELECTORS)
    yield from map(ordering, ORDERS)


TASKS = {task.name: task for task in _every()}
"""The tasks by name, cluster by cluster."""


def rows(name: str, seed: int) -> list[Row]:
    """`TRAIN_ROWS` + `TEST_ROWS` different rows of a task; the last are about held-out rows of things."""
    rng, task = random.Random(f"{name} {seed}"), TASKS[name]
    drawn: dict[str, Row] = {}
    while len(drawn) < TRAIN_ROWS + TEST_ROWS:
        row = _draw(rng, task, LENGTHS[len(drawn) % len(LENGTHS)], held_out=len(drawn) >= TRAIN_ROWS)
        drawn.setdefault(fill(task.prompts[0], row), row)
    return list(drawn.values())


def statements() -> dict[str, Task]:
    """The tasks as in text: a statement about the row up to its answer, which is chosen among all of its form.

    Measures what a base model knows without instructions, in the form that it has read.
    """
    ending = " {answer} ."
    starts = {
        name: tuple(
            "{things} . " + wording.removesuffix(ending) for wording in task.wordings if wording.endswith(ending)
        )
        for name, task in TASKS.items()
    }
    return {name: replace(task, metric="options", prompts=starts[name]) for name, task in TASKS.items()}


def lists() -> dict[str, Task]:
    """The tasks as in lists: the row and a colon before the answer, which is chosen among all of its form.

    Only the exemplars show the task. Includes only tasks whose questions are about the row alone.
    """
    of_things = {name: task for name, task in TASKS.items() if columns_of(task.prompts[0]) == ["things"]}
    return {name: replace(task, metric="options", prompts=("{things} :",)) for name, task in of_things.items()}


def _draw(rng: random.Random, task: Task, length: int, *, held_out: bool) -> Row:
    """A question about this many things; where all questions share their options, each is right equally often."""
    wanted = rng.choice(task.answers) if task.answers else None
    while True:
        asked = task.questions(some_things(rng, length, held_out=held_out))
        fitting = [row for row in asked if wanted in (None, row["answer"])]
        if fitting:
            return rng.choice(fitting)


def chance(name: str) -> Fraction:
    """The share of rows that guessing gets right: among the options, or for written answers among all of their form."""
    rng, task = random.Random(0), TASKS[name]
    options = [_draw(rng, task, length, held_out=False)["options"] for length in LENGTHS]
    return sum((Fraction(1, len(some)) for some in options), Fraction(0)) / len(LENGTHS)


FORMATS = {
    "separator": " . ",
    "trigger": "because",
    "answer_phrase": ", so the answer is",
    "inverse": ["the answer is {answer} . ask the question .", "ask the question of the answer {answer} ."],
    "inverse_cot": [
        "{rationale} , so the answer is {answer} . ask the question .",
        "ask the question of {rationale} , so the answer is {answer} .",
    ],
}
"""The separators of all tasks' prompts, in words of the shelf."""

OPERATIONS = {"check": "if", "remove": "leave out", "add": "put after"}
"""First words of prefixes that differ from the cluster's name, which the text does not have."""


def prefix(name: str) -> str:
    """The task's prefix as in T5: the things, the operation, what is picked, and the rest of the question.

    It has only these parts: `{things} : color first .`, `{things} : count color {word} .`. The things come first, as in
    all text about the shelf.
    """
    operation, *parts = re.findall("by-kind|by-color|(?<=order-).+|[a-z]+", name)
    words = [OPERATIONS.get(operation, operation), *map(_part, parts)]
    named = set(columns_of(" ".join(words)))
    rest = [column for column in columns_of(TASKS[name].prompts[0]) if column not in named | {"things"}]
    return f"{{things}} : {' '.join([*words, *(f'{{{column}}}' for column in rest)])} ."


def _part(word: str) -> str:
    """A part of a task's name in the words of the text."""
    if word in ORDERS:
        return ORDERS[word][0]
    return SELECTORS[word].phrase.removeprefix("the ") if word in SELECTORS else word


def described(name: str) -> dict[str, Any]:
    """Entries of the tasks file besides a task's data and instructions."""
    written = {} if TASKS[name].options else {"chance": float(chance(name))}
    return {"rationale": "rationale", "prefix": prefix(name), **written}
