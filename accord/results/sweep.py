"""Runs of one method over a grid of settings: what each ended with, and which of them collapsed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, Literal, TypeAlias

from rich.table import Table

from accord.results.base import Evaluation, Interval, MaybeInterval, Record, shown

Setting: TypeAlias = bool | int | float | str | None


class SweepRun(Record):
    """One run of the grid."""

    name: str
    """Its folder in the sweep's."""
    settings: dict[str, Setting]
    """Its own settings."""
    steps: int
    """Steps that it made."""
    start: float | None = None
    """The measure before the first step, or at its first measurement."""
    final: float | None = None
    """The mean of the measure's last three values."""
    best: float | None = None
    """The best value of it."""
    alarms: list[str] = []
    """The alarms that rang."""
    stopped: str = ""
    """Why it stopped itself, where it did."""
    collapsed: bool = False
    """Whether it stopped itself, an alarm of collapse rang, or the measure lost what the sweep calls a collapse."""


class SweepCell(Record):
    """The runs that differ by their seeds alone."""

    settings: dict[str, Setting]
    """Their settings, but for the seed."""
    runs: int
    """How many they are."""
    final: MaybeInterval = None
    """The mean over them of what they ended with, with Student's interval; of one run its value alone."""
    collapsed: Interval
    """The share of them that collapsed, with Wilson's interval."""


@dataclass(frozen=True)
class Panel:
    """A table of a sweep's cells: a row a value of one setting, a column a value of another."""

    title: str
    """The values of the other settings."""
    row: str
    column: str
    columns: Sequence[str]
    rows: Sequence[tuple[str, Sequence[SweepCell | None]]]


class SweepResult(Evaluation):
    """A method over a grid of settings."""

    kind: Literal["sweep"] = "sweep"
    method: str
    """The command."""
    measure: str
    """The column of metrics.jsonl that is compared."""
    loss: float
    """The share of the measure at the start whose loss counts as a collapse."""
    grid: dict[str, list[Setting]]
    """The values of each setting."""
    cells: list[SweepCell]
    """A row for each combination of settings but seeds."""
    runs: list[SweepRun]
    """A row a run."""

    def _rows(self) -> Iterable[Mapping[str, Any]]:
        return self.model_dump(mode="json")["runs"]

    def tables(self) -> Iterator[Table]:
        """What each combination of settings ended with, and the share of its seeds that collapsed."""
        axes = [name for name in self.grid if name != "seed"]
        table = Table(*axes, "runs", self.measure, "collapsed", title=f"{self.method} over {len(self.runs)} runs")
        for cell in self.cells:
            values = [f"{cell.settings[name]}" for name in axes]
            table.add_row(*values, str(cell.runs), shown(cell.final), f"{cell.collapsed:.0%}")
        yield table

    def panels(self) -> list[Panel]:
        """The map: the last setting over the columns, the one before it over the rows; "" stands for none."""
        *others, row, column = ["", "", *(name for name in self.grid if name != "seed")]
        values: dict[str, Sequence[Setting]] = {"": [""], **self.grid}

        def cell(point: Mapping[str, Setting]) -> SweepCell | None:
            own = {name: value for name, value in point.items() if name}
            return next((cell for cell in self.cells if cell.settings == own), None)

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
