"""Figures as inline SVG in the page's colors and font, legible in light, dark and print: curves over steps."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import wraps
from typing import Any, ParamSpec, TypeVar, cast

import matplotlib
import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import MaxNLocator, PercentFormatter

from accord.console import error_text
from accord.report.captions import HELD_OUT, REWARDS, Metric, in_order, metric_for
from accord.report.html import number, percent
from accord.report.series import Series, columns, ends, smooth, thin

Given = ParamSpec("Given")
Drawn = TypeVar("Drawn")

# Each color is drawn as a hexadecimal stand-in, which becomes a variable of the page's style sheet.
INK, SOFT, GRID = "#000001", "#000002", "#000003"
HUES = ("#000011", "#000012", "#000013", "#000014", "#000015", "#000016")
_VARIABLES = {INK: "--ink", SOFT: "--soft", GRID: "--grid"} | {hue: f"--hue-{i}" for i, hue in enumerate(HUES, start=1)}

ROUND = [1, 2, 2.5, 5, 10]
"""Ticks are these numbers times a power of ten."""

DASHES = (0, (4, 3))
"""For lines that are not a measurement of their own: chance, a bound, the optimized reward."""

FEW = 10
"""With fewer values each is drawn with a dot; with more, faintly under their running mean."""

Mark = tuple[float, str]
"""A step and its label: an alarm's number."""

PROXY, INDEPENDENT, ALARM = HUES[1], HUES[0], HUES[4]
"""Colors of the optimized reward, of the independent measure, and of alarms."""

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


def drawing(draw: Callable[Given, Drawn]) -> Callable[Given, Drawn]:
    """Decorator for drawing functions: applies the page's style, and replaces a failed drawing by a message.

    A page is written when training ends, and must not fail because of the contents of a metrics file.
    """
    styled = matplotlib.rc_context(_STYLE)(draw)

    @wraps(draw)
    def drawn(*given: Given.args, **named: Given.kwargs) -> Drawn:
        try:
            return styled(*given, **named)
        except Exception as error:
            note = Markup("<p class='hint'>This cannot be drawn: {}.</p>").format(error_text(error))
            made = Figure("What cannot be drawn", note, "") if draw.__annotations__["return"] == "Figure" else note
            return cast(Drawn, made)

    return drawn


def hue(index: int) -> str:
    """The color of the `index`-th item; the six colors repeat."""
    return HUES[index % len(HUES)]


def blank(width: float, height: float, xlabel: str) -> tuple[Canvas, Axes]:
    """An empty figure of this size in inches, with one pair of axes."""
    figure = Canvas(figsize=(width, height), dpi=72, layout="constrained")
    axes = figure.add_subplot()
    axes.set_xlabel(xlabel)
    axes.yaxis.set_major_locator(MaxNLocator(5, steps=ROUND, min_n_ticks=3))
    return figure, axes


def inline(figure: Canvas) -> Markup:
    """The figure as an `<svg>` element without prologue, metadata or ids, in the page's colors and font."""
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
    for color, variable in _VARIABLES.items():
        svg = svg.replace(color, f"var({variable})")
    return Markup(re.sub(r"\s*\n\s*", "\n", svg))


@dataclass(frozen=True)
class Figure:
    """A drawing with its title and a caption that says what to look for."""

    title: str
    svg: Markup
    caption: str
    is_main: bool = True


@drawing
def curve(
    runs: Sequence[tuple[int, Series]],
    metric: Metric,
    marks: Sequence[Mark] = (),
    height: float = 1.75,
    held_out: Series | None = None,
) -> Markup:
    """One metric over the steps of one or several runs: raw values faint, running means bold, alarms at their steps.

    Runs come with their index: the first six are solid, the next six dashed, then dotted. The metric on held-out rows
    is dashed, with its intervals as a band.
    """
    figure, axes = blank(3.5, height, "step")
    for index, series in runs:
        _line(axes, series, hue(index), ("-", DASHES, (0, (1, 1.5)))[min(index // len(HUES), 2)])
    if held_out:
        _dashed(axes, held_out, PROXY)
    _settle(axes, [*(series for _, series in runs), *([held_out] if held_out else [])], metric)
    _mark(axes, marks)
    return inline(figure)


@drawing
def parting(proxy: Series, independent: Series, marks: Sequence[Mark] = ()) -> Markup:
    """The optimized reward (dashed) and the independent measure (solid) over the same steps, each with its own axis."""
    figure, axes = blank(7.4, 2.5, "step")
    other = axes.twinx()
    other.grid(visible=False)
    drawn = ((axes, proxy, PROXY, DASHES), (other, independent, INDEPENDENT, "-"))
    for name, (side, series, color, style) in zip(REWARDS, drawn, strict=True):
        _line(side, series, color, style)
        side.set_ylabel(name, color=color)
        side.tick_params(axis="y", labelcolor=color)
        side.yaxis.set_major_locator(MaxNLocator(5, steps=ROUND, min_n_ticks=3))
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True, steps=ROUND))
    _mark(axes, marks)
    return inline(figure)


def paired_up(measured: Mapping[str, Series]) -> list[tuple[str, Series, Series | None]]:
    """The columns in order, each with its held-out column, if any."""
    alone = [name for name in measured if name.removeprefix(HELD_OUT) not in measured.keys() - {name}]
    return [(name, measured[name], measured.get(HELD_OUT + name)) for name in in_order(alone)]


def plot_metrics(rows: Sequence[Mapping[str, Any]]) -> Canvas:
    """The main curves of a run, from its rows of metrics.jsonl, as a matplotlib figure."""
    measured = columns(rows)
    shown = [(values, held_out, metric_for(name, measured)) for name, values, held_out in paired_up(measured)]
    shown = [each for each in shown if each[2].is_main] or shown
    across = max(1, min(3, len(shown)))
    down = max(1, -(-len(shown) // across))
    figure = Canvas(figsize=(4.2 * across, 2.6 * down), layout="constrained")
    for index, (values, held_out, metric) in enumerate(shown, start=1):
        axes = figure.add_subplot(down, across, index)
        axes.set_title(metric.title, fontsize=9)
        axes.set_xlabel("step")
        _line(axes, values, "C0")
        if held_out:
            _dashed(axes, held_out, "C1")
        _settle(axes, [values, *([held_out] if held_out else [])], metric, chance="gray")
    return figure


def caption(metric: Metric, series: Series, held_out: Series | None = None) -> str:
    """The start and end of the curve, what to look for, and how many steps were not finite.

    For held-out rows also their start and end, and the last interval.
    """
    shown = percent if metric.is_share else number
    first, last = ends(series.values)
    if len(series) == 1:
        text = f"{shown(last)} in the only step measured."
    elif series.values.min() == series.values.max():
        text = f"{shown(last)} throughout."
    else:
        text = f"From {shown(first)} to {shown(last)}."
    if metric.look_for:
        text += f" {metric.look_for}"
    if series.broken:
        steps = "1 step" if series.broken == 1 else f"{series.broken} steps"
        text += f" Not finite in {steps}, left out here."
    if held_out:
        begun, ended = (shown(float(held_out.values[i])) for i in (0, -1))
        text += f" Dashed: rows held out, from {begun} to {ended}"
        if held_out.interval is not None and np.isfinite(held_out.interval[:, -1]).all():
            text += " (95% interval {} to {})".format(*map(shown, held_out.interval[:, -1].tolist()))
        text += "."
    return text


def _line(axes: Axes, series: Series, color: str, style: object = "-") -> None:
    if len(series) < FEW:
        axes.plot(series.steps, series.values, color=color, linewidth=1.6, linestyle=style, marker="o", markersize=3)
        return
    axes.plot(*thin(series.steps, series.values), color=color, linewidth=0.7, alpha=0.4)
    axes.plot(*thin(series.steps, smooth(series.values)), color=color, linewidth=1.8, linestyle=style)


def _dashed(axes: Axes, held_out: Series, color: str) -> None:
    """Held-out measurements, unsmoothed, and the band of their intervals."""
    axes.plot(held_out.steps, held_out.values, color=color, linewidth=1.6, linestyle=DASHES, marker="o", markersize=3)
    if held_out.interval is not None:
        axes.fill_between(held_out.steps, *held_out.interval, color=color, alpha=0.2, linewidth=0)


def _settle(axes: Axes, drawn: Sequence[Series], metric: Metric, chance: str = SOFT) -> None:
    """Ticks for the metric, the line of chance, and limits for shares."""
    axes.xaxis.set_major_locator(MaxNLocator(4, integer=True, steps=ROUND))
    if metric.chance is not None:
        axes.axhline(metric.chance, color=chance, linewidth=0.8, linestyle=DASHES)
    if metric.is_share:
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=None))
        low, high = axes.get_ylim()
        least, most = min(s.values.min() for s in drawn), max(s.values.max() for s in drawn)
        axes.set_ylim(max(low, min(0.0, least)), min(high, max(1.0, most)))


def _mark(axes: Axes, marks: Sequence[Mark]) -> None:
    """A thin vertical line at each mark's step, with its number at the top."""
    for step, label in marks:
        axes.axvline(step, color=ALARM, linewidth=0.9, alpha=0.75)
        axes.annotate(
            label, (step, 1.0), (0, 1), xycoords=("data", "axes fraction"), textcoords="offset points",
            color=ALARM, ha="center", va="bottom", fontsize=7.5, fontweight="bold",
        )  # fmt: skip
