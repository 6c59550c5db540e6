"""Columns of metrics as curves: finite values, running mean, peak, and thinning for drawing."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from accord.report.captions import HELD_OUT
from accord.report.html import percent

Array = npt.NDArray[np.float64]

_NOT_CURVES = {"step", "seconds", "tokens", "epoch"}

ENDS = ("_low", "_high")
"""Suffixes of the columns with the ends of intervals."""

STEADY = 0.02
"""A fall by less than this share of the gain is ignored."""


@dataclass(frozen=True)
class Series:
    """One metric over a run: `steps` and finite `values`, both (n,), and the number of rows with NaN or infinity.

    `interval` has the ends (2, n) of the values' 95% intervals, NaN where a value has none; None where none has.
    """

    steps: Array
    values: Array
    broken: int = 0
    interval: Array | None = None

    def __len__(self) -> int:
        return len(self.values)


def columns(rows: Sequence[Mapping[str, Any]]) -> dict[str, Series]:
    """The numeric columns of the rows, in order of appearance, without those that have no finite value.

    Every row has a `step`. A row without the column, or with null, was not measured at that step; NaN and infinity
    count as broken. For held-out rows, `NAME_low` and `NAME_high` are not columns but the interval of NAME.
    """
    series = {}
    names = dict.fromkeys(name for row in rows for name in row if name not in _NOT_CURVES)
    for name in names:
        if name.startswith(HELD_OUT) and name.endswith(ENDS) and name.rsplit("_", 1)[0] in names:
            continue
        pairs = [(row["step"], row.get(name)) for row in rows]
        numbers = [(step, v) for step, v in pairs if isinstance(v, int | float) and not isinstance(v, bool)]
        finite = [(step, value) for step, value in numbers if math.isfinite(value)]
        if finite:
            steps, values = (np.array(axis, float) for axis in zip(*finite, strict=True))
            interval = None
            if name.startswith(HELD_OUT) and {name + end for end in ENDS} <= names.keys():
                at = {row["step"]: row for row in rows}
                interval = np.array([[at[step].get(name + end) for step in steps] for end in ENDS], float)
            series[name] = Series(steps, values, len(numbers) - len(finite), interval)
    return series


def smooth(values: Array) -> Array:
    """The centered running mean over a fifteenth of the run, truncated at both ends."""
    n, half = len(values), len(values) // 30
    total = np.concatenate([[0.0], np.cumsum(values)])
    first = np.maximum(np.arange(n) - half, 0)
    after = np.minimum(np.arange(n) + half + 1, n)
    means: Array = (total[after] - total[first]) / (after - first)
    return means


def thin(steps: Array, values: Array, most: int = 240) -> tuple[Array, Array]:
    """At most `most` points with the same outline: the minimum and maximum of each stretch of steps."""
    if len(values) <= most:
        return steps, values
    kept = []
    for stretch in np.array_split(np.arange(len(values)), most // 2):
        kept += sorted({int(stretch[np.argmin(values[stretch])]), int(stretch[np.argmax(values[stretch])])})
    return steps[kept], values[kept]


def ends(values: Array) -> tuple[float, float]:
    """The means of the first and last tenth of a run (at least one value each)."""
    tenth = max(1, len(values) // 10)
    return float(values[:tenth].mean()), float(values[-tenth:].mean())


def paired(first: Series, second: Series) -> tuple[Array, Array]:
    """The values of two metrics at the steps where both were measured."""
    _, left, right = np.intersect1d(first.steps, second.steps, return_indices=True)
    return first.values[left], second.values[right]


@dataclass(frozen=True)
class Peak:
    """The index of the highest value, the gain up to it, and the loss from it to the end."""

    index: int
    gain: float
    lost: float

    @property
    def never_rose(self) -> bool:
        """Whether no value exceeds the first."""
        return self.gain <= 0

    @property
    def has_turned(self) -> bool:
        """Whether it ends well below its peak."""
        return self.lost > STEADY * self.gain

    @property
    def fall(self) -> str:
        """The fall in words."""
        if self.lost > self.gain:
            return "ends below where it began"
        return f"has fallen by {percent(self.lost / self.gain)} of its gain at the end"


def peak(values: Array) -> Peak:
    """The peak of a curve with at least one value."""
    index = int(np.argmax(values))
    return Peak(index, float(values[index] - values[0]), float(values[index] - values[-1]))
