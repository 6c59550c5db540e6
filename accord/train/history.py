"""The numbers of a run so far, and what counts as a change of them.

The noise of a column is that of its successive differences d,

    s^2 = mean(d^2) / 2        (von Neumann et al. 1941, "The mean square successive difference")

which a slow trend does not enlarge, and z = (difference of the means of k and m rows) / (s sqrt(1/k + 1/m)).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import isfinite, sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray

ENDS = 5
"""Rows whose mean is a run's beginning, and those whose mean is its present."""

Values = NDArray[np.float64]


class History:
    """The columns of a run's rows so far."""

    def __init__(self, rows: Iterable[Mapping[str, Any]] = ()) -> None:
        self.rows: list[Mapping[str, Any]] = []
        self._columns: dict[str, list[float]] = {}
        for row in rows:
            self.add(row)

    def add(self, row: Mapping[str, Any]) -> None:
        """One more row; what is not a finite number counts as not measured."""
        self.rows.append(row)
        for name, value in row.items():
            self._columns.setdefault(name, [float("nan")] * (len(self.rows) - 1)).append(_number(value))
        for name in self._columns.keys() - row.keys():
            self._columns[name].append(float("nan"))

    def __contains__(self, name: str) -> bool:
        return name in self._columns

    def of(self, *names: str) -> list[Values]:
        """These columns in the rows that have them all."""
        columns = np.array([self._columns.get(name, [float("nan")] * len(self.rows)) for name in names])
        return list(columns[:, np.isfinite(columns).all(0)])


def noise(values: Values) -> float:
    """The standard deviation of one row's value around its trend, by successive differences."""
    return float(np.sqrt(np.square(np.diff(values)).mean() / 2)) if len(values) > 1 else 0.0


def z(change: float, spread: float, *sizes: int) -> float:
    """A difference of the means of so many rows in units of its standard error; infinite where there is no noise."""
    error = spread * sqrt(sum(1 / size for size in sizes))
    return change / error if error else change and change * float("inf")


def grown(values: Values) -> tuple[float, float, float]:
    """The mean of a run's first rows and of its last, and the z of their difference."""
    before, after = float(values[:ENDS].mean()), float(values[-ENDS:].mean())
    return before, after, z(after - before, noise(values), ENDS, ENDS)


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) and isfinite(value) else float("nan")


def moving(values: Values, size: int) -> Values:
    """The means of every `size` values in a row."""
    sums = np.concatenate([[0.0], values.cumsum()])
    return (sums[size:] - sums[:-size]) / size


def halves(values: Values, size: int) -> tuple[float, float]:
    """The mean of the last `size` values but as many, and that of the last."""
    return float(values[-2 * size : -size].mean()), float(values[-size:].mean())
