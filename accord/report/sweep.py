"""The map of a sweep: a table over two of its settings, for each combination of the others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product

from accord.results.sweep import Setting, SweepCell, SweepResult


@dataclass(frozen=True)
class Panel:
    """A table of a sweep's cells: a row a value of one setting, a column a value of another."""

    title: str
    """The values of the other settings."""
    row: str
    column: str
    columns: Sequence[str]
    rows: Sequence[tuple[str, Sequence[SweepCell | None]]]


def panels(result: SweepResult) -> list[Panel]:
    """The panels of a sweep: the last setting over the columns, the one before it over the rows; "" stands for none."""
    *others, row, column = ["", "", *(name for name in result.grid if name != "seed")]
    values: dict[str, Sequence[Setting]] = {"": [""], **result.grid}

    def cell(point: Mapping[str, Setting]) -> SweepCell | None:
        own = {name: value for name, value in point.items() if name}
        return next((cell for cell in result.cells if cell.settings == own), None)

    drawn = []
    for fixed in product(*(values[name] for name in others)):
        point = dict(zip(others, fixed, strict=True))
        rows = [
            (f"{down}", [cell({**point, row: down, column: across}) for across in values[column]])
            for down in values[row]
        ]
        title = ", ".join(f"{name} {value}" for name, value in point.items() if name)
        drawn.append(Panel(title, row, column, [f"{across}" for across in values[column]], rows))
    return drawn
