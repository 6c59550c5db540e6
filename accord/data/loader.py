"""Which rows a step trains on: a pure function of seed and step, so a run resumes from its step number alone."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray


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
        epoch, place = divmod(step, self.steps_per_epoch)
        start = place * self.batch_size
        return [int(row) for row in _permutation(self.count, self.seed, epoch)[start : start + self.batch_size]]


@lru_cache(maxsize=2)
def _permutation(count: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """A permutation of range(count) from Philox keyed by (seed, epoch); cached, as an epoch's steps share it."""
    return np.random.Generator(np.random.Philox(key=[seed, epoch])).permutation(count)
