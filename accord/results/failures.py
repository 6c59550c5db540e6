"""How models fail: a row a failure, a column a model."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal

from rich.table import Table

from accord.results.base import Evaluation, Interval, Intervals, Record


class FailureSettings(Record):
    """How models were asked."""

    probes: str = ""
    """The files of probes."""
    form: Literal["chat", "plain"] = "chat"
    """Asked by a user's message, or by text to go on from."""
    option_score: Literal["sum", "mean"] = "sum"
    """What makes an option the most likely one: its log-probability, or that a token."""
    chat_template: str | None = None
    """The chat template that the models were given, where they were given one."""
    system: Literal["refuse", "fold"] = "refuse"
    """Whether system messages were folded into the first question."""
    limit: int | None = None
    """Only so many probes of each kind."""
    max_new_tokens: int = 128
    """Tokens after which an answer was cut."""
    temperature: float = 0.0
    """What divided the logits; 0 for the most likely token."""
    seed: int = 0
    """What the draws were seeded with."""
    dtype: str = ""
    """The precision of matrix products."""


class FailureMeasure(Record):
    """Something measured of every model."""

    name: str
    """What it is."""
    n: int
    """Observations that it is the mean of."""
    values: Intervals
    """Each model's."""
    differences: Intervals = {}
    """What each model but the first has more than the first, probe by probe."""


class FailureRow(FailureMeasure):
    """A failure: how often each model fails so, from 0 to 1."""

    kind: str
    """The kind of the probes."""
    chance: float | None = None
    """What a model that chooses by lot fails, where there are options; .5 where there is nothing to be right about."""
    parts: list[FailureMeasure] = []
    """The same for each sort of probe: what they are about, or which constraint."""
    measures: list[FailureMeasure] = []
    """Numbers beside it that are no shares: a gap in nats, words, hedges in a hundred words."""
    ended: dict[str, float | None] = {}
    """The share of each model's written answers that ended by themselves."""


class FailuresResult(Evaluation):
    """How models fail."""

    kind: Literal["failures"] = "failures"
    settings: FailureSettings = FailureSettings()
    """How they were asked."""
    models: list[str] = []
    """Their names, the one that differences are counted from first."""
    failures: list[FailureRow]
    """A row a failure."""

    def _rows(self) -> Iterable[Mapping[str, Any]]:
        return self.model_dump(mode="json")["failures"]

    def tables(self) -> Iterator[Table]:
        """The matrix of failures by models, and what each fails more than the first; numbers beside it; its parts."""
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
            beside = Table("beside the shares", *self.models, *differences)
            for line in (line for row in self.failures for line in row.measures):
                cells = _cells(line.values, self.models, ".2f") + _cells(line.differences, others, "+.2f")
                beside.add_row(line.name, *cells)
            yield beside
        if any(row.parts for row in self.failures):
            parts = Table("failure", "about", "n", *self.models)
            for row in self.failures:
                for part in row.parts:
                    parts.add_row(row.name, part.name, str(part.n), *_cells(part.values, self.models, ".2f"))
            yield parts


def _cells(values: Mapping[str, Interval], models: Sequence[str], spec: str) -> list[str]:
    return [f"{values[model]:{spec}}" if model in values else "" for model in models]
