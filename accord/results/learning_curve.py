"""A learning curve: held-out accuracy by the number of labels, and what more of them would buy."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from math import log
from typing import Any, Literal

from rich.table import Table

from accord.results.base import Evaluation, Interval, Record, called

Form = Literal["rises", "flat", "not begun", "not this form"]
"""What the points say: the fitted curve rises; it may be flat; the models are no better than chance, so that no curve
has begun; or the points reject the form of the curve."""


class CurvePoint(Record):
    """The accuracy at a number of labels."""

    labels: float
    """How many labels were learned from."""
    accuracy: Interval
    """The share of held-out comparisons that are agreed with: the mean of the repeats, or what the curve says."""
    runs: list[float] = []
    """That of each repeat."""


class CurveFit(Record):
    """The fitted accuracy(n) = a - b n^(-c)."""

    a: Interval
    """What infinitely many labels would give."""
    b: Interval
    """How far a single label is from it."""
    c: Interval
    """How fast that falls: 1/2 unless the points reject it, and open in the intervals."""


class Buys(Record):
    """What more labels would buy, by the curve."""

    more: int
    """How many more."""
    gain: Interval
    """The accuracy gained."""


class Reached(Record):
    """How many labels an accuracy takes, by the curve; None for more than `farthest`, or never."""

    accuracy: float
    """The accuracy."""
    labels: float | None = None
    """How many in all."""
    low: float | None = None
    """The lower end of the 95% interval."""
    high: float | None = None
    """The upper end."""
    farthest: int
    """Of more labels nothing is said."""

    def __str__(self) -> str:
        if self.low is None:
            return f"more than {self.farthest:,}"
        far = f"more than {self.farthest:,}"
        labels, high = (far if n is None else f"{n:,.0f}" for n in (self.labels, self.high))
        return f"{labels} [{self.low:,.0f}, {high}]"


class LearningCurveResult(Evaluation):
    """What the labels so far have bought, and what more would buy."""

    kind: Literal["learning_curve"] = "learning_curve"
    data: str = ""
    """Where the labels come from."""
    model: str = ""
    """What the reward models start from."""
    verdict: Form
    """What the points say."""
    labels: int
    """Labels that are learned from, those held out aside."""
    prompts: int
    """Prompts held out."""
    repeats: int
    """Models of each size."""
    points: list[CurvePoint]
    """What was measured, from the fewest labels to all."""
    bought: Interval
    """By how much all labels are better than the size before."""
    fit: CurveFit | None = None
    """The curve, where its form is not rejected and it has begun."""
    line: list[CurvePoint] = []
    """The curve at numbers of labels up to twice as many, with its intervals."""
    buys: list[Buys] = []
    """What more labels would buy."""
    reached: Reached | None = None
    """How many an accuracy takes."""

    def sentence(self) -> str:
        """What it says, in words."""
        last, before = self.points[-1], self.points[-2]
        said = (
            f"Reward models of {last.labels:,.0f} labels agree with {last.accuracy:.1%} of what is held out, "
            f"{_points(self.bought)} more than those of {before.labels:,.0f}. "
        )
        if self.verdict == "not begun":
            return said + (
                "Too few to tell what more would buy: that may be chance, and a curve that has not begun to rise says "
                "nothing of where it goes."
            )
        if self.verdict == "not this form":
            return said + (
                "What more would buy cannot be told: the points lie on no curve a − b n^(−c)"
                f"{', as they rise the faster the more labels there are' if self._is_late else ''}."
            )
        doubled, *others = self.buys
        late = (
            " The last doubling bought more than the one before; if that is no chance, more buys more." * self._is_late
        )
        if self.verdict == "flat":
            return said + (
                "Too few to tell whether more would buy anything: twice as many, "
                f"{_points(doubled.gain)}, which may be nothing and is hardly more than {100 * doubled.gain.high:.1f}.{late}"
            )
        further = "".join(f", {more.more:,} more {_points(more.gain)}" for more in others)
        wanted = f" An accuracy of {self.reached.accuracy:.0%} takes {self.reached} labels." if self.reached else ""
        return f"{said}Twice as many would buy {_points(doubled.gain)}{further}.{wanted}{late}"

    def note(self) -> str:
        """What it rests on."""
        return (
            f"{self.prompts:,} prompts are held out; {self.repeats} models of each size start from {called(self.model)}. "
            "In brackets: 95% intervals."
        )

    @property
    def _is_late(self) -> bool:
        """Whether the last doubling bought more than the one before."""
        first, middle, last = (point.accuracy.estimate for point in self.points[-3:])
        return last - middle > middle - first

    def _rows(self) -> Iterable[Mapping[str, Any]]:
        return self.model_dump(mode="json")["points"]

    def tables(self) -> Iterator[Table]:
        """What was measured, and what more would buy."""
        measured = Table("labels", "accuracy", "each repeat", title=f"{self.prompts:,} prompts held out")
        for point in self.points:
            measured.add_row(f"{point.labels:,.0f}", f"{point.accuracy}", "  ".join(f"{run:.3f}" for run in point.runs))
        yield measured
        told = Table("learning curve", "")
        told.add_row("bought by the last doubling", f"{self.bought}")
        if self.fit:
            for name in "abc":
                told.add_row(name, f"{getattr(self.fit, name)}")
        for more in self.buys:
            told.add_row(f"{more.more:,} more labels would buy", f"{more.gain}")
        if self.reached:
            told.add_row(f"labels for {self.reached.accuracy:.0%}", f"{self.reached}")
        yield told

    def svg(self) -> str:
        """The curve as an `<svg>` element in the colors of the page that it stands in, with the sentence for readers.

        Labels double from left to right. Nothing in it but numbers.
        """
        shown = [*self.points, *self.line]
        ends = [end for point in shown for end in (point.accuracy.low, point.accuracy.high)]
        low, high = min(ends), max(ends)
        first, last = self.points[0].labels, max(point.labels for point in shown)
        step = next(step for step in (0.02, 0.05, 0.1, 0.2) if high - low <= 6 * step or step == 0.2)

        def x(labels: float) -> float:
            return 44 + 340 * log(labels / first) / log(last / first)

        def y(accuracy: float) -> float:
            return 180 - 170 * (accuracy - low) / ((high - low) or 1)

        def path(some: list[tuple[float, float]]) -> str:
            return "M" + "L".join(f"{x(labels):.1f} {y(value):.1f}" for labels, value in some)

        parts = []
        for tick in range(int(low / step), int(high / step) + 2):
            if low <= (at := tick * step) <= high:
                dashes = ' stroke-dasharray="4 3" opacity=".6"' if abs(at - 0.5) < 1e-9 else ' opacity=".15"'
                parts.append(f'<path d="M44 {y(at):.1f}H384" stroke="currentColor"{dashes}/>')
                parts.append(f'<text x="38" y="{y(at) + 4:.1f}" text-anchor="end">{at:.0%}</text>')
        for point in [*self.points, *self.line[-1:]]:
            parts.append(f'<text x="{x(point.labels):.1f}" y="200" text-anchor="middle">{point.labels:,.0f}</text>')
        color = "var(--accent, var(--hue-1))"
        if self.line:
            band = [(p.labels, p.accuracy.high) for p in self.line] + [
                (p.labels, p.accuracy.low) for p in self.line[::-1]
            ]
            parts.append(f'<path d="{path(band)}Z" fill="{color}" opacity=".15"/>')
            for some, dashes in ((True, ""), (False, ' stroke-dasharray="4 3"')):
                part = [(p.labels, p.accuracy.estimate) for p in self.line if (p.labels <= self.labels) == some]
                if part:
                    parts.append(f'<path d="{path(part)}" fill="none" stroke="{color}" stroke-width="2"{dashes}/>')
        for point in self.points:
            at, ends = x(point.labels), point.accuracy
            parts.append(f'<path d="M{at:.1f} {y(ends.low):.1f}V{y(ends.high):.1f}" stroke="currentColor"/>')
            parts += [
                f'<circle cx="{at:.1f}" cy="{y(run):.1f}" r="2" opacity=".4"/>'
                for run in point.runs
                if low <= run <= high
            ]
            parts.append(f'<circle cx="{at:.1f}" cy="{y(ends.estimate):.1f}" r="4" fill="{color}"/>')
        return (
            '<svg viewBox="0 0 400 208" role="img" aria-label="Held-out accuracy by the number of labels" '
            f'fill="currentColor" font-size="11">{"".join(parts)}</svg>'
        )


def _points(gain: Interval) -> str:
    """A difference of accuracies in percentage points."""
    return f"{100 * gain.estimate:.1f} points [{100 * gain.low:.1f}, {100 * gain.high:.1f}]"
