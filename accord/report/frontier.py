"""Score against the square root of the KL divergence from a reference: training as lines, finished models as points."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from accord.report import captions, series
from accord.report.canvas import INK, ROUND, blank, drawing, hue, inline
from accord.report.figures import Figure
from accord.report.folder import Story
from accord.report.intervals import Interval
from accord.report.results import ModelTable
from accord.report.series import Array, Series, smooth

LEARNED_SCORE = "reward"
"""The score that the `reward` in a policy's metrics is comparable with: what the learned reward model says."""

DISTANCE = "√KL from the reference (√nats)"


@dataclass(frozen=True)
class Path:
    """A run's way through the plane of distance and score: two arrays of (n,), in the order of its steps."""

    name: str
    distance: Array
    score: Array


@dataclass(frozen=True)
class Point:
    """A model in that plane, with the interval of its score; the points of one group share a color."""

    name: str
    distance: float
    score: Interval
    group: str = ""


def frontiers(story: Story, tables: Sequence[ModelTable]) -> list[Figure]:
    """Score against √KL under every judge, with the ways of the runs that learned from it or were watched by it."""
    ways = paths([(stage.name, stage.run.metrics) for stage in story.stages])
    drawn = []
    for table in tables:
        for judge in sorted(table.judges, key=lambda name: name != LEARNED_SCORE):
            found = points(table, judge)
            if len(found) > 1:
                drawn.append(frontier(ways if judge == LEARNED_SCORE else _watched(story, judge), found, judge))
    if ways and not any(figure.title.startswith(f"{LEARNED_SCORE} ") for figure in drawn):
        drawn.insert(0, frontier(ways, [], LEARNED_SCORE))
    return drawn


def paths(runs: Sequence[tuple[str, list[dict[str, object]]]]) -> list[Path]:
    """The ways of those runs, named with their metrics, that measured both a learned reward and a distance."""
    measured = [(name, series.columns(rows)) for name, rows in runs]
    return _paths([(name, metrics) for name, metrics in measured if captions.score_of(metrics) == LEARNED_SCORE])


def _watched(story: Story, judge: str) -> list[Path]:
    """The ways of the runs that this judge watched, by what it said of them."""
    stages = [stage for stage in story.stages if stage.run.settings.get("watch") == judge]
    return _paths([(stage.name, series.columns(stage.run.metrics)) for stage in stages], "watched")


def _paths(measured: Sequence[tuple[str, dict[str, Series]]], score: str = "reward") -> list[Path]:
    found = []
    for name, metrics in measured:
        if {score, "kl"} <= metrics.keys():
            kl, values = series.paired(metrics["kl"], metrics[score])
            if len(kl):
                found.append(Path(name, np.sqrt(np.maximum(kl, 0.0)), values))
    return found


def points(table: ModelTable, judge: str) -> list[Point]:
    """The models whose score and distance are known; the reference is at distance zero from itself."""
    found = []
    for model in table.models:
        distance = 0.0 if model.name == table.reference else model.kl.estimate if model.kl else None
        if distance is not None and judge in model.scores:
            found.append(Point(model.name, max(distance, 0.0) ** 0.5, model.scores[judge]))
    return found


def frontier(ways: Sequence[Path], found: Sequence[Point], judge: str, names: Sequence[str] = ()) -> Figure:
    """The picture and what to see in it; `names` come first where colors are given out."""
    caption = []
    if ways:
        walked = " and ".join(dict.fromkeys(path.name for path in ways))
        caption.append(
            f"The line is the way of {walked} through training: dots are steps, the line their running mean. "
            "Steep is good; a line that goes right without rising pays distance for nothing."
        )
    if found:
        caption.append("Points are the finished models, with the 95% interval of their mean score.")
    if found and judge != LEARNED_SCORE:
        caption.append(
            f"{judge} is the judge: a model that goes up under the reward it was trained on but down here has "
            "overoptimized that reward."
        )
    return Figure(f"{judge} against √KL", _draw(ways, found, judge, names), " ".join(caption))


def _draw(ways: Sequence[Path], found: Sequence[Point], score: str, first: Sequence[str]) -> Markup:
    with drawing():
        figure, axes = blank(4.6, 2.9, DISTANCE)
        axes.set_ylabel(score)
        axes.xaxis.set_major_locator(MaxNLocator(6, steps=ROUND))
        names = dict.fromkeys([*first, *(point.group or point.name for point in found), *(path.name for path in ways)])
        colors = {name: hue(index) for index, name in enumerate(names)}
        for path in ways:
            color, every = colors[path.name], max(1, len(path.score) // 240)
            axes.plot(path.distance[::every], path.score[::every], ".", color=color, markersize=2.5, alpha=0.35)
            axes.plot(smooth(path.distance)[::every], smooth(path.score)[::every], color=color, linewidth=1.6)
        for point in found:
            color = colors[point.group or point.name]
            axes.vlines(point.distance, point.score.low, point.score.high, color=color, linewidth=1.4)
            axes.plot(point.distance, point.score.estimate, "o", color=color, markersize=5)
        axes.margins(0.08, 0.12)
        figure.draw_without_rendering()
        label(axes, found)
        return inline(figure)


def label(axes: Axes, found: Sequence[Point]) -> None:
    """Write each point's name beside it, on the first side where it covers no other name and no other point."""
    to_screen = axes.transData.transform
    spots = [to_screen((point.distance, point.score.estimate)) for point in found]
    taken = [(x - 3, y - 3, x + 3, y + 3) for x, y in spots]
    frame = axes.get_window_extent()
    for point, (x, y) in zip(found, spots, strict=True):
        width, height = 5.2 * len(point.name), 9.0
        left = -6 - width
        sides = [(6, -5), (left, -5), (6, 4), (6, -14), (left, 4), (left, -14), (6, 14), (6, -24)]
        boxes = {(dx, dy): (x + dx, y + dy, x + dx + width, y + dy + height) for dx, dy in sides}
        fits = [at for at, box in boxes.items() if frame.x0 < box[0] and box[2] < frame.x1 and not _covers(box, taken)]
        if not fits and point.group:
            continue  # its color tells whose it is, and its neighbors' names what
        dx, dy = fits[0] if fits else sides[0]
        taken.append(boxes[dx, dy])
        spot = (point.distance, point.score.estimate)
        side, shift = ("right", dx + width) if dx < 0 else ("left", dx)
        written = axes.annotate(point.name, spot, (shift, dy + 2), textcoords="offset points", color=INK, ha=side)
        written.set_in_layout(False)


def _covers(box: tuple[float, ...], others: Sequence[tuple[float, ...]]) -> bool:
    return any(box[0] < o[2] and o[0] < box[2] and box[1] < o[3] and o[1] < box[3] for o in others)
