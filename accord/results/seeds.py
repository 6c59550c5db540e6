"""What several runs of one recipe measured that differ by their seeds alone: each number's mean over the runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from rich.table import Table

from accord.results.base import Evaluation, Interval, Record, called, cluster_mean, shown

_NAMED = ("model", "temperature", "settings", "label", "k")
"""The fields that together tell one element of a list from the others, where it has no name."""

_PASSED_OVER = ("side_by_side", "runs")
"""Single answers, and single runs of a sweep."""


class NumberOverSeeds(Record):
    """One number of an evaluation in every run."""

    part: str
    """The part of evaluation.json in which it stands: `models`, `pairs`, `temperatures`, `failures`."""
    of: str
    """Whom it is about: a model, one model against another, a kind of failure."""
    measure: str
    """What was measured, as its place there: `win_rate`, `scores.cafe`, `pass.1`."""
    values: list[float]
    """What each run measured, in the order of the runs; a run that could measure nothing has none."""
    mean: Interval
    """Their mean with Student's 95% interval over the runs, n of them; of a single value that alone."""


class StageOverSeeds(Record):
    """One evaluation of the recipe."""

    name: str
    """The stage."""
    question: str
    """The kind of its evaluation."""
    numbers: list[NumberOverSeeds]
    """What it measured with intervals."""

    def grids(self) -> Iterator[Grid]:
        """For every part the measures, and a row for whomever they are about."""
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
    """The seed of each, or its seeds, where it has several."""
    stages: list[StageOverSeeds]
    """An entry an evaluation."""

    def _rows(self) -> Iterator[Mapping[str, Any]]:
        for stage in self.stages:
            for number in stage.numbers:
                yield {"stage": stage.name, **number.model_dump(mode="json")}

    def tables(self) -> Iterator[Table]:
        """The parts of all evaluations but pairs of models, which are many: the page and the file have them."""
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
        """A mean as text; with how many runs it is of, where others measured nothing."""
        fewer = "" if number.mean.n == len(self.runs) else f" ({number.mean.n} of {len(self.runs)})"
        return (shown(number.mean) if number.mean.n > 1 else f"{number.mean.estimate:.3f}") + fewer


def over_seeds(name: str, evaluations: Sequence[Evaluation]) -> StageOverSeeds:
    """Every interval of an evaluation that several runs made: the mean of its estimates m_1..m_n over the runs.

    `m -+ t s / sqrt(n)`, with s the standard deviation over runs and t of n - 1 degrees of freedom: Student's interval,
    which says how a run with another seed would do. The interval that each run found by itself, over its prompts,
    is not in it.
    """
    found = [dict(_parts(one)) for one in evaluations]
    numbers = []
    for place in dict.fromkeys(place for one in found for place in one):
        values = [value for one in found if (value := one.get(place)) is not None]
        if values:
            part, of, measure = place
            one = Interval(values[0], values[0], values[0], 1)
            mean = cluster_mean(np.array(values), np.ones(len(values))) if len(values) > 1 else one
            numbers.append(NumberOverSeeds(part=part, of=of, measure=measure, values=values, mean=mean))
    return StageOverSeeds(name=name, question=evaluations[0].kind, numbers=numbers)


def _parts(evaluation: Evaluation) -> Iterator[tuple[tuple[str, str, str], float | None]]:
    """Every interval's estimate by the part that it stands in, whom it is about, and what was measured."""
    for part, value in evaluation.model_dump(mode="json").items():
        if part not in _PASSED_OVER:
            for (of, measure), estimate in _estimates(value, "", ""):
                yield (part, of, measure), estimate


def _estimates(value: Any, of: str, measure: str) -> Iterator[tuple[tuple[str, str], float | None]]:
    if isinstance(value, list):
        for position, element in enumerate(value):
            if isinstance(element, dict):
                name = _name(element) or f"{position + 1}"
                yield from _estimates(element, f"{of}, {name}" if of else name, measure)
    elif isinstance(value, dict):
        if "estimate" in value and "low" in value:
            yield (of, measure or "rate"), value["estimate"]
        for key, inner in value.items():
            below = measure if isinstance(inner, list) else f"{measure}.{key}".lstrip(".")
            yield from _estimates(inner, of, below)


def _name(element: Mapping[str, Any]) -> str:
    """What an element of a list is told from the others by."""
    if isinstance(element.get("name"), str):
        return str(element["name"])
    if element.get("model") and element.get("against"):
        return f"{element['model']} against {element['against']}"
    parts = []
    for field in _NAMED:
        given = element.get(field)
        if isinstance(given, Mapping):
            parts += [f"{name} {called(str(value))}" for name, value in given.items()]
        elif isinstance(given, str | int | float):
            parts.append(given if isinstance(given, str) else f"{field} {given:g}")
    return ", ".join(parts)
