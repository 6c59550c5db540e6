"""Sections about preference models on held-out comparisons, and about annotators' agreement."""

from __future__ import annotations

from dataclasses import dataclass

from matplotlib.ticker import MultipleLocator, PercentFormatter

from accord.report.figures import DASHES, HUES, SOFT, Figure, blank, drawing, inline
from accord.report.folder import Story
from accord.report.html import percent, span
from accord.results import AgreementResult, ComparisonsResult, Interval
from accord.results.comparisons import Calibration, Part


@dataclass(frozen=True)
class ComparisonsSection:
    """A preference model's evaluation on held-out comparisons, and the figure of its calibration."""

    result: ComparisonsResult
    calibration: Figure | None

    @property
    def breakdowns(self) -> list[tuple[str, list[Part]]]:
        """The accuracy on parts of the comparisons, by title."""
        one = self.result
        every = {"By margin": one.by_margin, "By difference in length": one.by_length, "By source": one.by_source}
        every |= {title.capitalize(): parts for title, parts in one.by_user}
        return [(title, parts) for title, parts in every.items() if parts]

    @property
    def has_more(self) -> bool:
        """Whether there is more to show than a row of the table."""
        return bool(self.breakdowns or self.calibration or self.result.probes or self.result.warnings)


@dataclass(frozen=True)
class AgreementSection:
    """Annotators' agreement, and the ceiling that it sets for any model of their preferences."""

    stage: str
    result: AgreementResult

    @property
    def measures(self) -> list[tuple[str, Interval, str]]:
        """Measures over all annotators: title, value, and whether it is a share or a kappa."""
        result = self.result
        every = (
            ("Pairs of annotators that agree", result.agreement, "share"),
            ("Pairs that agree, without ties", result.strict, "share"),
            ("Fleiss' kappa", result.fleiss, "kappa"),
            ("Krippendorff's alpha", result.krippendorff, "kappa"),
            ("The same with ties halfway", result.krippendorff_ordinal, "kappa"),
            ("Ceiling for any model", result.ceiling, "share"),
        )
        return [(title, interval, unit) for title, interval, unit in every if interval]

    def span(self) -> tuple[float, float]:
        """The common range of the bars of the kappas; it includes zero, which is chance."""
        kappas = [pair.kappa for pair in self.result.pairs if pair.kappa]
        return span([*kappas, Interval(0.0, 0.0, 0.0), Interval(1.0, 1.0, 1.0)])


def comparison_sections(story: Story) -> list[ComparisonsSection]:
    """The comparisons evaluations in the story."""
    return [
        ComparisonsSection(result, _reliability(result.calibration) if result.calibration else None)
        for _, result in story.results(ComparisonsResult)
    ]


@drawing
def _reliability(calibration: Calibration) -> Figure | None:
    """The reliability diagram: how often the model is right at each confidence."""
    bins, error = calibration.bins, calibration.ece
    if not bins:
        return None
    confidence, seen = [one.confidence for one in bins], [one.frequency for one in bins]
    figure, axes = blank(3.6, 2.8, "confidence")
    axes.set_ylabel("accuracy")
    low = min(0.5, *confidence, *(frequency.low for frequency in seen))
    axes.plot([low, 1.0], [low, 1.0], color=SOFT, linewidth=0.8, linestyle=DASHES)
    axes.vlines(confidence, [s.low for s in seen], [s.high for s in seen], color=HUES[0], linewidth=1.4)
    axes.plot(confidence, [s.estimate for s in seen], color=HUES[0], linewidth=1.0, marker="o", markersize=4.5)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        axis.set_major_locator(MultipleLocator(0.1 if low >= 0.4 else 0.2))
    caption = ""
    if error:
        caption = (
            f"Expected calibration error {percent(error.estimate)} ({percent(error.low)}–{percent(error.high)}): "
            "the mean distance between its confidence and its accuracy. "
        )
    over = [f"{100 * one.confidence:.0f}%" for one in bins if one.frequency.high < one.confidence]
    under = [f"{100 * one.confidence:.0f}%" for one in bins if one.frequency.low > one.confidence]
    if over:
        caption += f"Overconfident at {', '.join(over)}. "
    if under:
        caption += f"Underconfident at {', '.join(under)}. "
    caption += "On the dashed line it is calibrated; below it, overconfident."
    return Figure("Calibration", inline(figure), caption)
