"""Correctness of models' samples: pass@k and the majority answer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, Literal

from pydantic import Field
from rich.table import Table

from accord.results.base import Evaluation, MaybeInterval, Name, Record
from accord.results.intervals import Interval, shown
from accord.results.models import Drawing


class PassRow(Record):
    """One model's samples of every prompt, in numbers."""

    name: str
    """Its name."""
    model: str = ""
    """The folder or name it was loaded from."""
    passes: dict[int, Interval] = Field(validation_alias="pass", serialization_alias="pass")
    """pass@k by k: the probability that at least one of k samples is correct."""
    majority: MaybeInterval = None
    """How often the most frequent answer is correct; None where answers cannot be compared."""
    length: float | None = None
    """The mean length of a sample in tokens."""
    ended: float | None = None
    """The share of samples that ended by themselves instead of being cut."""


class PassesResult(Evaluation):
    """How often models answer prompts correctly, by a verifier."""

    kind: Literal["passes"] = "passes"
    reads_chats: ClassVar[bool] = True
    data: str = ""
    """Where the prompts come from."""
    verifier: Name = ""
    """The verifier."""
    prompts: int
    """Number of prompts."""
    samples: int
    """Samples per prompt."""
    sampling: Drawing
    """How they were drawn."""
    models: list[PassRow]
    """One row per model."""

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
