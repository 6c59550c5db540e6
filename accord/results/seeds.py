"""What several runs of one recipe measured that differ by their seeds alone: each number's mean over the runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np
from rich.table import Table

from accord.results.base import Evaluation, Interval, Record, called, cluster_mean, shown

_NAMED = ("model", "against", "temperature", "settings", "label", "k")
"""The fields that together tell one element of a list from the others, where it has no name."""

_ROWS = ("models", "cells", "temperatures", "given")
"""Lists of what is measured, whose names are in no measure's."""

_PASSED_OVER = ("side_by_side", "runs")
"""Single answers, and single runs of a sweep."""


class NumberOverSeeds(Record):
    """One number of an evaluation in every run."""

    of: str
    """Whom it is about: a model, one model against another, a kind of failure."""
    measure: str
    """What was measured, as its place in evaluation.json: `win_rate`, `scores.cafe`, `pass.1`."""
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

    def grid(self) -> tuple[list[str], list[tuple[str, list[NumberOverSeeds | None]]]]:
        """The measures, and a row for whomever they are about."""
        measures = list(dict.fromkeys(number.measure for number in self.numbers))
        cells = {(number.of, number.measure): number for number in self.numbers}
        rows = dict.fromkeys(number.of for number in self.numbers)
        return measures, [(of, [cells.get((of, measure)) for measure in measures]) for of in rows]


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
        """A table an evaluation; the number of runs stands where it is not that of all."""
        for stage in self.stages:
            measures, rows = stage.grid()
            table = Table("", *measures, title=f"{stage.name}: means over {len(self.runs)} runs")
            for of, cells in rows:
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
    found = [dict(_estimates(one.model_dump(mode="json"), "", "")) for one in evaluations]
    numbers = []
    for of, measure in dict.fromkeys(place for one in found for place in one):
        values = [value for one in found if (value := one.get((of, measure))) is not None]
        if values:
            mean = cluster_mean(np.array(values), np.ones(len(values)))
            numbers.append(NumberOverSeeds(of=of, measure=measure, values=values, mean=mean))
    return StageOverSeeds(name=name, question=evaluations[0].kind, numbers=numbers)


def _estimates(value: Any, of: str, measure: str) -> Iterator[tuple[tuple[str, str], float | None]]:
    """Every interval's estimate inside an evaluation, by whom it is about and by its place."""
    if isinstance(value, list):
        for position, element in enumerate(value):
            if isinstance(element, dict):
                name = _name(element) or f"{measure} {position + 1}"
                yield from _estimates(element, f"{of}, {name}" if of else name, measure)
    elif isinstance(value, dict):
        if "estimate" in value and "low" in value:
            yield (of, measure), value["estimate"]
        for key, inner in value.items():
            if key not in _PASSED_OVER:
                yield from _estimates(inner, of, measure if key in _ROWS else f"{measure}.{key}".lstrip("."))


def _name(element: Mapping[str, Any]) -> str:
    """What an element of a list is told from the others by."""
    if isinstance(element.get("name"), str):
        return str(element["name"])
    parts = []
    for field in _NAMED:
        given = element.get(field)
        if isinstance(given, Mapping):
            parts += [f"{name} {called(str(value))}" for name, value in given.items()]
        elif isinstance(given, str | int | float):
            parts.append(given if isinstance(given, str) else f"{field} {given:g}")
    return ", ".join(parts)
