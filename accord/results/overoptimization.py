"""Proxy and gold reward against the distance from the start, and where gold turns down (Gao et al. 2022)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field
from rich.table import Table

from accord.results.base import Evaluation, MaybeInterval, Record, absent_unless_given
from accord.results.intervals import Interval

Source = Literal["training", "best of n", "sweep"]
"""How a curve was obtained."""


class Fit(Record):
    """The fitted curve `start + a d - b bend(d)`, with bend(d) = d^2 (best of n) or d log d (rl)."""

    form: Literal["best of n", "rl"]
    """The form of the bend."""
    a: Interval
    """The coefficient a of the rise."""
    b: Interval
    """The coefficient b of the bend."""
    turn: MaybeInterval = None
    """The distance of the peak; None where b's interval includes 0 or the peak lies beyond the measurements."""
    peak: MaybeInterval = None
    """The gain at that distance."""
    start: float | None = None
    """Gold at distance 0."""
    r2: float | None = None
    """The share of gold's variance explained by the curve."""
    reach: float = 0.0
    """The largest measured distance."""


class CurvePoint(Record):
    """A point of a curve; with 95% intervals for best of n and the sweep."""

    distance: float
    """sqrt(KL) from the start, in root nats."""
    at: float | None = None
    """The step, n or beta; None for an infinite beta."""
    proxy: float
    """The mean of the optimized reward."""
    proxy_low: float | None = absent_unless_given()
    """The lower end of its interval."""
    proxy_high: float | None = absent_unless_given()
    """The upper end."""
    gold: float
    """The mean of the independent measure."""
    gold_low: float | None = absent_unless_given()
    """The lower end of its interval."""
    gold_high: float | None = absent_unless_given()
    """The upper end."""


class Curve(Record):
    """Points in order, and the fit of gold."""

    name: str
    """Its name."""
    source: Source
    """How it was obtained."""
    points: list[CurvePoint] = []
    """The points; for training, each is a mean over neighboring steps."""
    fit: Fit | None = None
    """The fitted curve; None where there are too few points."""
    warnings: list[str] = Field(default=[], exclude=True)
    """Caveats; written with the result's own warnings."""


class OveroptimizationResult(Evaluation):
    """Whether the true reward turns down while the optimized one still rises, and where."""

    kind: Literal["overoptimization"] = "overoptimization"
    reads_chats: ClassVar[bool] = True
    proxy: str = ""
    """The optimized reward."""
    gold: str = ""
    """The independent measure."""
    curves: list[Curve]
    """One curve per training run, then best of n and the sweep."""

    def _rows(self) -> Iterable[Mapping[str, Any]]:
        curves = self.model_dump(mode="json")["curves"]
        return [point | {"curve": curve["name"]} for curve in curves for point in curve["points"]]

    def tables(self) -> Iterator[Table]:
        """The fits; the file also has the intervals of a and b."""
        grid = Table("curve", "a", "b", "turns at d", "gain", "r²", "reach", title=f"{self.gold} against d")
        for column in grid.columns[1:]:
            column.no_wrap = True
        for curve in self.curves:
            cells = _cells(curve.fit) if curve.fit else [""] * 5
            grid.add_row(curve.name, *cells, f"{max((p.distance for p in curve.points), default=0.0):.2f}")
        yield grid


def _cells(fit: Fit) -> list[str]:
    a, b, gain = (f"{i.estimate:.3f}" if i else "" for i in (fit.a, fit.b, fit.peak))
    r2 = "" if fit.r2 is None else f"{fit.r2:.3f}"
    return [a, b, f"{fit.turn:.2f}" if fit.turn else "not yet", gain, r2]
