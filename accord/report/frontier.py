"""Figures of score against the square root of the KL divergence from a reference.

Training is a line and a finished model a point; a measured frontier has one line per method, over its coefficients, and
best of n with its bound.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import MaxNLocator
from matplotlib.transforms import Bbox

from accord.report.captions import score_of
from accord.report.figures import INK, ROUND, Figure, blank, drawing, hue, inline
from accord.report.folder import Story
from accord.report.html import Json, number
from accord.report.models import ModelTable
from accord.report.series import Array, columns, paired, smooth
from accord.results import FrontierResult, Interval
from accord.results.base import called

LEARNED_SCORE = "reward"
"""The score to which the `reward` in a policy's metrics is comparable: that of the learned reward model."""

DISTANCE = "√KL from the reference (√nats)"


@dataclass(frozen=True)
class Trajectory:
    """A run's path of distance and score, arrays (n,) in the order of its steps."""

    name: str
    distance: Array
    score: Array


@dataclass(frozen=True)
class ScoredPoint:
    """A model's distance and score with its interval; points of one group share a color."""

    name: str
    distance: float
    score: Interval
    group: str = ""


@dataclass(frozen=True)
class Line:
    """Models that differ in a coefficient, or best of n, in the order of their distance."""

    name: str
    points: tuple[ScoredPoint, ...]

    @property
    def curve(self) -> tuple[list[float], list[float]]:
        """The distances and scores."""
        return [point.distance for point in self.points], [point.score.estimate for point in self.points]

    def at(self, distance: float) -> float:
        """The score at a distance within the line's range, interpolated linearly."""
        return float(np.interp(distance, *self.curve))


def frontiers(story: Story, tables: Sequence[ModelTable]) -> list[Figure]:
    """The measured frontiers; then, by judge, finished models and trajectories of runs it rewarded or watched."""
    ways = trajectories([(stage.name, stage.run.metrics) for stage in story.stages])
    drawn = []
    for table in tables:
        for judge in sorted(table.judges, key=lambda name: name != LEARNED_SCORE):
            watched = [(s.name, s.run.metrics) for s in story.stages if s.run.settings.get("watch") == judge]
            finished = points(table, judge)
            if len(finished) > 1:
                walked = ways if judge == LEARNED_SCORE else trajectories(watched, "watched")
                drawn.append(frontier(walked, finished, judge))
    if ways and not any(figure.title.startswith(f"{LEARNED_SCORE} ") for figure in drawn):
        drawn.insert(0, frontier(ways, [], LEARNED_SCORE))
    measured = [measured_frontier(result) for _, result in story.results(FrontierResult)]
    return [figure for figure in measured if figure] + drawn


def trajectories(runs: Sequence[tuple[str, list[Json]]], score: str = LEARNED_SCORE) -> list[Trajectory]:
    """The trajectories of the runs that measured a distance and `score`, by name."""
    ways = []
    for name, rows in runs:
        metrics = columns(rows)
        is_comparable = score != LEARNED_SCORE or score_of(metrics) == LEARNED_SCORE
        if is_comparable and {score, "kl"} <= metrics.keys():
            kl, values = paired(metrics["kl"], metrics[score])
            if len(kl):
                ways.append(Trajectory(name, np.sqrt(np.maximum(kl, 0.0)), values))
    return ways


def points(table: ModelTable, judge: str) -> list[ScoredPoint]:
    """The models with a known score and distance; the reference has distance zero."""
    placed = []
    for model in table.result.models:
        distance = 0.0 if model.name == table.result.reference else model.kl.estimate if model.kl else None
        if distance is not None and judge in model.scores:
            placed.append(ScoredPoint(model.name, max(distance, 0.0) ** 0.5, model.scores[judge]))
    return placed


@drawing
def frontier(
    ways: Sequence[Trajectory], finished: Sequence[ScoredPoint], judge: str, names: Sequence[str] = ()
) -> Figure:
    """The figure and its caption; `names` come first when colors are assigned."""
    figure, axes = plane(2.9, judge)
    groups = [point.group or point.name for point in finished]
    colors = {name: hue(i) for i, name in enumerate(dict.fromkeys([*names, *groups, *(path.name for path in ways)]))}
    for path in ways:
        color, every = colors[path.name], max(1, len(path.score) // 240)
        axes.plot(path.distance[::every], path.score[::every], ".", color=color, markersize=2.5, alpha=0.35)
        axes.plot(smooth(path.distance)[::every], smooth(path.score)[::every], color=color, linewidth=1.6)
    for point, group in zip(finished, groups, strict=True):
        axes.vlines(point.distance, point.score.low, point.score.high, color=colors[group], linewidth=1.4)
        axes.plot(point.distance, point.score.estimate, "o", color=colors[group], markersize=5)
    caption = []
    if ways:
        walked = " and ".join(dict.fromkeys(path.name for path in ways))
        caption.append(
            f"The line is the path of {walked} through training: dots are steps, the line their running mean. "
            "Steep is good; a line that goes right without rising spends divergence for nothing."
        )
    if finished:
        caption.append("Points are the finished models, with the 95% interval of their mean score.")
    if finished and judge != LEARNED_SCORE:
        caption.append(
            f"{judge} is the judge: a model that rises under the reward it was trained on but falls here has "
            "overoptimized that reward."
        )
    return Figure(f"{judge} against √KL", _labeled(figure, axes, finished), " ".join(caption))


def plane(height: float, score: str) -> tuple[Canvas, Axes]:
    """An empty figure of scores over distance."""
    figure, axes = blank(4.6, height, DISTANCE)
    axes.set_ylabel(score)
    axes.xaxis.set_major_locator(MaxNLocator(6, steps=ROUND))
    return figure, axes


def lines(result: FrontierResult) -> tuple[list[Line], Line | None]:
    """The families of an evaluation and best of n, and its bound where the exact divergence is known."""
    families = []
    for family in result.families:
        names = [p.name if p.coefficient is None else f"{p.coefficient:g}" for p in family.points]
        models = [(name, p.kl.estimate, p.score) for name, p in zip(names, family.points, strict=True)]
        families.append(_line(family.name, models))
    best = result.best_of_n
    exact = _line("best of n", [(str(one.n), one.kl.estimate, one.score) for one in best if one.kl])
    called_bound = "best of n, by the bound" if exact.points else "best of n"
    bound = _line(called_bound, [(str(one.n), one.kl_bound, one.score) for one in best])
    drawn = [line for line in (*families, exact if exact.points else bound) if line.points]
    return drawn, bound if exact.points else None


def _line(name: str, models: Sequence[tuple[str, float, Interval]]) -> Line:
    placed = [ScoredPoint(model, max(kl, 0.0) ** 0.5, score) for model, kl, score in models]
    return Line(name, tuple(sorted(placed, key=lambda point: point.distance)))


@drawing
def measured_frontier(result: FrontierResult) -> Figure | None:
    """The figure of a frontier evaluation; None without models."""
    drawn, bound = lines(result)
    if not drawn:
        return None
    judge = called(result.judge) or "score"
    figure, axes = plane(2.9, judge)
    for index, line in enumerate(drawn):
        low, high = [p.score.low for p in line.points], [p.score.high for p in line.points]
        axes.vlines(line.curve[0], low, high, color=hue(index), linewidth=1.1, alpha=0.7)
        marker = "os^Dv*"[index % 6]
        axes.plot(*line.curve, color=hue(index), linewidth=1.5, marker=marker, markersize=4.5, label=line.name)
    if bound:
        axes.plot(*bound.curve, color=INK, linewidth=0.9, linestyle=(0, (3, 2)), label=bound.name)
    axes.legend(frameon=False, fontsize=8, handlelength=1.8)
    svg = _labeled(figure, axes, [point for line in drawn for point in line.points if _is_named(line, point)])
    caption = _reading(drawn, judge)
    caption += " Numbers at the points are coefficients, or n; bars are 95% intervals."
    if bound:
        caption += (
            " The thin dashed line shows best-of-n at its bound, log n − (n − 1)/n, which its divergence never exceeds."
        )
    elif any(line.name == "best of n" for line in drawn):
        caption += " Best-of-n lies at its bound, log n − (n − 1)/n, or to the left of it."
    title = f"{judge} against √KL" + (f" from {called(result.reference)}" if result.reference else "")
    return Figure(title, svg, caption)


def _reading(drawn: Sequence[Line], judge: str) -> str:
    """The best score overall, and the scores at the largest distance that all methods reach."""
    top, best = max(((f, p) for f in drawn for p in f.points), key=lambda pair: pair[1].score.estimate)
    at = f"{top.name} ({best.name}) at √KL {number(best.distance)}"
    text = f"The highest {judge}, {number(best.score.estimate)}, is {at}."
    arrived = [line for line in drawn if len(line.points) > 1]
    if len(arrived) > 1:
        nearest = max(line.points[0].distance for line in arrived)
        shared = min(line.points[-1].distance for line in arrived)
        if nearest <= shared:
            order = sorted(arrived, key=lambda line: -line.at(shared))
            scores = ", ".join(f"{line.name} {number(line.at(shared))}" for line in order)
            text += f" At √KL {number(shared)}, which all methods reach: {scores}."
    return text + " Higher at the same distance is better."


def _is_named(line: Line, point: ScoredPoint) -> bool:
    """Whether to label a point: of best of n, which lie close, only those where n is a power of two."""
    return line.name != "best of n" or not point.name.isdecimal() or int(point.name).bit_count() == 1


def _labeled(figure: Canvas, axes: Axes, points: Sequence[ScoredPoint]) -> Markup:
    """The figure with point labels, each on the first side where it overlaps nothing."""
    axes.margins(0.08, 0.12)
    figure.draw_without_rendering()
    to_screen = axes.transData.transform
    spots = [to_screen((point.distance, point.score.estimate)) for point in points]
    taken = [Bbox.from_extents(x - 3, y - 3, x + 3, y + 3) for x, y in spots]
    frame = axes.get_window_extent()
    for point, (x, y) in zip(points, spots, strict=True):
        width, height = 5.2 * len(point.name), 9.0
        left = -6 - width
        sides = [(6, -5), (left, -5), (6, 4), (6, -14), (left, 4), (left, -14), (6, 14), (6, -24)]
        boxes = {(dx, dy): Bbox.from_bounds(x + dx, y + dy, width, height) for dx, dy in sides}
        inside = [at for at, box in boxes.items() if frame.x0 < box.x0 and box.x1 < frame.x1]
        fits = [at for at in inside if not boxes[at].count_overlaps(taken)]
        if not fits and point.group:
            continue  # identified by its color and its neighbors' labels
        dx, dy = fits[0] if fits else sides[0]
        taken.append(boxes[dx, dy])
        spot = (point.distance, point.score.estimate)
        side, shift = ("right", dx + width) if dx < 0 else ("left", dx)
        written = axes.annotate(point.name, spot, (shift, dy + 2), textcoords="offset points", color=INK, ha=side)
        written.set_in_layout(False)
    return inline(figure)
