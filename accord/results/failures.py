"""How models fail: a row a failure, a column a model."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal

from rich.table import Table

from accord.results.base import Evaluation, Intervals, Record


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


class Line(Record):
    """Something measured of every model."""

    name: str
    """What it is."""
    n: int
    """Observations that it is the mean of."""
    values: Intervals
    """Each model's."""
    differences: Intervals = {}
    """What each model but the first has more than the first, probe by probe."""


class FailureRow(Line):
    """A failure: how often each model fails so, from 0 to 1."""

    kind: str
    """The kind of the probes."""
    chance: float | None = None
    """What a model that chooses by lot fails, where there are options; .5 where there is nothing to be right about."""
    parts: list[Line] = []
    """The same for each sort of probe: what they are about, or which constraint."""
    measures: list[Line] = []
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
        """The matrix of failures by models; then what is beside the shares, and the parts."""
        yield self._grid("", [(row, row.n, row.chance) for row in self.failures], ".2f", with_chance=True)
        measures = [(line, line.n, None) for row in self.failures for line in row.measures]
        if measures:
            yield self._grid("beside the shares", measures, ".2f")
        parts = [
            (part.model_copy(update={"name": f"{row.name}: {part.name}"}), part.n, None)
            for row in self.failures
            for part in row.parts
        ]
        if parts:
            yield self._grid("by what the probes are about", parts, ".2f")

    def _grid(
        self, title: str, lines: Iterable[tuple[Line, int, float | None]], spec: str, *, with_chance: bool = False
    ) -> Table:
        gains = [f"{model} - {first}" for first in self.models[:1] for model in self.models[1:]]
        named = ["failure", "probes", "chance"] if with_chance else ["", "n"]
        grid = Table(*named, *self.models, *gains, title=title or None)
        for line, n, chance in lines:
            cells = [f"{line.values[m]:{spec}}" if m in line.values else "" for m in self.models]
            cells += [f"{line.differences[m]:+{spec}}" if m in line.differences else "" for m in self.models[1:]]
            about = [str(n)] + (["" if chance is None else f"{chance:.2f}"] if with_chance else [])
            grid.add_row(line.name, *about, *cells)
        return grid
