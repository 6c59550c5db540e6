"""Gold and proxy score against √KL, with the fitted curve and the place where gold turns (Gao et al. 2022)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from accord.report.canvas import DASHES, INK, ROUND, SOFT, blank, drawing, hue, inline
from accord.report.figures import Figure
from accord.report.folder import Json
from accord.report.frontier import DISTANCE
from accord.report.intervals import Interval, finite, interval_of, objects
from accord.report.peaks import peak
from accord.report.series import Array, smooth
from accord.report.text import called, number

FORMS = {"rl": "d (a − b log d)", "best of n": "d (a − b d)"}
"""What gold's gain is fitted by, with d = √KL."""


@dataclass(frozen=True)
class Fit:
    """The fitted curve: gold at distance zero, a and b, where it turns, the gain there, and how well it fits."""

    form: str
    start: float | None
    a: Interval | None
    b: Interval | None
    turn: Interval | None
    peak: Interval | None
    r2: float | None


@dataclass(frozen=True)
class Course:
    """One way out: distances and both scores, all (n,), in the order in which they were reached."""

    name: str
    source: str
    distance: Array
    proxy: Array
    gold: Array
    fit: Fit | None

    def fitted(self) -> tuple[Array, Array] | None:
        """The fitted curve over the distances measured; None where there is none."""
        fit = self.fit
        if fit is None or fit.a is None or fit.b is None or fit.start is None:
            return None
        d = np.linspace(max(float(self.distance.min()), 1e-3), float(self.distance.max()), 80)
        a, b = fit.a.estimate, fit.b.estimate
        bend = d * d if fit.form == "best of n" else d * np.log(d)
        return d, fit.start + a * d - b * bend


@dataclass(frozen=True)
class Turning:
    """What an evaluation found: its pictures by source, and its courses for the table of parameters."""

    proxy: str
    gold: str
    figures: tuple[Figure, ...]
    courses: tuple[Course, ...]
    warnings: tuple[str, ...]


def turning(evaluation: Json) -> Turning:
    """The page's part about an evaluation of the kind `overoptimization`."""
    proxy, gold = (called(str(evaluation.get(side) or side)) for side in ("proxy", "gold"))
    courses = [course for row in objects(evaluation.get("curves")) if (course := _course(row))]
    sources = dict.fromkeys(course.source for course in courses)
    figures = []
    for source in sources:
        drawn = [course for course in courses if course.source == source]
        readings = " ".join(reading(course, proxy, gold) for course in drawn)
        legend = f"Solid: {gold}, on the right. Dashed: {proxy}, on the left."
        if any(course.fitted() for course in drawn):
            legend += " Thin: the fitted curve."
        if any(course.fit and course.fit.turn for course in drawn):
            legend += " The upright line is where that turns, in the band of its 95% interval."
        figures.append(Figure(source.capitalize(), _picture(drawn, proxy, gold), f"{readings} {legend}"))
    warnings = tuple(str(line) for line in evaluation.get("warnings") or [])
    return Turning(proxy, gold, tuple(figures), tuple(courses), warnings)


def reading(course: Course, proxy: str, gold: str) -> str:
    """Where gold peaks, what is lost of its gain at the end, and whether the proxy still rises and the fit agrees."""
    truth, claimed = smooth(course.gold), smooth(course.proxy)
    top = peak(truth)
    if top.never_rose:
        return f"{course.name}: {gold} never rises above where it begins."
    if not top.has_turned:
        return (
            f"{course.name}: {gold} is still at its height where the curve ends, at √KL {number(course.distance[-1])}."
        )
    still = f"while {proxy} still rises" if claimed[-1] > claimed[top.place] else f"and {proxy} has stopped rising"
    doubt = " The fitted curve has not turned: the fall may be chance." if course.fit and not course.fit.turn else ""
    return f"{course.name}: {gold} peaks at √KL {number(course.distance[top.place])} and {top.fall}, {still}.{doubt}"


def _course(row: Json) -> Course | None:
    rows = [[finite(point.get(key)) for key in ("distance", "proxy", "gold")] for point in objects(row.get("points"))]
    whole = [[value for value in one if value is not None] for one in rows if None not in one]
    if not whole:
        return None
    distance, proxy, gold = np.asarray(whole, float).T
    return Course(
        str(row.get("name") or ""), str(row.get("source") or "training"), distance, proxy, gold, _fit(row.get("fit"))
    )


def _fit(value: Any) -> Fit | None:
    if not isinstance(value, dict):
        return None
    a, b, turn, peak = (interval_of(value.get(name)) for name in ("a", "b", "turn", "peak"))
    return Fit(str(value.get("form") or "rl"), finite(value.get("start")), a, b, turn, peak, finite(value.get("r2")))


def _picture(courses: Sequence[Course], proxy: str, gold: str) -> Markup:
    with drawing():
        figure, axes = blank(4.6, 2.8, DISTANCE)
        other = axes.twinx()
        other.grid(visible=False)
        axes.set_ylabel(f"{proxy} (dashed)")
        other.set_ylabel(f"{gold} (solid)", color=INK)
        for index, course in enumerate(courses):
            _course_lines(axes, other, course, hue(index))
        axes.xaxis.set_major_locator(MaxNLocator(6, steps=ROUND))
        other.yaxis.set_major_locator(MaxNLocator(5, steps=ROUND, min_n_ticks=3))
        axes.set_xlim(left=0.0)
        if len(courses) > 1:
            other.legend(frameon=False, fontsize=8, handlelength=1.8)
        return inline(figure)


def _course_lines(axes: Axes, other: Axes, course: Course, color: str) -> None:
    few = len(course.distance) <= 30
    way = course.distance if few else smooth(course.distance)
    axes.plot(way, smooth(course.proxy), color=color, linewidth=1.3, linestyle=DASHES)
    if few:
        other.plot(course.distance, course.gold, color=color, linewidth=1.8, marker="o", ms=3, label=course.name)
    else:
        other.plot(course.distance, course.gold, ".", color=color, markersize=2.5, alpha=0.35)
        other.plot(way, smooth(course.gold), color=color, linewidth=1.8, label=course.name)
    fitted = course.fitted()
    if fitted:
        other.plot(*fitted, color=SOFT, linewidth=0.8)
    turn = course.fit.turn if course.fit else None
    if turn and turn.estimate <= 1.5 * course.distance.max():
        high = min(turn.high, 1.5 * float(course.distance.max()))
        other.axvspan(turn.low, high, color=color, alpha=0.1, linewidth=0)
        other.axvline(turn.estimate, color=color, linewidth=1.0)
