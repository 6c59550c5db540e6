"""Sections about data made by models: novelty and openings of instructions, and scores of revised answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.ticker import MaxNLocator

from accord.report.figures import HUES, INK, ROUND, SOFT, Figure, blank, drawing, inline
from accord.report.html import number, percent, signed
from accord.results import CritiqueResult, Interval, SynthesisResult
from accord.results.base import called
from accord.results.synthesis import FilterRow

SHOWN = 12
"""Number of first words drawn."""


@dataclass(frozen=True)
class SynthesisSection:
    """The section about one run of instruction generation."""

    stage: str
    result: SynthesisResult
    figures: tuple[Figure, ...]

    @property
    def filters(self) -> list[FilterRow]:
        """The filters that rejected anything."""
        return [row for row in self.result.filters if row.instructions or row.instances]


def synthesis_section(stage: str, result: SynthesisResult) -> SynthesisSection:
    """The section about generated instructions."""
    return SynthesisSection(stage, result, (_novelty(result), _openings(result)) if result.accepted else ())


@drawing
def _novelty(result: SynthesisResult) -> Figure:
    figure, axes = blank(3.5, 2.4, "highest ROUGE-L to a seed")
    axes.set_ylabel("instructions")
    axes.bar([i / 10 + 0.05 for i in range(10)], result.novelty, width=0.09, color=HUES[0])
    axes.axvline(result.similar, color=SOFT, linewidth=0.8, linestyle=(0, (4, 3)))
    axes.set_xlim(0, 1)
    axes.yaxis.set_major_locator(MaxNLocator(5, integer=True, steps=ROUND))
    mean = f"On average {number(result.novelty_mean.estimate)}. " if result.novelty_mean else ""
    far = percent(sum(result.novelty[:5]) / result.accepted)
    caption = (
        f"{mean}{far} lie below 0.5. Novel instructions are on the left; from the dashed line on they are rejected."
    )
    return Figure("Similarity to the seeds", inline(figure), caption)


@drawing
def _openings(result: SynthesisResult) -> Figure:
    shown = result.openings[:SHOWN]
    figure, axes = blank(3.9, 0.5 + 0.2 * len(shown), "instructions")
    axes.grid(visible=False)
    for row, opening in enumerate(shown):
        left = 0
        for hue, count in zip(HUES, opening.objects.values(), strict=False):
            axes.barh(row, count, left=left, height=0.7, color=hue)
            left += count
        axes.barh(row, opening.count - left, left=left, height=0.7, color=SOFT, alpha=0.3)
        axes.annotate(
            ", ".join(opening.objects), (opening.count, row), (4, 0), textcoords="offset points",
            color=INK, va="center", fontsize=7, annotation_clip=False,
        ).set_in_layout(False)  # fmt: skip
    axes.set_yticks(range(len(shown)), [opening.word for opening in shown])
    axes.invert_yaxis()
    axes.set_xlim(0, 2.2 * max(opening.count for opening in shown))
    axes.xaxis.set_major_locator(MaxNLocator(4, integer=True, steps=ROUND))
    many = result.different_openings
    caption = (
        f"{many} different first {'word' if many == 1 else 'words'}. Colors and words beside a bar: the most frequent "
        "objects, found by a rule without grammar: the last of the first run of words without a function word."
    )
    return Figure("First words", inline(figure), caption)


@dataclass(frozen=True)
class CritiqueSection:
    """The section about one run of critique and revision."""

    stage: str
    result: CritiqueResult
    figures: tuple[Figure, ...]


def critique_section(stage: str, result: CritiqueResult) -> CritiqueSection:
    """The section about revised answers."""
    return CritiqueSection(stage, result, tuple(_by_revision(result, name) for name in result.revisions[0].scores))


def by_principles(results: Sequence[CritiqueResult]) -> tuple[Figure, ...]:
    """Figures of the last revisions' scores by number of principles, one per score, where runs differ in it.

    Runs of different models, constitutions or numbers of revisions, or without critiques, are not mixed.
    """
    groups: dict[tuple[object, ...], list[tuple[int, CritiqueResult]]] = {}
    for result in results:
        for name in result.revisions[-1].scores:
            alike = (name, result.model, result.constitution, len(result.revisions), result.is_direct)
            groups.setdefault(alike, []).append((len(result.principles), result))
    return tuple(_by_count(str(name), of) for (name, *_), of in groups.items() if len({k for k, _ in of}) > 1)


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
