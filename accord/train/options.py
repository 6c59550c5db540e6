"""How a run is run, whatever the method: which rows, from where, what is kept, what is measured beside it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from accord.data.columns import written
from accord.data.mix import called
from accord.engine.config import TrainingConfig
from accord.errors import InputError


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """What every `fit` takes besides its model, its data and its folder."""

    split: str = "train"
    """Which rows, such as train, train[:100] or train[-100:]; of several files, of each."""
    columns: dict[str, str] | None = None
    """The data's columns by the names that are read, where they have others: prompt=question,chosen=best.text."""
    resume: bool = False
    """Go on from the last checkpoint in `out`; the result equals the uninterrupted run's bit for bit."""
    save_every: int = 50
    """Steps between checkpoints."""
    max_bad: float = 0.05
    """Rows that cannot be used (equal answers, empty ones, prompts beyond the context) are left out, and listed in
    left_out.jsonl, up to this share of all; above it the run is refused."""
    strict: bool = False
    """Refuse the run at the first row that cannot be used."""
    stop_when: str | None = None
    """Alarms (docs/alarms.md) that end the run, with commas between them; it keeps the model it has, or where that is
    watched the best."""

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if name.endswith(("_every", "_tokens")) and value is not None and value < 1:
                raise InputError(f"{name} must be at least 1, not {value}.")
        if not 0 <= self.max_bad <= 1:
            raise InputError(f"max_bad is a share of the rows in [0, 1], not {self.max_bad}.")

    def settings(self) -> dict[str, Any]:
        """What decides the result, for the run's folder; resuming and saving change nothing of it."""
        columns = {"columns": written(self.columns)} if self.columns else {}
        return {"split": self.split, **columns, "stop_when": self.stop_when}


@dataclass(frozen=True, kw_only=True)
class PolicyOptions(RunOptions):
    """The same for methods that train a policy, which can be watched as it learns."""

    watch: Any = None
    """An independent measure, never trained on, whose best model is kept in best/: anything that can be a reward, or a
    judge, who compares the answers with those of the starting model."""
    watch_data: Any = None
    """Prompts held out, which are answered for that measure; without them it is taken of the steps' own samples, where
    the method has such."""
    watch_every: int | None = None
    """Steps between measurements; 5 unless given, and 1 for methods whose steps have samples."""
    watch_tokens: int | None = None
    """An answer for the measure is cut after so many tokens; 64 unless given, or the method's max_new_tokens."""

    def settings(self) -> dict[str, Any]:
        watched = {name: value for name, value in vars(self).items() if name.startswith("watch")}
        return super().settings() | (watched if self.watch is not None else {})

    def check_watch(self, *, samples: bool) -> None:
        """Raise InputError for half of a measure; `samples`: whether the method's steps have samples of their own."""
        if not samples and (self.watch is None) != (self.watch_data is None):
            raise InputError("watch and watch_data go together: a measure, and prompts held out to be answered for it.")
        if self.watch is None and self.watch_data is not None:
            raise InputError("watch_data is answered for a measure; say which by watch.")


@dataclass(frozen=True, kw_only=True)
class SamplingOptions(PolicyOptions):
    """The same for methods whose steps have samples."""

    sample_every: int = 10
    """Steps between samples written to `samples.jsonl`."""


def describe(method: TrainingConfig, options: RunOptions, **given: Any) -> dict[str, Any]:
    """Every setting of a run, for its folder; data given as rows are named by their number and type."""
    command = {"command": getattr(method, "command", "") or type(method).__name__}
    own = {field.name: getattr(method, field.name) for field in fields(method)}
    return command | {k: named(v) for k, v in (given | options.settings()).items()} | own


def named(value: Any) -> str | int | float | None:
    """A setting as it stands in a file: objects of Python by their name, or by how many rows they are."""
    if value is None or isinstance(value, str | int | float):
        return value
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, list) and all(isinstance(name, str | Path) for name in value):
        return called(value)
    if isinstance(value, Mapping):
        return " + ".join(f"{weight} * {named(name)}" for name, weight in value.items())
    return f"{len(value)} rows" if hasattr(value, "__len__") else getattr(value, "__name__", type(value).__name__)
