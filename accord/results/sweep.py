"""Runs of one method over a grid of settings: the final measure of each, and which runs collapsed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, Literal, TypeAlias

from rich.table import Table

from accord.results.base import Evaluation, MaybeInterval, Record
from accord.results.intervals import Interval, shown

Setting: TypeAlias = bool | int | float | str | None


class SweepRun(Record):
    """One run of the grid."""

    name: str
    """Its folder within the sweep's."""
    settings: dict[str, Setting]
    """Its settings."""
    steps: int
    """Number of steps made."""
    start: float | None = None
    """The measure before the first step, or at its first measurement."""
    final: float | None = None
    """The mean of the measure's last three values."""
    best: float | None = None
    """The best value of the measure."""
    alarms: list[str] = []
    """The alarms raised."""
    stopped: str = ""
    """Why it stopped itself, if it did."""
    collapsed: bool = False
    """Whether it stopped itself, an alarm of collapse was raised, or the measure fell by the sweep's threshold."""


class SweepCell(Record):
    """Runs that differ only in their seeds."""

    settings: dict[str, Setting]
    """Their settings without the seed."""
    runs: int
    """Number of runs."""
    final: MaybeInterval = None
    """The mean of their final measures, with Student's interval; of one run only its value."""
    collapsed: Interval
    """The share that collapsed, with Wilson's interval."""

    def shown_final(self) -> str:
        """The final measure as text, of one run without an interval."""
        return shown(self.final) if self.final is None or self.final.n > 1 else f"{self.final.estimate:.3f}"


@dataclass(frozen=True)
class Panel:
    """A table of a sweep's cells: rows are values of one setting, columns of another."""

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
    """The relative loss of the measure since the start that counts as a collapse."""
    grid: dict[str, list[Setting]]
    """The values of each setting."""
    cells: list[SweepCell]
    """One row per combination of settings without seeds."""
    runs: list[SweepRun]
    """One row per run."""

    def _rows(self) -> Iterable[Mapping[str, Any]]:
        return self.model_dump(mode="json")["runs"]

    def tables(self) -> Iterator[Table]:
        """For each combination of settings the final measure and the share of collapsed seeds."""
        axes = [name for name in self.grid if name != "seed"]
        count = "one run" if len(self.runs) == 1 else f"{len(self.runs)} runs"
        table = Table(*axes, "runs", self.measure, "collapsed", title=f"{self.method} over {count}")
        for cell in self.cells:
            values = [f"{cell.settings[name]}" for name in axes]
            table.add_row(*values, str(cell.runs), cell.shown_final(), f"{cell.collapsed:.0%}")
        yield table

    def panels(self) -> list[Panel]:
        """The sweep as tables: the last setting over columns, the one before it over rows; "" where there is none."""
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
