"""How often models' samples are right: one of them, any of k, and what most of them say."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from pydantic import Field
from rich.table import Table

from accord.results.base import Evaluation, Interval, MaybeInterval, Name, Record, shown
from accord.results.models import Drawing


class PassRow(Record):
    """One model's samples of every prompt in numbers."""

    name: str
    """What the model is called."""
    model: str = ""
    """The folder or name it was loaded from."""
    passes: dict[int, Interval] = Field(validation_alias="pass", serialization_alias="pass")
    """pass@k by k: the chance that one of k samples is right."""
    majority: MaybeInterval = None
    """How often the answer that most samples give is right; None where answers cannot be told apart."""
    length: float | None = None
    """The mean length of a sample in tokens."""
    ended: float | None = None
    """The share of samples that ended by themselves instead of being cut."""


class PassesResult(Evaluation):
    """How often models answer prompts rightly, by a verifier."""

    kind: Literal["passes"] = "passes"
    data: str = ""
    """Where the prompts come from."""
    verifier: Name = ""
    """What checked the answers."""
    prompts: int
    """Prompts that were answered."""
    samples: int
    """Samples of each."""
    sampling: Drawing
    """How they were drawn."""
    models: list[PassRow]
    """A row a model."""

    def tables(self) -> Iterator[Table]:
        """pass@1, pass@n and the majority."""
        ks = list(dict.fromkeys([1, self.samples]))
        grid = Table("model", *(f"pass@{k}" for k in ks), f"majority@{self.samples}", "tokens", "ended")
        for m in self.models:
            rates = [*(m.passes.get(k) for k in ks), m.majority]
            length = "" if m.length is None else f"{m.length:.1f}"
            ended = "" if m.ended is None else f"{m.ended:.0%}"
            grid.add_row(m.name, *(shown(rate, ".1%") for rate in rates), length, ended)
        yield grid
