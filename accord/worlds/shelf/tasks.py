"""The shelf's tasks as files: rows to train on and rows to be asked about, and what guessing scores."""

from __future__ import annotations

import random
from fractions import Fraction
from pathlib import Path
from typing import Any

import yaml

from accord.data.tasks import fill
from accord.files import write_rows, write_text
from accord.worlds.shelf.operations import TASKS, Row, Task
from accord.worlds.shelf.things import LENGTHS, some_things

TEST_ROWS, TRAIN_ROWS = 100, 200
"""Rows of each task to evaluate on, and to train on."""


def write_tasks(folder: Path, seed: int = 0) -> None:
    """Write `tasks.yaml`, and for each task a file of `TRAIN_ROWS` to train on, then `TEST_ROWS` to evaluate on."""
    clusters: dict[str, dict[str, Any]] = {}
    for name, task in TASKS.items():
        write_rows(folder / f"{name}.jsonl", rows(name, seed))
        clusters.setdefault(task.cluster, {})[name] = {
            "data": f"{name}.jsonl",
            "metric": task.metric,
            "prompt": list(task.prompts),
            "output": "answer",
            **({"options": list(task.answers) or "options"} if task.metric == "options" else {}),
            "split": f"train[{TRAIN_ROWS}:]",
            "train_split": f"train[:{TRAIN_ROWS}]",
        }
    write_text(folder / "tasks.yaml", yaml.safe_dump({"clusters": clusters}, sort_keys=False, width=120))


def rows(name: str, seed: int) -> list[Row]:
    """`TRAIN_ROWS` + `TEST_ROWS` different rows of a task; the last are about rows of things that nothing else holds."""
    rng, task = random.Random(f"{name} {seed}"), TASKS[name]
    drawn: dict[str, Row] = {}
    while len(drawn) < TRAIN_ROWS + TEST_ROWS:
        row = _draw(rng, task, LENGTHS[len(drawn) % len(LENGTHS)], held_out=len(drawn) >= TRAIN_ROWS)
        drawn.setdefault(fill(task.prompts[0], row), row)
    return list(drawn.values())


def _draw(rng: random.Random, task: Task, length: int, *, held_out: bool) -> Row:
    """A question about so many things; where all questions have the same options, each is right equally often."""
    wanted = rng.choice(task.answers) if task.answers else None
    while True:
        asked = task.questions(some_things(rng, length, held_out=held_out))
        fitting = [row for row in asked if wanted in (None, row["answer"])]
        if fitting:
            return rng.choice(fitting)


def chance(name: str) -> Fraction:
    """The share of rows that guessing gets right, among the options or, where they are written, answers of their form."""
    rng, task = random.Random(0), TASKS[name]
    options = [_draw(rng, task, length, held_out=False)["options"] for length in LENGTHS]
    return sum((Fraction(1, len(some)) for some in options), Fraction(0)) / len(LENGTHS)
