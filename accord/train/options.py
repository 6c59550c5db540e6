"""Options of a run that do not depend on the method: which rows, what is saved, and what is measured in training."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

from accord.data.columns import format_columns
from accord.data.mix import called
from accord.data.sources import parse_split
from accord.engine.config import TrainingConfig
from accord.errors import InputError
from accord.feedback.options import RewardOptions
from accord.train.track import DEFAULT, services


@dataclass(kw_only=True)
class RunOptions:
    """Options that every `fit` takes besides its model, its data and its folder."""

    split: str = "train"
    """Which rows to use (of each file), such as train, train[:100] or train[-100:]."""
    columns: dict[str, str] | None = None
    """Where the data's columns have other names, which is which: prompt=question,chosen=best.text."""
    resume: bool = False
    """Continue from the last checkpoint in `out`. The result equals the uninterrupted run's bit for bit, unless you
    change one of the settings that may change (docs/trust.md), such as the learning rate."""
    save_every: int = 50
    """Steps between checkpoints."""
    save_minutes: float | None = None
    """Also write a checkpoint whenever this many minutes have passed."""
    save_dtype: Literal["float32", "bfloat16"] = "float32"
    """Precision of the weights saved in model/ and best/: bfloat16 takes half the space and rounds to three digits.
    Weights held in bfloat16 are saved in it. Checkpoints are always exact."""
    max_bad: float = 0.05
    """Largest share of rows that may be unusable (equal or empty answers, prompts beyond the context). They are left
    out and listed in left_out.jsonl; if there are more, the run is refused."""
    strict: bool = False
    """Refuse the run at the first row that cannot be used."""
    stop_when: str | None = None
    """Alarms (docs/alarms.md), separated by commas, that end the run. It keeps its model, or the best one where --watch
    or held-out rows measured it."""
    track: str = DEFAULT
    """Where metrics go besides the run's folder (docs/tracking.md): tensorboard, wandb, trackio, mlflow, separated by
    commas, or none."""
    run_name: str | None = None
    """The run's name there (default: its folder's name)."""

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if name.endswith(("_every", "_tokens")) and value is not None and value < 1:
                raise InputError(f"{name} must be at least 1, not {value}.")
        if self.save_minutes is not None and not 0 < self.save_minutes < math.inf:
            raise InputError(f"save_minutes must be positive and finite, not {self.save_minutes}.")
        if not 0 <= self.max_bad <= 1:
            raise InputError(f"max_bad is a share of the rows in [0, 1], not {self.max_bad}.")
        from accord.train.alarms import chosen

        services(self.track)
        parse_split(self.split)
        chosen(self.stop_when)

    def settings(self) -> dict[str, Any]:
        """The options that decide the result, for config.yaml; resuming, saving and tracking do not."""
        columns = {"columns": format_columns(self.columns)} if self.columns else {}
        rounded = {"save_dtype": self.save_dtype} if self.save_dtype != "float32" else {}
        return {"split": self.split, **columns, "stop_when": self.stop_when, **rounded}


@dataclass(kw_only=True)
class PolicyOptions(RewardOptions, RunOptions):
    """Options of methods that train a policy, which can be watched by an independent measure."""

    watch: Any = None
    """An independent measure that nothing is trained on: any reward, or a judge that compares the answers with those of
    the starting model. The best model by it is kept in best/."""
    watch_data: Any = None
    """Held-out prompts to answer for --watch; without them it measures each step's own samples, where the method has
    any."""
    watch_every: int | None = None
    """Steps between measurements (default: 5, or 1 for methods that sample)."""
    watch_tokens: int | None = None
    """Longest answer for --watch, in tokens (default: the method's max_new_tokens, or 64)."""

    def __post_init__(self) -> None:
        RewardOptions.__post_init__(self)
        RunOptions.__post_init__(self)
        self.check_watch(samples=isinstance(self, SamplingOptions))

    def settings(self) -> dict[str, Any]:
        watched = {name: value for name, value in vars(self).items() if name.startswith("watch")}
        return super().settings() | (watched if self.watch is not None else {})

    def check_watch(self, *, samples: bool) -> None:
        """Raise InputError for an incomplete measure; `samples`: whether the method's steps draw samples."""
        if not samples and (self.watch is None) != (self.watch_data is None):
            raise InputError("watch and watch_data go together: give a measure and held-out prompts to take it on.")
        if self.watch is None and self.watch_data is not None:
            raise InputError("watch_data needs a measure: give watch.")


@dataclass(kw_only=True)
class SamplingOptions(PolicyOptions):
    """Options of methods whose steps draw samples."""

    sample_every: int = 10
    """Steps between those whose samples are written to `samples.jsonl`."""


@dataclass(kw_only=True)
class HeldOutOptions(RunOptions):
    """Options of methods whose loss can be measured on held-out rows during training."""

    eval_data: Any = None
    """Held-out rows on which the loss is measured during training; the best model by it is kept in best/."""
    eval_split: str | float | None = None
    """What to hold out: a share of the prompts of data, such as 0.1, drawn by the seed; or a split of eval_data, or
    without that of data, such as test, or train[-100:] beside --split train[:-100]."""
    eval_every: int | None = None
    """Steps between measurements on held-out rows (default: a tenth of the run). There is always one before the first
    step and one after the last."""
    patience: int | None = None
    """End the run, with the best model, after this many measurements in a row without an improvement."""
    best_by: str | None = None
    """The measurement that decides which model is best, such as eval_accuracy or eval_margin (default: eval_loss; for
    distill, eval_teacher_kl)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.patience is not None and self.patience < 1:
            raise InputError(f"patience must be at least 1, not {self.patience}.")
        if not self.holds_out:
            for name in ("eval_every", "patience", "best_by"):
                if getattr(self, name) is not None:
                    raise InputError(f"{name} needs held-out rows: give eval_data or eval_split.")
            return
        if isinstance(self.eval_split, str) and self.eval_share is None:
            parse_split(self.eval_split)
        if getattr(self, "watch", None) is not None:
            raise InputError("best/ is chosen by watch or by held-out rows, not by both: leave one out.")
        share = self.eval_share
        if share is not None and not 0 < share < 1:
            raise InputError(f"eval_split is a share of the prompts between 0 and 1, such as 0.1, not {share:g}.")
        if share is not None and self.eval_data is not None:
            raise InputError(
                f"eval_split {share:g} holds out a share of data, but eval_data has rows already: leave one out."
            )
        if self.eval_data is None and self.eval_split == self.split:
            raise InputError(
                f"eval_split and split are both {self.split}: hold rows out, as by --split 'train[:-100]' and "
                "--eval-split 'train[-100:]'."
            )

    @property
    def holds_out(self) -> bool:
        """Whether rows are held out."""
        return self.eval_data is not None or self.eval_split is not None

    @property
    def eval_share(self) -> float | None:
        """The share of the prompts that is held out, where `eval_split` is a number."""
        try:
            return None if self.eval_split is None else float(self.eval_split)
        except ValueError:
            return None

    def settings(self) -> dict[str, Any]:
        own = {name: getattr(self, name) for name in ("eval_data", "eval_every", "patience", "best_by")}
        own["eval_split"] = self.eval_split if self.eval_share is None else self.eval_share
        return super().settings() | (own if self.holds_out else {})


@dataclass(kw_only=True)
class RowsOptions(HeldOutOptions, PolicyOptions):
    """Options of methods that train a policy on rows."""


@dataclass(kw_only=True)
class StreamOptions(RowsOptions):
    """Options of methods that can stream their rows."""

    stream: bool = False
    """Read each row when its step comes instead of all at once, for .jsonl files or `datasets` data sets larger than
    memory. The order of rows is the same either way."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.stream:
            return
        if self.eval_share is not None:
            raise InputError(
                "with stream no share of the rows can be held out: give eval_data, or a slice such as train[-100:]."
            )
        if self.watch is not None:
            raise InputError(
                "with stream the training prompts are not known in advance: leave watch out, or use eval_data."
            )

    def settings(self) -> dict[str, Any]:
        return super().settings() | ({"stream": True} if self.stream else {})


@dataclass(kw_only=True)
class DistillOptions(HeldOutOptions, SamplingOptions):
    """Options of methods that learn from a teacher, whose divergence can be measured on held-out prompts."""


def describe(method: TrainingConfig, options: RunOptions, **sources: Any) -> dict[str, Any]:
    """Every setting of a run, for config.yaml; data given as Python rows appear as their number and type."""
    command = {"command": getattr(method, "command", "") or type(method).__name__}
    own = {field.name: getattr(method, field.name) for field in fields(method)}
    own = {name: named(value) if callable(value) else value for name, value in own.items()}
    return command | {k: named(v) for k, v in (sources | options.settings()).items()} | own


def named(value: Any) -> str | int | float | None:
    """A setting as written to a file: Python objects by name, collections of rows by their number."""
    if value is None or isinstance(value, str | int | float):
        return value
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, list) and all(isinstance(name, str | Path) for name in value):
        return called(value)
    if isinstance(value, Mapping):
        return " + ".join(f"{weight} * {named(name)}" for name, weight in value.items())
    return f"{len(value)} rows" if hasattr(value, "__len__") else getattr(value, "__name__", type(value).__name__)
