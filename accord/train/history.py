"""Building blocks of alarm rules: the numbers of a run so far, and tests for a change in them.

The noise of a column is estimated from its successive differences d,

    s^2 = mean(d^2) / 2        (von Neumann et al. 1941, "The mean square successive difference")

which a slow trend does not inflate, and z = (difference of the means of k and m rows) / (s sqrt(1/k + 1/m)).
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from math import inf, isfinite, nan, sqrt
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

ENDS = 5
"""Rows in the mean that stands for a run's beginning, and in the mean that stands for its present."""
RECENT = 10
"""Rows that a jump is compared with, and rows for which flat rewards or a raised loss must last."""
EARLY = 3
"""Rows within which a young run may go wrong: its value before them counts as the start."""
Z_CHANGE, Z_SEARCH = 3.0, 5.5
"""z of a change beyond noise, and of one beyond the noise of a search over the whole run."""

Values = NDArray[np.float64]


class History:
    """The columns of a run's rows so far."""

    def __init__(self) -> None:
        self.rows: list[Mapping[str, Any]] = []
        self._columns: dict[str, array[float]] = {}
        self._common: dict[tuple[str, ...], tuple[array[float], ...]] = {}
        self._seen: dict[tuple[str, ...], int] = {}

    def add(self, row: Mapping[str, Any]) -> None:
        """Add a row; a value that is not a finite number counts as not measured."""
        self.rows.append(row)
        for name, value in row.items():
            number = float(value) if isinstance(value, int | float) and isfinite(value) else nan
            self._columns.setdefault(name, array("d", [nan]) * (len(self.rows) - 1)).append(number)
        for name in self._columns.keys() - row.keys():
            self._columns[name].append(nan)

    def extend(self, row: Mapping[str, Any]) -> None:
        """Add more columns to the last row, which were logged separately."""
        last = {**self.rows.pop(), **row}
        for names, seen in self._seen.items():
            if seen > len(self.rows):
                if self._values(names, len(self.rows)):
                    for common in self._common[names]:
                        common.pop()
                self._seen[names] = len(self.rows)
        for column in self._columns.values():
            column.pop()
        self.add(last)

    def __contains__(self, name: str) -> bool:
        return name in self._columns

    def of(self, *names: str) -> list[Values]:
        """These columns over the rows that have all of them; each row is examined once."""
        common = self._common.setdefault(names, tuple(array("d") for _ in names))
        for i in range(self._seen.get(names, 0), len(self.rows)):
            for column, value in zip(common, self._values(names, i), strict=False):
                column.append(value)
        self._seen[names] = len(self.rows)
        return [np.array(column) for column in common]

    def _values(self, names: tuple[str, ...], i: int) -> list[float]:
        """The values of a row in these columns; empty where it lacks one."""
        if not all(name in self._columns for name in names):
            return []
        values = [self._columns[name][i] for name in names]
        return values if all(map(isfinite, values)) else []


def noise(values: Values) -> float:
    """The standard deviation of one row's value around its trend, by successive differences."""
    return float(np.sqrt(np.square(np.diff(values)).mean() / 2)) if len(values) > 1 else 0.0


def curved_noise(values: Values) -> float:
    """The same for few values on a curve, by second differences d of variance 6 s^2: s = median |d| / .6745 / 6^.5.

    Neither a straight trend nor a steep beginning inflates it: the median ignores outliers.
    """
    return float(np.median(np.abs(np.diff(values, 2))) / 0.6745 / sqrt(6)) if len(values) > 2 else 0.0


def z(change: float, spread: float, *sizes: int) -> float:
    """A difference of means of `sizes` rows in units of its standard error; infinite where there is no noise."""
    error = spread * sqrt(sum(1 / size for size in sizes))
    return change / error if error else change and change * inf


def trend(values: Values, size: int = ENDS) -> tuple[float, float, float]:
    """The means of the first and of the last `size` rows, and the z of their difference; nan, nan, 0 for few rows."""
    if len(values) < 2 * size:
        return nan, nan, 0.0
    before, after = float(values[:size].mean()), float(values[-size:].mean())
    return before, after, z(after - before, noise(values), size, size)


def moving_means(values: Values, size: int) -> Values:
    """The moving means of `size` values."""
    sums = np.concatenate([[0.0], values.cumsum()])
    return (sums[size:] - sums[:-size]) / size


Check: TypeAlias = Callable[[History], str | None]


@dataclass(frozen=True)
class Rule:
    """An alarm: the function that checks for it, its advice, and the columns it needs.

    Each of `needs` is an alternative: a space-separated list of columns that must all be present. Runs with a column of
    `apart_from` are of another kind, and the rule does not apply to them.
    """

    name: str
    check: Check
    advice: str
    needs: tuple[str, ...]
    apart_from: tuple[str, ...] = ()

    def ways(self, columns: Collection[str]) -> list[str]:
        """The alternatives of `needs` that these columns satisfy; none for a run of another kind."""
        known = set(columns)
        return [] if known & set(self.apart_from) else [way for way in self.needs if known.issuperset(way.split())]

    def lacks(self, columns: Collection[str]) -> list[str]:
        """The missing columns of the alternative that lacks fewest."""
        missing = [[name for name in way.split() if name not in columns] for way in self.needs]
        return min(missing, key=len)


def alarm_rule(advice: str, *needs: str, apart_from: tuple[str, ...] = ()) -> Callable[[Check], Rule]:
    """Decorator: makes a function the rule of the alarm with its name."""

    def rule(check: Check) -> Rule:
        return Rule(check.__name__.replace("_", "-"), check, advice, needs, apart_from)

    return rule
