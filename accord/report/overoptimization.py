"""Figures of gold and proxy score against √KL, with the fitted curve and the distance at which gold turns down."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from accord.report.figures import DASHES, INK, ROUND, SOFT, Figure, drawing, hue, inline
from accord.report.frontier import plane
from accord.report.html import number
from accord.report.series import Array, peak, smooth
from accord.results import OveroptimizationResult
from accord.results.base import called
from accord.results.overoptimization import Curve


@dataclass(frozen=True)
class OveroptimizationSection:
    """The figures of an overoptimization evaluation, one per source of curves, and the curves with points."""

    proxy: str
    gold: str
    figures: tuple[Figure, ...]
    curves: tuple[Curve, ...]
    warnings: tuple[str, ...]
    forms: ClassVar = {"rl": "d (a − b log d)", "best of n": "d (a − b d)"}
    """The fitted forms of gold's gain, with d = √KL."""


def overoptimization_section(result: OveroptimizationResult) -> OveroptimizationSection:
    """The section about an overoptimization evaluation."""
    proxy, gold = called(result.proxy) or "proxy", called(result.gold) or "gold"
    curves = [curve for curve in result.curves if curve.points]
    figures = []
    for source in dict.fromkeys(curve.source for curve in curves):
        drawn = [curve for curve in curves if curve.source == source]
        readings = " ".join(reading(curve, proxy, gold) for curve in drawn)
        legend = f"Solid: {gold}, on the right. Dashed: {proxy}, on the left."
        if any(fitted(curve) for curve in drawn):
            legend += " Thin: the fitted curve."
        if any(curve.fit and curve.fit.turn for curve in drawn):
            legend += " The vertical line is where it turns down, in the band of its 95% interval."
        figures.append(Figure(source.capitalize(), _picture(drawn, proxy, gold), f"{readings} {legend}"))
    return OveroptimizationSection(proxy, gold, tuple(figures), tuple(curves), tuple(result.warnings))


def reading(curve: Curve, proxy: str, gold: str) -> str:
    """Where gold peaks, how much of its gain is lost, whether the proxy still rises, and whether the fit agrees."""
    distance, claimed, truth = arrays(curve)
    claimed, truth = smooth(claimed), smooth(truth)
    top = peak(truth)
    if top.never_rose:
        return f"{curve.name}: {gold} never rises above its start."
    if not top.has_turned:
        return f"{curve.name}: {gold} is still at its peak at the end, at √KL {number(distance[-1])}."
    still = f"while {proxy} still rises" if claimed[-1] > claimed[top.index] else f"and {proxy} has stopped rising"
    doubt = " The fitted curve does not turn down: the fall may be chance." if curve.fit and not curve.fit.turn else ""
    return f"{curve.name}: {gold} peaks at √KL {number(distance[top.index])} and {top.fall}, {still}.{doubt}"


def arrays(curve: Curve) -> tuple[Array, Array, Array]:
    """Distances, proxy and gold, each (n,), in order."""
    distance, proxy, gold = np.array([(point.distance, point.proxy, point.gold) for point in curve.points], float).T
    return distance, proxy, gold


def fitted(curve: Curve) -> tuple[Array, Array] | None:
    """The fitted curve over the measured distances; None without a fit."""
    fit = curve.fit
    if fit is None or fit.a is None or fit.b is None or fit.start is None:
        return None
    distance, _, _ = arrays(curve)
    d = np.linspace(max(float(distance.min()), 1e-3), float(distance.max()), 80)
    bend = d * d if fit.form == "best of n" else d * np.log(d)
    return d, fit.start + fit.a.estimate * d - fit.b.estimate * bend


@drawing
def _picture(curves: Sequence[Curve], proxy: str, gold: str) -> Markup:
    figure, axes = plane(2.8, f"{proxy} (dashed)")
    other = axes.twinx()
    other.grid(visible=False)
    other.set_ylabel(f"{gold} (solid)", color=INK)
    for index, curve in enumerate(curves):
        _lines(axes, other, curve, hue(index))
    other.yaxis.set_major_locator(MaxNLocator(5, steps=ROUND, min_n_ticks=3))
    axes.set_xlim(left=0.0)
    if len(curves) > 1:
        other.legend(frameon=False, fontsize=8, handlelength=1.8)
    return inline(figure)


def _lines(axes: Axes, other: Axes, curve: Curve, color: str) -> None:
    """One curve: the proxy on the left axis; gold, the fit and its turn on the right."""
    distance, proxy, gold = arrays(curve)
    few, furthest = len(distance) <= 30, float(distance.max())
    along = distance if few else smooth(distance)
    axes.plot(along, smooth(proxy), color=color, linewidth=1.3, linestyle=DASHES)
    if few:
        other.plot(distance, gold, color=color, linewidth=1.8, marker="o", ms=3, label=curve.name)
    else:
        other.plot(distance, gold, ".", color=color, markersize=2.5, alpha=0.35)
        other.plot(along, smooth(gold), color=color, linewidth=1.8, label=curve.name)
    if line := fitted(curve):
        other.plot(*line, color=SOFT, linewidth=0.8)
    turn = curve.fit.turn if curve.fit else None
    if turn and turn.estimate <= 1.5 * furthest:
        other.axvspan(turn.low, min(turn.high, 1.5 * furthest), color=color, alpha=0.1, linewidth=0)
        other.axvline(turn.estimate, color=color, linewidth=1.0)
