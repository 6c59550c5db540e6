"""Failure rates of models: one row per failure, one column per model."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, Literal

from rich.table import Table

from accord.results.base import Evaluation, Intervals, PromptSettings, Record
from accord.results.intervals import Interval


class FailureSettings(PromptSettings):
    """How the models were asked."""

    probes: str = ""
    """The files of probes."""
    option_score: Literal["sum", "mean"] = "sum"
    """Options are ranked by their log-probability, or by that per token."""
    limit: int | None = None
    """Maximum number of probes of each kind."""


class FailureMeasure(Record):
    """A quantity measured on every model."""

    name: str
    """Its name."""
    n: int
    """Number of observations."""
    values: Intervals
    """Each model's mean."""
    differences: Intervals = {}
    """Each model's mean minus the first model's, paired by probe."""


class FailureRow(FailureMeasure):
    """A failure: each model's failure rate, from 0 to 1."""

    kind: str
    """The kind of the probes."""
    chance: float | None = None
    """The rate of a random choice among the options; .5 where no option is right."""
    parts: list[FailureMeasure] = []
    """The rates for each type of probe: its subject, or its constraint."""
    measures: list[FailureMeasure] = []
    """Further numbers that are not shares: a gap in nats, words, hedges per hundred words."""
    ended: dict[str, float | None] = {}
    """The share of each model's written answers that ended by themselves."""


class FailuresResult(Evaluation):
    """Failure rates of models."""

    kind: Literal["failures"] = "failures"
    reads_chats: ClassVar[bool] = True
    settings: FailureSettings = FailureSettings()
    """How they were asked."""
    models: list[str] = []
    """Their names; differences are from the first."""
    failures: list[FailureRow]
    """One row per failure."""

    def _rows(self) -> Iterable[Mapping[str, Any]]:
        return self.model_dump(mode="json")["failures"]

    def tables(self) -> Iterator[Table]:
        """Failure rates by model, differences from the first model, further measures, and rates by type of probe."""
        matrix = Table("failure", "probes", "chance", *self.models)
        for row in self.failures:
            chance = "" if row.chance is None else f"{row.chance:.2f}"
            matrix.add_row(row.name, str(row.n), chance, *_cells(row.values, self.models, ".2f"))
        yield matrix
        others = self.models[1:]
        if others:
            more = Table("failure", *others, title=f"more than {self.models[0]}, probe by probe")
            for row in self.failures:
                if row.differences:
                    more.add_row(row.name, *_cells(row.differences, others, "+.2f"))
            yield more
        if any(row.measures for row in self.failures):
            differences = [f"{model} - {first}" for first in self.models[:1] for model in others]
            table = Table("beside the shares", *self.models, *differences)
            for line in (line for row in self.failures for line in row.measures):
                cells = _cells(line.values, self.models, ".2f") + _cells(line.differences, others, "+.2f")
                table.add_row(line.name, *cells)
            yield table
        if any(row.parts for row in self.failures):
            parts = Table("failure", "about", "n", *self.models)
            for row in self.failures:
                for part in row.parts:
                    parts.add_row(row.name, part.name, str(part.n), *_cells(part.values, self.models, ".2f"))
            yield parts


def _cells(values: Mapping[str, Interval], models: Sequence[str], spec: str) -> list[str]:
    return [f"{values[model]:{spec}}" if model in values else "" for model in models]
