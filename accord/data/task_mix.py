"""Demonstrations of many tasks, in proportions that no large task dominates: what is fine-tuned on."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from accord.data.examples import Example, examples_of
from accord.data.formats import Exemplars, Format, answer, dialogue, question
from accord.data.mix import apportioned
from accord.data.tasks import Task
from accord.errors import InputError
from accord.records import Demonstration

ZERO = Format()


@dataclass(frozen=True, slots=True)
class Mixed:
    """A demonstration of a mix, the task that it is of, how it is written, and the right answer alone."""

    task: Task
    format: Format
    demonstration: Demonstration
    answer: str


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
    format: Format = ZERO,
    seed: int = 0,
) -> tuple[list[Mixed], list[str]]:
    """Demonstrations of the tasks of all clusters but those left out, shuffled, and lines about what was not taken.

    A row appears under one of its task's instructions, drawn at random, in the format. Rows that the clusters left out
    are evaluated on are not trained on under other tasks either. Raises InputError where no task is left to train on,
    or one has too few rows to show as exemplars.
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
    exemplars = Exemplars(tasks)
    mixed = [
        row
        for (task, rows), n in zip(pools, counts, strict=True)
        for row in _drawn(task, rows, n, format, exemplars, seed)
    ]
    random.Random(f"order {seed}").shuffle(mixed)
    return mixed, notes


def _drawn(task: Task, rows: Sequence[Example], n: int, format: Format, exemplars: Exemplars, seed: int) -> list[Mixed]:
    """n of the rows, none again before all have been taken, each with one of the instructions."""
    rng = random.Random(f"{task.label} {seed}")
    taken: list[Example] = []
    while len(taken) < n:
        taken += rng.sample(rows, min(len(rows), n - len(taken)))
    mixed = []
    for example in taken:
        template = rng.choice(range(len(example.prompts)))
        asked = question(task, example, template, format, exemplars.of(task, example, format))
        mixed.append(Mixed(task, format, dialogue(asked, answer(example), format.form), example.references[0]))
    return mixed
