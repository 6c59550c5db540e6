"""Proxy and gold reward against the distance from the start, and where gold turns over (Gao et al. 2022)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal

from pydantic import Field
from rich.table import Table

from accord.results.base import Evaluation, Interval, MaybeInterval, Record, absent_unless_given

Source = Literal["training", "best of n", "sweep"]
"""What a curve is made by."""


class Fit(Record):
    """The fitted curve `start + a d - b bend(d)`, with bend(d) = d^2 (best of n) or d log d (rl)."""

    form: Literal["best of n", "rl"]
    """Which bend it has."""
    a: Interval
    """The rise."""
    b: Interval
    """The bend."""
    turn: MaybeInterval = None
    """The distance at which it peaks; None where b's interval includes 0 or the peak lies beyond what was measured."""
    peak: MaybeInterval = None
    """The gain at that distance."""
    start: float | None = None
    """Gold at distance 0."""
    r2: float | None = None
    """The share of gold's variance that the curve explains."""
    reach: float = 0.0
    """The largest distance that was measured."""


class CurvePoint(Record):
    """A place on the way from the start; of best of n and the sweep with 95% intervals."""

    distance: float
    """sqrt(KL) from the start, in root nats."""
    at: float | None = None
    """The step, n or beta; None where beta is infinite."""
    proxy: float
    """The mean reward that is optimized."""
    proxy_low: float | None = absent_unless_given()
    """The lower end of its interval."""
    proxy_high: float | None = absent_unless_given()
    """The upper end."""
    gold: float
    """The mean independent measure."""
    gold_low: float | None = absent_unless_given()
    """The lower end of its interval."""
    gold_high: float | None = absent_unless_given()
    """The upper end."""


class Curve(Record):
    """Points in the order in which they were reached, and the fit of gold."""

    name: str
    """What it is called."""
    source: Source
    """What it is made by."""
    points: list[CurvePoint] = []
    """The points; of training each is a mean over neighboring steps."""
    fit: Fit | None = None
    """The fitted curve; None where there are too few points."""
    warnings: list[str] = Field(default=[], exclude=True)
    """What to beware of; written with the result's own warnings."""


class OveroptimizationResult(Evaluation):
    """Whether the true reward turns over while the optimized one still rises, and where."""

    kind: Literal["overoptimization"] = "overoptimization"
    proxy: str = ""
    """What is optimized."""
    gold: str = ""
    """The independent measure."""
    curves: list[Curve]
    """A curve a training run, then best of n and the sweep."""

    def _rows(self) -> Iterable[Mapping[str, Any]]:
        curves = self.model_dump(mode="json")["curves"]
        return [point | {"curve": curve["name"]} for curve in curves for point in curve["points"]]

    def tables(self) -> Iterator[Table]:
        """The fits; the intervals of a and b are in the file."""
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
