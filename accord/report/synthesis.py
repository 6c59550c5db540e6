"""Instructions that a model made: how new they are to the seeds, and with which words they begin."""

from __future__ import annotations

from dataclasses import dataclass

from matplotlib.ticker import MaxNLocator

from accord.report.figures import HUES, INK, ROUND, SOFT, Figure, blank, drawing, inline
from accord.report.html import number, percent
from accord.results import SynthesisResult
from accord.results.synthesis import FilterRow

SHOWN = 12
"""First words that are drawn."""


@dataclass(frozen=True)
class SynthesisSection:
    """The page's part about one run, and its figures."""

    stage: str
    result: SynthesisResult
    figures: tuple[Figure, ...]

    @property
    def filters(self) -> list[FilterRow]:
        """The filters that rejected anything."""
        return [row for row in self.result.filters if row.instructions or row.instances]


def synthesized(stage: str, result: SynthesisResult) -> SynthesisSection:
    """The page's part about instructions that were made."""
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
        f"{mean}{far} lie below 0.5. On the left is what is new; from the dashed line on instructions are rejected."
    )
    return Figure("How like the seeds they are", inline(figure), caption)


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
        f"{many} different first {'word' if many == 1 else 'words'}. Colors and words beside a bar: what follows most "
        "often, as a rule finds it that knows no grammar: the last of the first run of words without a function word."
    )
    return Figure("How they begin", inline(figure), caption)
