"""Base classes of evaluation results: intervals, the result's file, and how it is printed."""

from __future__ import annotations

import io
import json
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import isfinite, nan, sqrt
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, TypeAlias

import numpy as np
import scipy
from numpy.typing import NDArray
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field
from rich.console import Console, Group
from rich.table import Table
from typing_extensions import Self

from accord.console import show, status, without_halves, without_secrets
from accord.dates import today
from accord.outputs import save_text

if TYPE_CHECKING:
    from pandas import DataFrame

Floats: TypeAlias = NDArray[np.float64]
Indices: TypeAlias = NDArray[np.intp]

Name: TypeAlias = Annotated[str, AfterValidator(without_secrets)]
"""The name of a judge or reward as given, with secrets in URLs removed."""

FILE = "evaluation.json"
"""The file of a result in its folder."""


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate with its 95% interval. `f"{interval:.2f}"` reads `0.71 [0.65, 0.77]`.

    Values of a million or more, as at a nearly open end, are shown as powers of ten.
    """

    estimate: float
    """The value measured."""
    low: float
    """The lower end."""
    high: float
    """The upper end."""
    n: int = 0
    """The number of observations."""

    def __format__(self, spec: str) -> str:
        spec = spec or ".3f"
        if spec.endswith("%"):
            low, high = (f"{100 * end:{spec[:-1]}f}" for end in (self.low, self.high))
            return f"{self.estimate:{spec}} [{low}, {high}]"
        estimate, low, high = (f"{v:{spec if abs(v) < 1e6 else '.0e'}}" for v in (self.estimate, self.low, self.high))
        return f"{estimate} [{low}, {high}]"

    def mirrored(self) -> Interval:
        """The interval of the complement, 1 - share.

        Rounded to 12 digits: 1 - 0.8625 is 0.13749999999999996, which would print as 13.7% beside 86.3%.
        """
        estimate, low, high = (round(1.0 - value, 12) for value in (self.estimate, self.high, self.low))
        return Interval(estimate, low, high, self.n)


def wilson(successes: float, n: float, confidence: float = 0.95) -> Interval:
    """Wilson's score interval for a rate.

    `(p + z^2/2n -+ z sqrt(p(1-p)/n + z^2/4n^2)) / (1 + z^2/n)` with p = successes / n and z the normal quantile (Wilson
    1927). It stays within [0, 1] and has positive width even at 0 or n successes. A tie counts half.

    Raises ValueError where there are no observations, or more successes than observations.
    """
    if n < 1:
        raise ValueError("a rate needs at least one observation")
    if not 0 <= successes <= n:
        raise ValueError(f"{successes} successes of {n} are impossible")
    rate, z = successes / n, float(scipy.special.ndtri(0.5 + checked_confidence(confidence) / 2))
    shrink = 1 + z * z / n
    center = (rate + z * z / (2 * n)) / shrink
    reach = z * sqrt(rate * (1 - rate) / n + z * z / (4 * n * n)) / shrink
    # At a rate of 0 or 1 an end is exactly the rate, which the subtraction above may miss by a rounding.
    return Interval(rate, min(rate, max(0.0, center - reach)), max(rate, min(1.0, center + reach)), int(n))


def cluster_mean(sums: Floats, counts: Floats) -> Interval:
    """The mean of values that are dependent within G clusters, from each cluster's sum y_g and count n_g, (G,).

        R = sum y_g / sum n_g,   s^2 = G / (G - 1) * sum (y_g - R n_g)^2 / (sum n_g)^2,   R -+ t s

    The linearized ratio estimator (Cochran 1977, Sampling Techniques, chapter 6) with Student's t of G - 1 degrees of
    freedom; with clusters of one value it is Student's interval. For a single cluster the ends are NaN. `n` is G.
    """
    clusters, total = len(sums), float(counts.sum())
    mean = float(sums.sum()) / total
    if clusters < 2:
        return Interval(mean, nan, nan, clusters)
    spread = float(np.square(sums - mean * counts).sum()) * clusters / (clusters - 1)
    reach = float(scipy.special.stdtrit(clusters - 1, 0.975)) * sqrt(spread) / total
    return Interval(mean, mean - reach, mean + reach, clusters)


def cluster_rate(sums: Floats, counts: Floats) -> Interval:
    """The share of outcomes that are 1 (a tie counts half) in clusters, from each cluster's sum and count, (G,).

    Wilson's interval at the effective sample size p(1 - p) / s^2, with the s^2 of `cluster_mean` without its factor G /
    (G - 1) (Franco et al. 2019, Journal of Survey Statistics and Methodology 7), clipped to between one and the number
    of observations; it is G where all outcomes are equal. With clusters of one outcome it is `wilson`.
    """
    total, worth = float(counts.sum()), float(len(sums))
    share = float(sums.sum()) / total
    if worth > 1 and 0 < share < 1:
        variance = float(np.square(sums - share * counts).sum()) / total**2
        worth = min(total, max(1.0, share * (1 - share) / variance)) if variance else total
    return replace(wilson(share * worth, worth), estimate=share, n=len(sums))


def numbered(labels: Sequence[Hashable]) -> Indices:
    """The cluster of every observation as an index from 0, in order of first appearance."""
    numbers: dict[Hashable, int] = {}
    return np.array([numbers.setdefault(label, len(numbers)) for label in labels], dtype=np.intp)


def checked_confidence(confidence: float) -> float:
    """The confidence level; ValueError unless it lies in (0, 1)."""
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie between 0 and 1, not {confidence}")
    return confidence


def shown(interval: Interval | None, spec: str = ".3f") -> str:
    """An interval as text; "" for None."""
    return "" if interval is None else format(interval, spec)


def called(name: str) -> str:
    """A short name for a path: a file's own name, a model's run folder; other names are returned as they are."""
    parts = [part for part in name.split("/") if part not in ("", ".", "..")]
    if not parts or "//" in name or " " in name:
        return name
    kept = {"model": "", "best": " best"}.get(parts[-1]) if len(parts) > 1 else None
    return parts[-1] if kept is None else parts[-2] + kept


def _is_known(value: Any) -> bool:
    """Whether a value is an interval with a finite estimate: files may also hold null, or a null estimate."""
    if not isinstance(value, Mapping):
        return value is not None
    return isinstance(value.get("estimate"), int | float) and isfinite(value["estimate"])


Measured = BeforeValidator(lambda value: value if _is_known(value) else None)
"""Reads an interval whose estimate is unknown as None."""

MaybeInterval = Annotated[Interval | None, Measured]
"""An interval, or None where nothing could be measured."""


def _measured(value: Any) -> Any:
    return {k: v for k, v in value.items() if _is_known(v)} if isinstance(value, Mapping) else value


Intervals = Annotated[dict[str, Interval], BeforeValidator(_measured)]
"""Intervals by name; names without a measurement are absent."""


class Record(BaseModel):
    """A part of a result. Unknown fields of a file are ignored; a docstring describes each field."""

    model_config = ConfigDict(
        frozen=True,
        use_attribute_docstrings=True,
        validate_by_name=True,
        validate_by_alias=True,
        serialize_by_alias=True,
    )


class PromptSettings(Record):
    """How models were asked."""

    form: Literal["chat", "plain"] = "chat"
    """Asked in a user's message, or as text to continue."""
    chat_template: str | None = None
    """The chat template used in place of the models' own, if any."""
    system: Literal["refuse", "fold"] = "refuse"
    """Whether system messages were folded into the first question."""
    max_new_tokens: int = 128
    """Maximum number of tokens per answer."""
    temperature: float = 0.0
    """Divides the logits; 0 takes the most likely token."""
    seed: int = 0
    """Seed of the draws."""
    dtype: str = ""
    """The precision of matrix products."""


def absent_unless_given(**more: Any) -> Any:
    """A field that defaults to None and is then left out of the file."""
    return Field(default=None, exclude_if=lambda value: value is None, **more)


class Evaluation(Record):
    """The result of an evaluation, one class per `kind`."""

    kind: str
    """The kind of evaluation."""
    warnings: list[str] = []
    """Reasons why the numbers may mislead, one sentence each."""
    date: str | None = absent_unless_given()
    """The date that chat templates were given (YYYY-MM-DD), where models read chats."""

    reads_chats: ClassVar[bool] = False
    """Whether models read chats for this kind of result."""

    def dated(self) -> Self:
        """The result with the date of now, where models read chats and it has none."""
        return self.model_copy(update={"date": today().isoformat()}) if self.reads_chats and not self.date else self

    def tables(self) -> Iterable[Table]:
        """The tables for the terminal."""
        raise NotImplementedError

    def _rows(self) -> Iterable[Mapping[str, Any]]:
        """The rows of `frame()` as JSON: one per model, unless a subclass says otherwise."""
        return self.model_dump(mode="json")["models"]

    def table(self) -> Group:
        """The numbers as tables for the terminal: `rich.print(result.table())`."""
        return Group(*self.tables())

    def text(self) -> str:
        """The tables as plain text."""
        console = Console(file=io.StringIO(), record=True, width=120, markup=False)
        console.print(self.table())
        return console.export_text()

    def frame(self) -> DataFrame:
        """The numbers as a pandas table with one column per number, such as `scores.cafe.estimate`."""
        import pandas

        return pandas.json_normalize(list(self._rows()))

    def save(self, folder: str | Path) -> Path:
        """Write evaluation.json, from which reports are made, into the folder; returns its path."""
        file = Path(folder) / FILE
        try:
            text = self.model_dump_json(indent=1)
        except ValueError:  # a lone surrogate in a name from somebody's file
            text = without_halves(json.dumps(self.model_dump(mode="json"), indent=1, ensure_ascii=False))
        save_text(file, text)
        return file

    def publish(self, folder: str | Path) -> Self:
        """Date the result, `save` it, and `announce` it."""
        made = self.dated()
        made.save(folder)
        made.announce()
        return made

    def announce(self) -> None:
        """Print the tables, and the warnings to standard error."""
        show(self.table())
        for line in self.warnings:
            status(line)

    def _repr_html_(self) -> str:
        console = Console(file=io.StringIO(), record=True, width=120, markup=False)
        console.print(self.table())
        return console.export_html(inline_styles=True, code_format="<pre>{code}</pre>")
