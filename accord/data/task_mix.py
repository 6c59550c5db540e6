"""Training mixtures of many tasks: examples-proportional sampling, with a cap so that no large task dominates."""

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
"""The zero-shot chat format alone."""


@dataclass(frozen=True, slots=True)
class Mixed:
    """A demonstration of a mixture, with its task, its format and its right answer.

    `answer` is None for an inversion, where many questions are right.
    """

    task: Task
    format: Format
    demonstration: Demonstration
    answer: str | None


def quotas(sizes: Sequence[int], cap: int, temperature: float = 1.0, total: int | None = None) -> list[int]:
    """The number of rows that a mixture takes from each dataset, proportional to `min(size, cap)^(1 / temperature)`.

    Examples-proportional mixing with a maximum (Raffel et al. 2020, arXiv:1910.10683, section 3.5.2; FLAN's maximum is
    3,000). Temperature 1 weights datasets by their size up to the cap; higher temperatures approach equal weights.
    Rounding is by largest remainders, the earlier dataset first. `total` defaults to the sum of the capped sizes.
    """
    capped = [min(size, cap) for size in sizes]
    most = max(capped, default=0) or 1  # dividing by it avoids overflow at low temperatures
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
    """Shuffled demonstrations of the tasks of all clusters but those left out, and notes on rows and formats skipped.

    Each row is written with one of its task's instruction templates, drawn uniformly, and one format, drawn by weight
    among those its task supports. Evaluation rows of the clusters left out are excluded from all other tasks too.
    Raises InputError if no row is left to train on, a task supports no format or has too few exemplars, or no task
    supports some format.
    """
    held_out = {(t.data.resolve(), e.row) for t in tasks if t.cluster in left_out for e in examples_of(t)}
    pools: list[tuple[Task, list[Example]]] = []
    notes = []
    for task in (task for task in tasks if task.cluster not in left_out):
        rows = examples_of(task, training=True)
        kept = [e for e in rows if (task.training_file.resolve(), e.row) not in held_out]
        if lost := len(rows) - len(kept):
            notes.append(f"{task.label}: {lost} rows left out, which held-out clusters are evaluated on")
        pools.append((task, kept))
    if not any(rows for _, rows in pools):
        raise InputError("no row is left to train on: leave fewer clusters out.")
    supported = [_supported(task, formats, notes) for task, _ in pools]
    for format in formats:
        if not any(format in some for some in supported):
            raise InputError(
                f"no training task has the key {format.missing_key(pools[0][0])!r} in the tasks file, which the "
                f"format {format.name} needs: give it to a task, or leave the format out of --formats."
            )
    counts = quotas([len(rows) for _, rows in pools], per_task, temperature, total)
    exemplars = Exemplars(tasks)
    mixed = [
        row
        for (task, rows), n, some in zip(pools, counts, supported, strict=True)
        for row in _draw(task, rows, n, some, exemplars, seed)
    ]
    random.Random(f"order {seed}").shuffle(mixed)
    return mixed, notes


def _supported(task: Task, formats: Mapping[Format, float], notes: list[str]) -> dict[Format, float]:
    """The formats that the task has the keys for, with their weights; adds a note for each missing key."""
    lacking = {format: key for format in formats if (key := format.missing_key(task))}
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


def _draw(
    task: Task, rows: Sequence[Example], n: int, formats: Mapping[Format, float], exemplars: Exemplars, seed: int
) -> list[Mixed]:
    """Draw n rows, repeating none before all are taken, each with a random template and format."""
    rng, format_rng = (random.Random(f"{task.label} {seed}{stream}") for stream in ("", " formats"))
    taken: list[Example] = []
    while len(taken) < n:
        taken += rng.sample(rows, min(len(rows), n - len(taken)))
    mixed = []
    for example in taken:
        template = rng.choice(range(len(example.prompts)))
        (format,) = format_rng.choices(list(formats), list(formats.values()))
        inversion = format_rng.randrange(len(inversions(task, format)))
        shown = exemplars.of(task, example, format)
        row = demonstration(task, example, 0 if format.prefix else template, format, shown, inversion)
        mixed.append(Mixed(task, format, row, None if format.inverse else example.references[0]))
    return mixed
