"""Answers revised by a constitution: their scores by revision, and by how many principles there were to draw from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.ticker import MaxNLocator

from accord.report.figures import HUES, ROUND, Figure, blank, drawing, inline
from accord.report.html import number, signed
from accord.results import CritiqueResult, Interval
from accord.results.base import called


@dataclass(frozen=True)
class CritiqueSection:
    """The page's part about one run, and its figures."""

    stage: str
    result: CritiqueResult
    figures: tuple[Figure, ...]


def revised(stage: str, result: CritiqueResult) -> CritiqueSection:
    """The page's part about answers that were revised."""
    return CritiqueSection(stage, result, tuple(_by_revision(result, name) for name in result.revisions[0].scores))


def by_principles(results: Sequence[CritiqueResult]) -> tuple[Figure, ...]:
    """A figure a score of the last revisions of runs that differ in how many principles they draw from, if any do.

    Runs of another model, constitution or number of revisions, and those without critiques, are not mixed with others.
    """
    found: dict[tuple[object, ...], list[tuple[int, CritiqueResult]]] = {}
    for result in results:
        for name in result.revisions[-1].scores:
            alike = (name, result.model, result.constitution, len(result.revisions), result.is_direct)
            found.setdefault(alike, []).append((len(result.principles), result))
    return tuple(_by_count(str(name), of) for (name, *_), of in found.items() if len({k for k, _ in of}) > 1)


def _title(name: str, result: CritiqueResult) -> str:
    return f"Better than the first, by {called(name)}" if name in result.compared else called(name)


def _by_revision(result: CritiqueResult, name: str) -> Figure:
    rows = [row for row in result.revisions if name in row.scores]
    begun, ended = (number(rows[i].scores[name].estimate) for i in (0, -1))
    caption = f"From {begun} to {ended}, with 95% intervals."
    if gain := rows[-1].gains.get(name):
        ends = f"{signed(gain.low)} to {signed(gain.high)}"
        caption += f" On the same prompts the last revision is {signed(gain.estimate)} over the first answer ({ends})."
    return _line(_title(name, result), "revision", {row.number: row.scores[name] for row in rows}, caption)


@drawing
def _by_count(name: str, of: Sequence[tuple[int, CritiqueResult]]) -> Figure:
    figure, axes = blank(3.5, 2.1, "principles")
    for count, result in of:
        one = result.revisions[-1].scores[name]
        reach = [[one.estimate - one.low], [one.high - one.estimate]]
        axes.errorbar(count, one.estimate, reach, color=HUES[0], marker="o", markersize=4, linewidth=1.4)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True, steps=ROUND))
    without = ", without critiques" if of[0][1].is_direct else ""
    numbers = " or ".join(f"{n:,}" for n in sorted({result.prompts for _, result in of}))
    caption = f"The last revision's score{without} by how many principles there were, over {numbers} prompts each."
    return Figure(f"{_title(name, of[0][1])} by number of principles", inline(figure), caption)


@drawing
def _line(title: str, xlabel: str, of: dict[int, Interval], caption: str) -> Figure:
    figure, axes = blank(3.5, 2.1, xlabel)
    places, intervals = list(of), list(of.values())
    axes.fill_between(places, [i.low for i in intervals], [i.high for i in intervals], color=HUES[0], alpha=0.2, lw=0)
    axes.plot(places, [i.estimate for i in intervals], color=HUES[0], linewidth=1.8, marker="o", markersize=3.5)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True, steps=ROUND))
    return Figure(title, inline(figure), caption)
