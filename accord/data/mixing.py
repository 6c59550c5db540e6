"""Training mixes: demonstrations of many tasks, in proportions that no large task dominates."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from accord.data.examples import Example, Form, dialogue, examples_of
from accord.data.tasks import Task
from accord.errors import InputError
from accord.records import Demonstration


@dataclass(frozen=True, slots=True)
class Mixed:
    """A demonstration of a mix, and the task that it is of."""

    task: Task
    demonstration: Demonstration


def quotas(sizes: Sequence[int], cap: int, temperature: float = 1.0, total: int | None = None) -> list[int]:
    """How many rows of each data set a mix takes, in the proportions of `min(size, cap)^(1 / temperature)`.

    Examples-proportional mixing with a maximum (Raffel et al. 2020, arXiv:1910.10683, section 3.5.2; FLAN's maximum is
    3,000). Temperature 1 gives data sets up to the cap their natural weight, higher ones bring all nearer to equal.
    What division leaves over goes to the largest remainders, the earlier first.

    Args:
        sizes: rows of each data set.
        cap: rows beyond which a data set gains no further weight.
        temperature: flattens the proportions, above 0.
        total: rows of the mix; at first as many as the data sets have, each up to the cap.
    """
    capped = [min(size, cap) for size in sizes]
    weights = [size ** (1 / temperature) if size else 0.0 for size in capped]
    total = sum(capped) if total is None else total
    shares = [total * weight / sum(weights) for weight in weights]
    whole = [int(share + 1e-9) for share in shares]
    by_remainder = sorted(range(len(sizes)), key=lambda i: (whole[i] - shares[i], i))
    for i in by_remainder[: total - sum(whole)]:
        whole[i] += 1
    return whole


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
    on are not trained on under other tasks either.

    Raises:
        InputError: no task is left to train on.
    """
    forbidden = {(t.data.resolve(), e.row) for t in tasks if t.cluster in left_out for e in examples_of(t)}
    pools: list[tuple[Task, list[Example]]] = []
    told = []
    for task in tasks:
        if task.cluster in left_out:
            continue
        rows = examples_of(task, training=True)
        kept = [e for e in rows if (task.data.resolve(), e.row) not in forbidden]
        if len(kept) < len(rows):
            told.append(
                f"{task.label}: {len(rows) - len(kept)} rows left out, as clusters held out are asked about them"
            )
        pools.append((task, kept))
    if not any(rows for _, rows in pools):
        raise InputError("no row is left to train on: leave fewer clusters out.")
    counts = quotas([len(rows) for _, rows in pools], per_task, temperature, total)
    mixed = [row for (task, rows), n in zip(pools, counts, strict=True) for row in _drawn(task, rows, n, form, seed)]
    random.Random(f"order {seed}").shuffle(mixed)
    return mixed, told


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
