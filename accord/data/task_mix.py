"""Demonstrations of many tasks, in proportions that no large task dominates: what is fine-tuned on."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from accord.data.examples import Example, examples_of
from accord.data.formats import Exemplars, Format, demonstration, inversions
from accord.data.mix import apportion
from accord.data.tasks import Task
from accord.errors import InputError
from accord.records import Demonstration

ZERO = {Format(): 1.0}
"""Rows in their instructions, to be asked in a chat."""


@dataclass(frozen=True, slots=True)
class Mixed:
    """A demonstration of a mix, the task that it is of, how it is written, and the right answer alone.

    An inversion has no right answer: many questions have the same.
    """

    task: Task
    format: Format
    demonstration: Demonstration
    answer: str | None


def quotas(sizes: Sequence[int], cap: int, temperature: float = 1.0, total: int | None = None) -> list[int]:
    """How many rows of each data set a mix takes, in the proportions of `min(size, cap)^(1 / temperature)`.

    Examples-proportional mixing with a maximum (Raffel et al. 2020, arXiv:1910.10683, section 3.5.2; FLAN's maximum is
    3,000). Temperature 1 gives data sets up to the cap their natural weight, higher ones bring all nearer to equal.
    What division leaves over goes to the largest remainders, the earlier first. Unless `total` is given, the mix has as
    many rows as the data sets have, each up to the cap.
    """
    capped = [min(size, cap) for size in sizes]
    most = max(capped, default=0) or 1  # by which weights at low temperatures stay numbers
    weights = [(size / most) ** (1 / temperature) if size else 0.0 for size in capped]
    return apportion(sum(capped) if total is None else total, weights)


def mixture(
    tasks: Sequence[Task],
    left_out: Sequence[str],
    *,
    per_task: int,
    temperature: float = 1.0,
    total: int | None = None,
    formats: Mapping[Format, float] = ZERO,
    seed: int = 0,
) -> tuple[list[Mixed], list[str]]:
    """Demonstrations of the tasks of all clusters but those left out, shuffled, and lines about what was not taken.

    A row appears under one of its task's instructions, drawn at random, and in one format, drawn by its weight among
    those that its task can be written in. Rows that the clusters left out are evaluated on are not trained on under
    other tasks either. Raises InputError where no task is left to train on, one can be written in none of the formats
    or has too few rows to show as exemplars, or a format is there that no task can be written in.
    """
    forbidden = {(t.data.resolve(), e.row) for t in tasks if t.cluster in left_out for e in examples_of(t)}
    pools: list[tuple[Task, list[Example]]] = []
    notes = []
    for task in (task for task in tasks if task.cluster not in left_out):
        rows = examples_of(task, training=True)
        kept = [e for e in rows if (task.training_file.resolve(), e.row) not in forbidden]
        if lost := len(rows) - len(kept):
            notes.append(f"{task.label}: {lost} rows left out, as clusters held out are asked about them")
        pools.append((task, kept))
    if not any(rows for _, rows in pools):
        raise InputError("no row is left to train on: leave fewer clusters out.")
    fitting = [_fitting(task, formats, notes) for task, _ in pools]
    for format in formats:
        if not any(format in some for some in fitting):
            raise InputError(
                f"no task that is trained on has the key {format.lacking(pools[0][0])!r} in the tasks file, which the "
                f"format {format.name} needs: give it to a task, or leave the format out of --formats."
            )
    counts = quotas([len(rows) for _, rows in pools], per_task, temperature, total)
    exemplars = Exemplars(tasks)
    mixed = [
        row
        for (task, rows), n, some in zip(pools, counts, fitting, strict=True)
        for row in _drawn(task, rows, n, some, exemplars, seed)
    ]
    random.Random(f"order {seed}").shuffle(mixed)
    return mixed, notes


def _fitting(task: Task, formats: Mapping[Format, float], notes: list[str]) -> dict[Format, float]:
    """The formats that a task can be written in; what it lacks for the others is noted."""
    lacking = {format: key for format in formats if (key := format.lacking(task))}
    if len(lacking) == len(formats):
        keys, wanted = (" and no ".join(dict.fromkeys(lacking.values())), " or ".join(f.name for f in lacking))
        raise InputError(
            f"the task {task.label} has no {keys} in the tasks file, so no row can be written as {wanted}: give it "
            "one, leave its cluster out, or add zero to --formats."
        )
    for key in dict.fromkeys(lacking.values()):
        names = ", ".join(format.name for format, missing in lacking.items() if missing == key)
        notes.append(f"{task.label}: no row as {names}, as the task has no {key}")
    return {format: weight for format, weight in formats.items() if format not in lacking}


def _drawn(
    task: Task, rows: Sequence[Example], n: int, formats: Mapping[Format, float], exemplars: Exemplars, seed: int
) -> list[Mixed]:
    """n of the rows, none again before all have been taken, each in one of the instructions and one of the formats."""
    rng, of_formats = (random.Random(f"{task.label} {seed}{what}") for what in ("", " formats"))
    taken: list[Example] = []
    while len(taken) < n:
        taken += rng.sample(rows, min(len(rows), n - len(taken)))
    mixed = []
    for example in taken:
        template = rng.choice(range(len(example.prompts)))
        (format,) = of_formats.choices(list(formats), list(formats.values()))
        inversion = of_formats.randrange(len(inversions(task, format)))
        shown = exemplars.of(task, example, format)
        row = demonstration(task, example, 0 if format.prefix else template, format, shown, inversion)
        mixed.append(Mixed(task, format, row, None if format.inverse else example.references[0]))
    return mixed
