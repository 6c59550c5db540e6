"""Figures as inline SVG with the colours and the font of the page, so that they read in light, dark and print."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from accord.report.captions import Metric
from accord.report.results import Interval
from accord.report.series import Array, Series, smooth, thin

# Each colour is drawn as a hexadecimal stand-in, which becomes a variable of the page's style sheet.
INK, SOFT, GRID = "#000001", "#000002", "#000003"
HUES = ("#000011", "#000012", "#000013", "#000014", "#000015", "#000016")
_VARIABLES = {INK: "--ink", SOFT: "--soft", GRID: "--grid"} | {hue: f"--hue-{i}" for i, hue in enumerate(HUES, start=1)}

_ROUND = [1, 2, 2.5, 5, 10]
"""Ticks fall on these numbers times a power of ten."""

_STYLE: dict[Any, object] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "accord",
    "font.size": 8.5,
    "axes.edgecolor": GRID,
    "axes.labelcolor": SOFT,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "text.color": INK,
    "text.parse_math": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
}


def hue(index: int) -> str:
    """The colour of the `index`-th thing drawn; after six they come round again, and labels tell things apart."""
    return HUES[index % len(HUES)]


def curve(series: Series, metric: Metric) -> Markup:
    """One metric over the steps of a run: the raw values faint, their running mean bold."""
    with matplotlib.rc_context(_STYLE):
        figure, axes = _blank(3.5, 1.75, "step")
        axes.xaxis.set_major_locator(MaxNLocator(4, integer=True, steps=_ROUND))
        if metric.is_share:
            axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=None))
        if metric.chance is not None:
            axes.axhline(metric.chance, color=SOFT, linewidth=0.8, linestyle=(0, (4, 3)))
        if len(series) < 10:
            axes.plot(series.steps, series.values, color=hue(0), linewidth=1.6, marker="o", markersize=3)
        else:
            axes.plot(*thin(series.steps, series.values), color=hue(0), linewidth=0.7, alpha=0.4)
            axes.plot(*thin(series.steps, smooth(series.values)), color=hue(0), linewidth=1.8)
        if metric.is_share:
            low, high = axes.get_ylim()
            axes.set_ylim(max(low, min(0.0, series.values.min())), min(high, max(1.0, series.values.max())))
        return _inline(figure)


@dataclass(frozen=True)
class Path:
    """A run's way through the plane of distance and reward: two arrays of (n,), in the order of its steps."""

    name: str
    distance: Array
    reward: Array


@dataclass(frozen=True)
class Point:
    """A model in that plane, with the interval of its score."""

    name: str
    distance: float
    score: Interval


def frontier(paths: Sequence[Path], points: Sequence[Point], score: str) -> Markup:
    """`score` against the square root of the KL divergence from the reference: training as lines, models as points."""
    with matplotlib.rc_context(_STYLE):
        figure, axes = _blank(4.6, 2.9, "√KL from the reference (√nats)")
        axes.set_ylabel(score)
        axes.xaxis.set_major_locator(MaxNLocator(6, steps=_ROUND))
        names = dict.fromkeys([point.name for point in points] + [path.name for path in paths])
        colours = {name: hue(index) for index, name in enumerate(names)}
        for path in paths:
            colour, every = colours[path.name], max(1, len(path.reward) // 240)
            axes.plot(path.distance[::every], path.reward[::every], ".", color=colour, markersize=2.5, alpha=0.35)
            axes.plot(smooth(path.distance)[::every], smooth(path.reward)[::every], color=colour, linewidth=1.6)
        for point in points:
            colour = colours[point.name]
            axes.vlines(point.distance, point.score.low, point.score.high, color=colour, linewidth=1.4)
            axes.plot(point.distance, point.score.estimate, "o", color=colour, markersize=5)
        axes.margins(0.08, 0.12)
        figure.canvas.draw()
        _label(axes, points)
        return _inline(figure)


def _label(axes: Axes, points: Sequence[Point]) -> None:
    """Write each point's name beside it, on the first side where it covers no other name and no other point."""
    to_screen = axes.transData.transform
    spots = [to_screen((point.distance, point.score.estimate)) for point in points]
    taken = [(x - 3, y - 3, x + 3, y + 3) for x, y in spots]
    frame = axes.get_window_extent()
    for point, (x, y) in zip(points, spots, strict=True):
        width, height = 5.8 * len(point.name), 9.0
        left = -6 - width
        sides = [(6, -5), (left, -5), (6, 4), (6, -14), (left, 4), (left, -14), (6, 14), (6, -24)]
        boxes = {(dx, dy): (x + dx, y + dy, x + dx + width, y + dy + height) for dx, dy in sides}
        fits = [at for at, box in boxes.items() if frame.x0 < box[0] and box[2] < frame.x1 and not _covers(box, taken)]
        dx, dy = fits[0] if fits else sides[0]
        taken.append(boxes[dx, dy])
        spot = (point.distance, point.score.estimate)
        label = axes.annotate(point.name, spot, (dx, dy + 2), textcoords="offset points", color=INK)
        label.set_in_layout(False)


def _covers(box: tuple[float, ...], others: Sequence[tuple[float, ...]]) -> bool:
    return any(box[0] < o[2] and o[0] < box[2] and box[1] < o[3] and o[1] < box[3] for o in others)


def _blank(width: float, height: float, xlabel: str) -> tuple[Figure, Axes]:
    """An empty figure of so many inches, with one pair of axes."""
    figure = Figure(figsize=(width, height), dpi=72, layout="constrained")
    axes = figure.add_subplot()
    axes.set_xlabel(xlabel)
    axes.yaxis.set_major_locator(MaxNLocator(5, steps=_ROUND, min_n_ticks=3))
    return figure, axes


def _inline(figure: Figure) -> Markup:
    """The figure as an `<svg>` element: no prologue, no metadata, no names of its own, the page's colours and font."""
    file = io.StringIO()
    figure.savefig(file, format="svg", transparent=True)
    svg = file.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", svg, flags=re.S)
    svg = re.sub(r' xmlns(:xlink)?="[^"]*"| version="1\.1"', "", svg).replace("xlink:href", "href")
    svg = re.sub(
        r"<clipPath.*?</clipPath>|<defs>\s*</defs>| clip-path=\"[^\"]*\"|font-family:[^;\"]*; ?", "", svg, flags=re.S
    )
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)
    svg = re.sub(r'<svg width="[^"]*pt" height="[^"]*pt"', '<svg aria-hidden="true"', svg)
    svg = re.sub(r"<[^>]*>", lambda tag: re.sub(r"\d+\.\d{2,}", lambda n: f"{float(n.group()):.1f}", tag.group()), svg)
    for colour, variable in _VARIABLES.items():
        svg = svg.replace(colour, f"var({variable})")
    return Markup(re.sub(r"\s*\n\s*", "\n", svg))
