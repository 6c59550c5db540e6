"""A measured frontier: families of models over their coefficients, and best-of-n with its bound."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup
from matplotlib.ticker import MaxNLocator

from accord.report.canvas import INK, ROUND, blank, drawing, hue, inline
from accord.report.figures import Figure
from accord.report.folder import Json
from accord.report.frontier import DISTANCE, Point, label
from accord.report.intervals import finite, interval_of, objects
from accord.report.text import called, number


@dataclass(frozen=True)
class Family:
    """Models that differ by a coefficient, in the order of their distance."""

    name: str
    points: tuple[Point, ...]

    def at(self, distance: float) -> float:
        """The score at a distance within the family's reach, on the straight line between its points."""
        place = [point.distance for point in self.points]
        return float(np.interp(distance, place, [point.score.estimate for point in self.points]))


def families(evaluation: Json) -> tuple[list[Family], Family | None]:
    """The families of an evaluation, and the bound of best-of-n where its divergence is known to lie below it."""
    found = []
    for row in objects(evaluation.get("families")):
        placed = [_point(one, one.get("kl"), _coefficient(one)) for one in objects(row.get("points"))]
        found.append(_family(str(row.get("name") or ""), placed))
    best = objects(evaluation.get("best_of_n"))
    exact = _family("best of n", [_point(one, one.get("kl"), str(one.get("n"))) for one in best])
    bound = [_point(one, {"estimate": one.get("kl_bound")}, str(one.get("n"))) for one in best]
    limit = _family("best of n, by the bound" if exact.points else "best of n", bound)
    drawn = [family for family in (*found, exact) if family.points]
    if not exact.points:
        return [*drawn, *([limit] if limit.points else [])], None
    return drawn, limit if limit.points else None


def draw(evaluation: Json) -> Figure | None:
    """The figure of an evaluation of the kind `frontier`; None where no model's distance and score are known."""
    drawn, bound = families(evaluation)
    if not drawn:
        return None
    judge = called(str(evaluation.get("judge") or "score"))
    caption = _reading(drawn, judge)
    caption += " Numbers at the points are coefficients, or n; bars are 95% intervals."
    if bound:
        caption += (
            " The thin dashed line sets best-of-n at its bound, log n − (n − 1)/n, which its divergence never passes."
        )
    elif any(family.name == "best of n" for family in drawn):
        caption += " Best-of-n lies at its bound, log n − (n − 1)/n, or to the left of it."
    reference = called(str(evaluation.get("reference") or ""))
    title = f"{judge} against √KL" + (f" from {reference}" if reference else "")
    return Figure(title, _picture(drawn, bound, judge), caption)


def _family(name: str, placed: Sequence[Point | None]) -> Family:
    return Family(name, tuple(sorted((p for p in placed if p), key=lambda point: point.distance)))


def _point(row: Json, kl: object, name: str) -> Point | None:
    distance, score = interval_of(kl), interval_of(row.get("score"))
    return Point(name, max(distance.estimate, 0.0) ** 0.5, score) if distance and score else None


def _coefficient(row: Json) -> str:
    value = finite(row.get("coefficient"))
    return str(row.get("name") or "") if value is None else f"{value:g}"


def _reading(drawn: Sequence[Family], judge: str) -> str:
    """Who gets furthest, and who gets most where all have arrived."""
    top, best = max(((f, p) for f in drawn for p in f.points), key=lambda pair: pair[1].score.estimate)
    at = f"{top.name} ({best.name}) at √KL {number(best.distance)}"
    text = f"The highest {judge}, {number(best.score.estimate)}, is {at}."
    lines = [family for family in drawn if len(family.points) > 1]
    if len(lines) > 1:
        nearest = max(family.points[0].distance for family in lines)
        shared = min(family.points[-1].distance for family in lines)
        if nearest <= shared:
            order = sorted(lines, key=lambda family: -family.at(shared))
            scores = ", ".join(f"{family.name} {number(family.at(shared))}" for family in order)
            text += f" At √KL {number(shared)}, which all reach: {scores}."
    return text + " Higher at the same distance is better."


def _picture(drawn: Sequence[Family], bound: Family | None, judge: str) -> Markup:
    with drawing():
        figure, axes = blank(4.6, 2.9, DISTANCE)
        axes.set_ylabel(judge)
        axes.xaxis.set_major_locator(MaxNLocator(6, steps=ROUND))
        for index, family in enumerate(drawn):
            place = [point.distance for point in family.points]
            score = [point.score.estimate for point in family.points]
            low, high = [p.score.low for p in family.points], [p.score.high for p in family.points]
            axes.vlines(place, low, high, color=hue(index), linewidth=1.1, alpha=0.7)
            marker = "os^Dv*"[index % 6]
            axes.plot(place, score, color=hue(index), linewidth=1.5, marker=marker, markersize=4.5, label=family.name)
        if bound:
            place = [point.distance for point in bound.points]
            score = [point.score.estimate for point in bound.points]
            axes.plot(place, score, color=INK, linewidth=0.9, linestyle=(0, (3, 2)), label=bound.name)
        axes.margins(0.08, 0.12)
        axes.legend(frameon=False, fontsize=8, handlelength=1.8)
        figure.draw_without_rendering()
        label(axes, [point for family in drawn for point in _named(family)])
        return inline(figure)


def _named(family: Family) -> list[Point]:
    """The points that are named: of best of n, which lie close, those whose n is a power of two."""
    if family.name != "best of n":
        return list(family.points)
    return [point for point in family.points if not point.name.isdecimal() or int(point.name).bit_count() == 1]
