"""Curves over the steps of runs: one metric, the reward beside what watches it, one metric of several runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator, PercentFormatter

from accord.report.canvas import DASHES, HUES, ROUND, SOFT, blank, drawing, hue, inline
from accord.report.captions import Metric
from accord.report.series import Series, smooth, thin

FEW = 10
"""Fewer values than this are drawn as they are, each with a dot; more, faint under their running mean."""

Mark = tuple[float, str]
"""A step, and what is written over it: an alarm's number."""

PROXY, INDEPENDENT, ALARM = HUES[1], HUES[0], HUES[4]
"""The colors of what is optimized, of what watches it, and of alarms."""


@dataclass(frozen=True)
class Figure:
    """A drawing with its title and the sentence that says what to see."""

    title: str
    svg: Markup
    caption: str


def curve(series: Series, metric: Metric, marks: Sequence[Mark] = ()) -> Markup:
    """One metric over the steps of a run: the raw values faint, their running mean bold, alarms at their steps."""
    with drawing():
        figure, axes = blank(3.5, 1.75, "step")
        _line(axes, series, hue(0))
        _settle(axes, [series], metric)
        _mark(axes, marks)
        return inline(figure)


def parting(proxy: Series, independent: Series, names: tuple[str, str], marks: Sequence[Mark] = ()) -> Markup:
    """What is optimized, dashed, and what watches it, solid, over the same steps, each with an axis of its own."""
    with drawing():
        figure, axes = blank(7.4, 2.5, "step")
        other = axes.twinx()
        other.grid(visible=False)
        for side, series, color, style in ((axes, proxy, PROXY, DASHES), (other, independent, INDEPENDENT, "-")):
            _line(side, series, color, style)
            side.tick_params(axis="y", labelcolor=color)
            side.yaxis.set_major_locator(MaxNLocator(5, steps=ROUND, min_n_ticks=3))
        axes.set_ylabel(names[0], color=PROXY)
        other.set_ylabel(names[1], color=INDEPENDENT)
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True, steps=ROUND))
        _mark(axes, marks)
        return inline(figure)


Style = tuple[str, object]
"""A color and a pattern of dashes."""


def style(place: int) -> Style:
    """How the run in a place of a comparison is drawn: the first six solid, the next six dashed, then dotted."""
    return hue(place), ("-", DASHES, (0, (1, 1.5)))[min(place // len(HUES), 2)]


def overlay(runs: Sequence[tuple[str, Series]], metric: Metric, styles: dict[str, Style]) -> Markup:
    """One metric of several runs, each in its style."""
    with drawing():
        figure, axes = blank(3.5, 1.9, "step")
        for name, series in runs:
            _line(axes, series, *styles[name])
        _settle(axes, [series for _, series in runs], metric)
        return inline(figure)


def _line(axes: Axes, series: Series, color: str, style: object = "-") -> None:
    if len(series) < FEW:
        axes.plot(series.steps, series.values, color=color, linewidth=1.6, linestyle=style, marker="o", markersize=3)
        return
    axes.plot(*thin(series.steps, series.values), color=color, linewidth=0.7, alpha=0.4)
    axes.plot(*thin(series.steps, smooth(series.values)), color=color, linewidth=1.8, linestyle=style)


def _settle(axes: Axes, drawn: Sequence[Series], metric: Metric) -> None:
    """Ticks that fit the metric, the line of chance, and no room for shares that cannot be."""
    axes.xaxis.set_major_locator(MaxNLocator(4, integer=True, steps=ROUND))
    if metric.chance is not None:
        axes.axhline(metric.chance, color=SOFT, linewidth=0.8, linestyle=DASHES)
    if metric.is_share:
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=None))
        low, high = axes.get_ylim()
        least, most = min(s.values.min() for s in drawn), max(s.values.max() for s in drawn)
        axes.set_ylim(max(low, min(0.0, least)), min(high, max(1.0, most)))


def _mark(axes: Axes, marks: Sequence[Mark]) -> None:
    """A thin line from the top at each mark's step, with its number."""
    for step, label in marks:
        axes.axvline(step, color=ALARM, linewidth=0.9, alpha=0.75)
        axes.annotate(
            label, (step, 1.0), (0, 1), xycoords=("data", "axes fraction"), textcoords="offset points",
            color=ALARM, ha="center", va="bottom", fontsize=7.5, fontweight="bold",
        )  # fmt: skip
