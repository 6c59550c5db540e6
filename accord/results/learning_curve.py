"""A learning curve: held-out accuracy by number of labels, and what more labels would gain."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from math import ceil, floor, log
from typing import Any, ClassVar, Literal

from rich.table import Table

from accord.results.base import Evaluation, Record, called
from accord.results.intervals import Interval

Form = Literal["rises", "flat", "not begun", "all alike", "not this form"]
"""What the points show: the fitted curve rises; it may be flat; no curve has begun, as models beat chance at fewer than
three sizes; all models get the same comparisons right; or the points reject the form of the curve."""


class CurvePoint(Record):
    """The accuracy at a number of labels."""

    labels: float
    """Number of labels trained on."""
    accuracy: Interval
    """The share of held-out comparisons the model agrees with: the mean over repeats, or the curve's value."""
    runs: list[float] = []
    """The accuracy of each repeat."""


class CurveFit(Record):
    """The fitted accuracy(n) = a - b n^(-c)."""

    a: Interval
    """The accuracy at infinitely many labels."""
    b: Interval
    """The deficit at a single label."""
    c: Interval
    """The exponent: 1/2 unless the points reject it; the intervals do not fix it."""


class MoreLabels(Record):
    """The gain from more labels, by the curve."""

    more: int
    """Number of additional labels."""
    gain: Interval
    """The gain in accuracy."""


class LabelsNeeded(Record):
    """Labels needed for an accuracy, by the curve; None for more than `farthest`, or never."""

    accuracy: float
    """The accuracy."""
    labels: float | None = None
    """Labels in all."""
    low: float | None = None
    """The lower end of the 95% interval."""
    high: float | None = None
    """The upper end."""
    farthest: int
    """The largest number the curve is extrapolated to."""

    def __str__(self) -> str:
        if self.low is None:
            return f"more than {self.farthest:,}"
        far = f"more than {self.farthest:,}"
        labels, high = (far if n is None else f"{n:,.0f}" for n in (self.labels, self.high))
        return f"{labels} [{self.low:,.0f}, {high}]"


class LearningCurveResult(Evaluation):
    """What the labels so far gained, and what more would gain."""

    kind: Literal["learning_curve"] = "learning_curve"
    reads_chats: ClassVar[bool] = True
    data: str = ""
    """The source of the labels."""
    model: str = ""
    """The model that reward models start from."""
    verdict: Form
    """What the points show."""
    labels: int
    """Labels to train on, without those held out."""
    prompts: int
    """Number of held-out prompts."""
    repeats: int
    """Models per size."""
    points: list[CurvePoint]
    """The measurements, from the fewest labels to all."""
    bought: Interval
    """The gain in accuracy of all labels over the next smaller size."""
    fit: CurveFit | None = None
    """The curve, if it has begun and its form is not rejected."""
    line: list[CurvePoint] = []
    """The curve at up to twice as many labels, with its intervals."""
    buys: list[MoreLabels] = []
    """What more labels would gain."""
    reached: LabelsNeeded | None = None
    """Labels needed for a given accuracy."""

    def sentence(self) -> str:
        """The result in words."""
        last, before = self.points[-1], self.points[-2]
        start = (
            f"Reward models of {last.labels:,.0f} labels agree with {last.accuracy:.1%} of the held-out comparisons, "
            f"{_points(self.bought)} more than those of {before.labels:,.0f}. "
        )
        if self.verdict == "not begun":
            begun = "models are clearly better than chance at fewer than three sizes"
            if last.accuracy.low <= 0.5:
                begun = "this may be chance, and no curve has begun to rise"
            return f"{start}Too few to tell what more labels would buy: {begun}."
        if self.verdict == "all alike":
            return start + "Too few to tell what more labels would buy: the models agree on all held-out comparisons."
        if self.verdict == "not this form":
            return start + (
                "What more labels would buy cannot be estimated: the points fit no curve a − b n^(−c)"
                f"{', as they rise faster with more labels' if self._is_late else ''}."
            )
        doubled, *others = self.buys
        late = ""
        if self._is_late:
            late = " The last doubling bought more than the one before; unless that is chance, more labels buy more."
        if self.verdict == "flat":
            return start + (
                f"Too few to tell whether more labels would buy anything: twice as many, {_points(doubled.gain)}, "
                f"which may be nothing and is hardly more than {100 * doubled.gain.high:.1f}.{late}"
            )
        further = "".join(f", {more.more:,} more {_points(more.gain)}" for more in others)
        wanted = f" An accuracy of {self.reached.accuracy:.0%} takes {self.reached} labels." if self.reached else ""
        return f"{start}Twice as many would buy {_points(doubled.gain)}{further}.{wanted}{late}"

    def note(self) -> str:
        """What the result is based on."""
        return (
            f"{self.prompts:,} prompts are held out; {self.repeats} models of each size start from "
            f"{called(self.model)}. Brackets are 95% intervals."
        )

    @property
    def _is_late(self) -> bool:
        """Whether the last doubling gained more than the one before."""
        first, middle, last = (point.accuracy.estimate for point in self.points[-3:])
        return last - middle > middle - first

    def _rows(self) -> Iterable[Mapping[str, Any]]:
        return self.model_dump(mode="json")["points"]

    def tables(self) -> Iterator[Table]:
        """The measurements, and what more labels would gain."""
        measured = Table("labels", "accuracy", "each repeat", title=f"{self.prompts:,} prompts held out")
        for point in self.points:
            measured.add_row(f"{point.labels:,.0f}", f"{point.accuracy}", "  ".join(f"{run:.3f}" for run in point.runs))
        yield measured
        table = Table("learning curve", "")
        table.add_row("bought by the last doubling", f"{self.bought}")
        if self.fit:
            a, b, c = (interval.estimate for interval in (self.fit.a, self.fit.b, self.fit.c))
            table.add_row("fitted", f"{a:.3f} − {b:.2f} n^(−{c:.2f})")
            table.add_row("infinitely many labels would give", f"{self.fit.a}")
        for more in self.buys:
            table.add_row(f"{more.more:,} more labels would buy", f"{more.gain}")
        if self.reached:
            table.add_row(f"labels for {self.reached.accuracy:.0%}", f"{self.reached}")
        yield table

    def svg(self) -> str:
        """The curve as an `<svg>` element in the page's colors; labels are on a log scale.

        It contains only numbers, no names. Dots are repeats; beyond the measurements the curve is dashed.
        """
        shown = [*self.points, *self.line]
        low = min(value for p in shown for value in (p.accuracy.low, *p.runs))
        high = max(value for p in shown for value in (p.accuracy.high, *p.runs))
        first, last = self.points[0].labels, max(p.labels for p in shown)

        def at(labels: float, accuracy: float) -> str:
            across = log(labels / first) / log(last / first)
            return f"{44 + 340 * across:.1f} {180 - 170 * (accuracy - low) / (high - low or 1):.1f}"

        color = "var(--accent, var(--hue-1))"
        drawn = f'fill="none" stroke="{color}" stroke-width="2"'
        step = next((step for step in (0.02, 0.05, 0.1) if high - low <= 6 * step), 0.2)
        parts = []
        for tick in (n * step for n in range(ceil(low / step), floor(high / step) + 1)):
            parts.append(_path([at(first, tick), at(last, tick)], 'stroke="currentColor" opacity=".2"'))
            parts.append(_text(at(first, tick), f"{tick:.0%}", 'dx="-8" dy="4" text-anchor="end"'))
        for point in [*self.points, *self.line[-1:]]:
            parts.append(_text(at(point.labels, low), f"{point.labels:,.0f}", 'dy="20" text-anchor="middle"'))
        if self.line:
            edges = [at(p.labels, p.accuracy.high) for p in self.line]
            edges += [at(p.labels, p.accuracy.low) for p in self.line[::-1]]
            known = [at(p.labels, p.accuracy.estimate) for p in self.line if p.labels <= self.labels]
            rest = [at(p.labels, p.accuracy.estimate) for p in self.line[len(known) - 1 :]]
            parts.append(_path(edges, f'fill="{color}" opacity=".15"'))
            parts += [_path(known, drawn), _path(rest, f'{drawn} stroke-dasharray="4 3"')]
        for point in self.points:
            ends = [at(point.labels, point.accuracy.low), at(point.labels, point.accuracy.high)]
            parts.append(_path(ends, 'stroke="currentColor"'))
            parts += [_dot(at(point.labels, run), 'r="2" opacity=".4"') for run in point.runs]
            parts.append(_dot(at(point.labels, point.accuracy.estimate), f'r="4" fill="{color}"'))
        return (
            '<svg viewBox="0 0 400 208" role="img" aria-label="Held-out accuracy by the number of labels" '
            f'fill="currentColor" font-size="11">{"".join(parts)}</svg>'
        )


def _path(places: Iterable[str], more: str) -> str:
    return f'<path d="M{"L".join(places)}" {more}/>'


def _dot(point: str, more: str) -> str:
    return '<circle cx="{}" cy="{}" {}/>'.format(*point.split(), more)


def _text(point: str, text: str, more: str) -> str:
    return '<text x="{}" y="{}" {}>{}</text>'.format(*point.split(), more, text)


def _points(gain: Interval) -> str:
    """A difference of accuracies in percentage points."""
    return f"{100 * gain.estimate:.1f} points [{100 * gain.low:.1f}, {100 * gain.high:.1f}]"
