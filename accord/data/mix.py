"""Which rows are taken: those of several sources, as one, and those that each step trains on.

Several sources are all rows of each, one source after the other, or a mix in the proportions of weights.

    accord sft --data a.jsonl b.jsonl                    ["a.jsonl", "b.jsonl"]
    accord sft --data a.jsonl:0.7 b.parquet:0.3          {"a.jsonl": 0.7, "b.parquet": 0.3}

A mix is as large as it can be without repeating a row: of weights w_i that sum to 1 and sources of n_i rows it takes
k_i = w_i min_j(n_j / w_j) rows of each, drawn by a fixed seed, so the same files give the same mix. Which rows a step
trains on is a pure function of seed and step, so a run resumes from its step number alone.
"""

from __future__ import annotations

import math
import os
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from accord.errors import InputError

if TYPE_CHECKING:
    from numpy import int64
    from numpy.typing import NDArray

_WEIGHTED = re.compile(r"(?P<name>.+):(?P<weight>[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?)")

IN_MEMORY = "the data"
"""What messages call rows that come from no file."""


@dataclass(frozen=True, slots=True)
class Part:
    """One source of several, and its weight in the mix, if it is one."""

    source: Any
    weight: float | None = None

    @property
    def name(self) -> str:
        """What messages call it."""
        return os.fspath(self.source) if isinstance(self.source, str | os.PathLike) else IN_MEMORY


def parts_of(source: Any) -> list[Part]:
    """The sources that are given together: a list of names, or a mapping from names to weights; else the one source.

    A name may end in its weight, `a.jsonl:0.7`, unless there is a file of the whole name.

    Raises:
        InputError: a weight is not above 0, only some sources have one, or a source is given twice.
    """
    if isinstance(source, Mapping):
        parts = [Part(name, _number(weight, source)) for name, weight in source.items()]
    elif isinstance(source, list | tuple) and source and all(isinstance(name, str | os.PathLike) for name in source):
        parts = [_part(name, single=len(source) == 1) for name in source]
    else:
        parts = [_part(source, single=True)]
    if len(parts) < 2:
        return [Part(part.source) for part in parts]
    without = [part.name for part in parts if part.weight is None]
    if 0 < len(without) < len(parts):
        raise InputError(f"{without[0]} has no weight, and other data have: give every file one, or none")
    wrong = next((p for p in parts if p.weight is not None and not 0 < p.weight < math.inf), None)
    if wrong is not None:
        raise InputError(f"the weight of {wrong.name} must be above 0, not {wrong.weight:g}")
    places = [os.path.realpath(part.name) if os.path.exists(part.name) else part.name for part in parts]
    twice = next((part.name for i, part in enumerate(parts) if places[i] in places[:i]), None)
    if twice is not None:
        raise InputError(f"{twice} is given twice: a mix takes no row again")
    return parts


def _part(source: Any, *, single: bool) -> Part:
    """A name and the weight it ends in; a name alone needs none, so there it may be a configuration on the Hub."""
    name = os.fspath(source) if isinstance(source, str | os.PathLike) else ""
    match = _WEIGHTED.fullmatch(name)
    if match is None or os.path.exists(name):
        return Part(source)
    if single and not os.path.exists(match["name"]):
        return Part(source)
    return Part(match["name"], float(match["weight"]))


def _number(weight: Any, source: Mapping[Any, Any]) -> float:
    try:
        return float(weight)
    except (TypeError, ValueError):
        if hasattr(weight, "column_names"):  # a DatasetDict
            names = list(map(str, source))
            raise InputError(
                f"data in memory must be one split, and has {', '.join(names)}: give data[{names[0]!r}]"
            ) from None
        raise InputError(
            f"data in memory must be a list of rows, not a mapping (of {', '.join(map(str, source))}), unless it is "
            "one of files to their weights"
        ) from None


def called(source: Any) -> str:
    """What messages and settings call a source: a mix by its weights, `0.7 * a.jsonl + 0.3 * b.parquet`."""
    parts = parts_of(source)
    return " + ".join(part.name if part.weight is None else f"{part.weight:g} * {part.name}" for part in parts)


def shares(parts: Sequence[Part], sizes: Sequence[int], limit: int | None = None) -> list[list[int]]:
    """Which rows of each source, counted from 0 and in order, are taken: at most `limit` in all; without weights all.

    Raises InputError where a mix takes none of some source.
    """
    if parts[0].weight is None:
        before = [sum(sizes[:i]) for i in range(len(sizes))]
        rooms = [n if limit is None else min(n, max(0, limit - b)) for n, b in zip(sizes, before, strict=True)]
        return [list(range(room)) for room in rooms]
    weights = [float(part.weight or 0) for part in parts]
    most = min(size / weight for size, weight in zip(sizes, weights, strict=True)) * sum(weights)
    total = int(most + 1e-9) if limit is None else min(limit, int(most + 1e-9))
    counts = apportioned(total, weights)
    for part, size, count in zip(parts, sizes, counts, strict=True):
        if not count:
            raise InputError(f"the mix of {total} rows has none of {part.name}, of {size}: give it a larger weight")
    drawn = (random.Random(f"mix {i}").sample(range(n), k) for i, (n, k) in enumerate(zip(sizes, counts, strict=True)))
    return [sorted(some) for some in drawn]


def apportioned(total: int, weights: Sequence[float]) -> list[int]:
    """The total in parts proportional to the weights; what division leaves over goes to the largest remainders."""
    exact = [total * weight / sum(weights) for weight in weights]
    whole = [int(share + 1e-9) for share in exact]
    by_remainder = sorted(range(len(weights)), key=lambda i: (whole[i] - exact[i], i))
    for i in by_remainder[: total - sum(whole)]:
        whole[i] += 1
    return whole


@dataclass(frozen=True, slots=True)
class Order:
    """The order in which `count` rows are trained on, `batch_size` at a time.

    Every epoch is a permutation of all rows drawn from (`seed`, epoch): it neither skips nor repeats a row, and its
    last batch is smaller where `batch_size` does not divide `count`. Raises ValueError for sizes below 1 or a negative
    seed.
    """

    count: int
    batch_size: int
    seed: int = 0

    def __post_init__(self) -> None:
        if self.count < 1 or self.batch_size < 1 or self.seed < 0:
            raise ValueError(f"an order needs count and batch_size of at least 1 and a seed of at least 0, not {self}")

    @property
    def steps_per_epoch(self) -> int:
        """ceil(count / batch_size)."""
        return -(-self.count // self.batch_size)

    def steps(self, epochs: float) -> int:
        """The steps of so many epochs, a part of an epoch rounded up to whole steps."""
        return math.ceil(round(epochs * self.steps_per_epoch, 6))

    def epoch(self, step: int) -> float:
        """How many epochs are done before `step` (counted from 0)."""
        return step / self.steps_per_epoch

    def batch(self, step: int) -> list[int]:
        """The rows, counted from 0, of `step`, counted from 0."""
        epoch, index = divmod(step, self.steps_per_epoch)
        start = index * self.batch_size
        return _permutation(self.count, self.seed, epoch)[start : start + self.batch_size].tolist()


@lru_cache(maxsize=2)
def _permutation(count: int, seed: int, epoch: int) -> NDArray[int64]:
    """A permutation of range(count) from Philox keyed by (seed, epoch); cached, as an epoch's steps share it."""
    import numpy as np

    return np.random.Generator(np.random.Philox(key=[seed, epoch])).permutation(count)
