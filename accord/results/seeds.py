"""Results of several runs of one recipe that differ only in their seeds: each number's mean over the runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from rich.table import Table

from accord.results.base import Evaluation, Record
from accord.results.intervals import Interval, shown


class NumberOverSeeds(Record):
    """One number of an evaluation, in every run."""

    part: str
    """Its part of evaluation.json: `models`, `pairs`, `temperatures`, `failures`."""
    of: str
    """Its subject: a model, a pair of models, a kind of failure."""
    measure: str
    """Its path within the part: `win_rate`, `scores.cafe`, `pass.1`."""
    values: list[float]
    """The runs' values, in order; runs without a measurement are left out."""
    mean: Interval
    """Their mean with Student's 95% interval over n runs; of a single value only the value."""


class StageOverSeeds(Record):
    """One evaluation of the recipe."""

    name: str
    """The stage."""
    question: str
    """The kind of its evaluation."""
    numbers: list[NumberOverSeeds]
    """Its numbers with intervals."""

    def grids(self) -> Iterator[Grid]:
        """A table for every part, with measures as columns and subjects as rows."""
        for part in dict.fromkeys(number.part for number in self.numbers):
            numbers = [number for number in self.numbers if number.part == part]
            measures = list(dict.fromkeys(number.measure for number in numbers))
            cells = {(number.of, number.measure): number for number in numbers}
            rows = dict.fromkeys(number.of for number in numbers)
            yield Grid(part, measures, [(of, [cells.get((of, measure)) for measure in measures]) for of in rows])


@dataclass(frozen=True)
class Grid:
    """One part of an evaluation as a table."""

    part: str
    measures: Sequence[str]
    rows: Sequence[tuple[str, Sequence[NumberOverSeeds | None]]]


class SeedsResult(Evaluation):
    """The evaluations of one recipe, as means over its seeds."""

    kind: Literal["seeds"] = "seeds"
    runs: list[str]
    """The folders of the runs."""
    seeds: list[str]
    """Each run's seed, or its seeds, where it has several."""
    stages: list[StageOverSeeds]
    """One entry per evaluation."""

    def _rows(self) -> Iterator[Mapping[str, Any]]:
        for stage in self.stages:
            for number in stage.numbers:
                yield {"stage": stage.name, **number.model_dump(mode="json")}

    def tables(self) -> Iterator[Table]:
        """All parts except the many pairs of models, which the page and the file have."""
        for stage in self.stages:
            for grid in stage.grids():
                if grid.part == "pairs":
                    continue
                title = f"{stage.name}, {grid.part}: means over {len(self.runs)} runs"
                table = Table("", *grid.measures, title=title)
                for of, cells in grid.rows:
                    table.add_row(of, *("" if cell is None else self.cell(cell) for cell in cells))
                yield table

    def cell(self, number: NumberOverSeeds) -> str:
        """A mean as text, with its number of runs where some have no measurement."""
        fewer = "" if number.mean.n == len(self.runs) else f" ({number.mean.n} of {len(self.runs)})"
        return (shown(number.mean) if number.mean.n > 1 else f"{number.mean.estimate:.3f}") + fewer
