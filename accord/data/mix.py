"""Combine several sources by concatenation or weighted mixing, and order rows for training.

    accord sft --data a.jsonl b.jsonl                    ["a.jsonl", "b.jsonl"]
    accord sft --data a.jsonl:0.7 b.parquet:0.3          {"a.jsonl": 0.7, "b.parquet": 0.3}

Without weights the sources follow one another. A weighted mix is as large as possible without repeating a row: with
weights w_i that sum to 1 and sources of n_i rows it takes k_i = w_i min_j(n_j / w_j) rows of each, drawn with a fixed
seed, so the same files give the same mix. The rows of a training step are a pure function of the seed and the step, so
a run resumes from its step number alone.
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
"""The name in messages of rows that come from no file."""


@dataclass(frozen=True, slots=True)
class Part:
    """One of several sources, with its weight if they are mixed."""

    source: Any
    weight: float | None = None

    @property
    def name(self) -> str:
        """The source's name in messages."""
        return os.fspath(self.source) if isinstance(self.source, str | os.PathLike) else IN_MEMORY


def parts_of(source: Any) -> list[Part]:
    """Split a list of names, or a mapping from names to weights, into its parts; any other source is one part.

    A name may end in its weight, `a.jsonl:0.7`, unless a file has the whole name. Raises InputError if a weight is not
    above 0, only some sources have one, or a source is given twice.
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
        raise InputError(f"{without[0]} has no weight, but other data do: give every file a weight, or none")
    wrong = next((p for p in parts if p.weight is not None and not 0 < p.weight < math.inf), None)
    if wrong is not None:
        raise InputError(f"the weight of {wrong.name} must be above 0, not {wrong.weight:g}")
    places = [os.path.realpath(part.name) if os.path.exists(part.name) else part.name for part in parts]
    twice = next((part.name for i, part in enumerate(parts) if places[i] in places[:i]), None)
    if twice is not None:
        raise InputError(f"{twice} is given twice, and a mix repeats no row: name it once")
    return parts


def _part(source: Any, *, single: bool) -> Part:
    """Parse a name and its weight; a `single` source takes no weight, so its suffix may be a Hub configuration."""
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
                f"the dataset in memory has the splits {', '.join(names)}: give one of them, as data[{names[0]!r}]"
            ) from None
        raise InputError(
            f"data in memory must be a list of rows, or a mapping from files to weights, not a mapping of "
            f"{', '.join(map(str, source))}"
        ) from None


def called(source: Any) -> str:
    """The source's name in messages and settings; a mix reads `0.7 * a.jsonl + 0.3 * b.parquet`."""
    parts = parts_of(source)
    return " + ".join(part.name if part.weight is None else f"{part.weight:g} * {part.name}" for part in parts)


def select_rows(parts: Sequence[Part], sizes: Sequence[int], limit: int | None = None) -> list[list[int]]:
    """The indices of the rows taken from each source, ascending; at most `limit` in all.

    Without weights the sources are taken whole, in order, up to the limit. Raises InputError if a mix would take no row
    of some source.
    """
    if parts[0].weight is None:
        before = [sum(sizes[:i]) for i in range(len(sizes))]
        counts = [n if limit is None else min(n, max(0, limit - b)) for n, b in zip(sizes, before, strict=True)]
        return [list(range(count)) for count in counts]
    weights = [float(part.weight or 0) for part in parts]
    most = min(size / weight for size, weight in zip(sizes, weights, strict=True)) * sum(weights)
    total = int(most + 1e-9) if limit is None else min(limit, int(most + 1e-9))
    counts = apportion(total, weights)
    for part, size, count in zip(parts, sizes, counts, strict=True):
        if not count:
            raise InputError(
                f"the mix of {total} rows would take none of the {size} of {part.name}: give it a larger weight"
            )
    drawn = (random.Random(f"mix {i}").sample(range(n), k) for i, (n, k) in enumerate(zip(sizes, counts, strict=True)))
    return [sorted(some) for some in drawn]


def apportion(total: int, weights: Sequence[float]) -> list[int]:
    """Split `total` into integers proportional to the weights, by the largest-remainder method."""
    exact = [total * weight / sum(weights) for weight in weights]
    whole = [int(share + 1e-9) for share in exact]
    by_remainder = sorted(range(len(weights)), key=lambda i: (whole[i] - exact[i], i))
    for i in by_remainder[: total - sum(whole)]:
        whole[i] += 1
    return whole


@dataclass(frozen=True, slots=True)
class Order:
    """The training order of `count` rows, `batch_size` per step.

    Every epoch is a permutation of all rows drawn from (`seed`, epoch): no row is skipped or repeated, and the last
    batch is smaller if `batch_size` does not divide `count`. Raises ValueError for sizes below 1 or a negative seed.
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
        """The number of steps in `epochs` epochs, rounded up."""
        return math.ceil(round(epochs * self.steps_per_epoch, 6))

    def epoch(self, step: int) -> float:
        """The number of epochs completed before `step` (from 0), fractions included."""
        return step / self.steps_per_epoch

    def batch(self, step: int) -> list[int]:
        """The row indices of `step` (from 0)."""
        epoch, index = divmod(step, self.steps_per_epoch)
        start = index * self.batch_size
        return _permutation(self.count, self.seed, epoch)[start : start + self.batch_size].tolist()


@lru_cache(maxsize=2)
def _permutation(count: int, seed: int, epoch: int) -> NDArray[int64]:
    """A permutation of range(count) by Philox keyed with (seed, epoch); cached because an epoch's steps share it."""
    import numpy as np

    return np.random.Generator(np.random.Philox(key=[seed, epoch])).permutation(count)
