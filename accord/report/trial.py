"""Models of preferences on trial: how often they agree, on which pairs, how well calibrated, and what fools them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup
from matplotlib.ticker import MultipleLocator, PercentFormatter

from accord.report.canvas import DASHES, HUES, SOFT, blank, drawing, inline
from accord.report.figures import Figure
from accord.report.folder import Json, Story
from accord.report.intervals import Interval, finite, interval_of, objects, span
from accord.report.results import warnings_of
from accord.report.text import called, percent

BREAKDOWNS = {"by_margin": "By margin", "by_length": "By difference in length", "by_source": "By source"}


@dataclass(frozen=True)
class Probe:
    """Pairs made to differ in a thing that should not matter, and how often the altered answer is preferred."""

    name: str
    what: str
    preferred: Interval
    shift: Interval | None

    @property
    def fools(self) -> bool:
        """Whether the alteration pays: the interval lies above a half."""
        return self.preferred.low > 0.5


@dataclass(frozen=True)
class Trial:
    """How often a scorer prefers what was chosen in held-out comparisons, where it does, and what moves it."""

    stage: str
    name: str
    data: str
    accuracy: Interval
    ceiling: float | None
    ties: int
    labeled_ties: int | None
    breakdowns: tuple[tuple[str, tuple[tuple[str, Interval], ...]], ...]
    calibration: Figure | None
    probes: tuple[Probe, ...]
    unit: str
    warnings: tuple[str, ...]

    @property
    def has_more(self) -> bool:
        """Whether there is more to show than a row of the table."""
        return bool(self.breakdowns or self.calibration or self.probes or self.warnings)


@dataclass(frozen=True)
class Agreement:
    """How far annotators agree, and the ceiling that this sets for any model of their preferences."""

    stage: str
    data: str
    annotators: tuple[str, ...]
    items: int | None
    measures: tuple[tuple[str, Interval, str], ...]
    pairs: tuple[tuple[str, int | None, Interval | None, Interval], ...]
    warnings: tuple[str, ...]

    def span(self) -> tuple[float, float]:
        """The range that the bars of the kappas share; it holds zero, which is chance."""
        return span([*(kappa for *_, kappa in self.pairs), Interval(0.0, 0.0, 0.0), Interval(1.0, 1.0, 1.0)])


def trials(story: Story) -> list[Trial]:
    """The evaluations on held-out comparisons in the story."""
    found = []
    for stage in story.stages:
        evaluation = stage.run.evaluation
        accuracy = interval_of(evaluation.get("accuracy"))
        if stage.run.kind != "comparisons" or accuracy is None:
            continue
        found.append(
            Trial(
                stage=stage.name,
                name=str(evaluation.get("name") or stage.name),
                data=called(str(evaluation.get("data") or "")),
                accuracy=accuracy,
                ceiling=finite(evaluation.get("ceiling")),
                ties=evaluation.get("ties") or 0,
                labeled_ties=evaluation.get("labeled_ties"),
                breakdowns=_breakdowns(evaluation),
                calibration=_calibration(evaluation.get("calibration")),
                probes=_probes(evaluation),
                unit=str(evaluation.get("unit") or "log-odds"),
                warnings=warnings_of(evaluation),
            )
        )
    return found


def agreements(story: Story) -> list[Agreement]:
    """The evaluations of annotators' agreement in the story."""
    return [_agreement(stage.name, stage.run.evaluation) for stage in story.stages if stage.run.kind == "agreement"]


def _breakdowns(evaluation: Json) -> tuple[tuple[str, tuple[tuple[str, Interval], ...]], ...]:
    found = []
    for key, title in BREAKDOWNS.items():
        rows = [(str(row.get("label", "")), interval_of(row.get("accuracy"))) for row in objects(evaluation.get(key))]
        known = tuple((name, accuracy) for name, accuracy in rows if accuracy)
        if known:
            found.append((title, known))
    return tuple(found)


def _probes(evaluation: Json) -> tuple[Probe, ...]:
    found = []
    for row in objects(evaluation.get("probes")):
        preferred = interval_of(row.get("preferred"))
        if preferred:
            shift = interval_of(row.get("shift"))
            found.append(Probe(str(row.get("name", "")), str(row.get("what") or ""), preferred, shift))
    return tuple(found)


def _calibration(value: object) -> Figure | None:
    """How often the model is right at each confidence, with what to see."""
    if not isinstance(value, dict):
        return None
    rows = [(finite(row.get("confidence")), interval_of(row.get("frequency"))) for row in objects(value.get("bins"))]
    bins = [(confidence, seen) for confidence, seen in rows if confidence is not None and seen]
    error = interval_of(value.get("ece"))
    if not bins:
        return None
    caption = ""
    if error:
        caption = (
            f"Expected calibration error {percent(error.estimate)} ({percent(error.low)}–{percent(error.high)}): "
            "how far, on average, its confidence is from how often it is right. "
        )
    over = [confidence for confidence, seen in bins if seen.high < confidence]
    under = [confidence for confidence, seen in bins if seen.low > confidence]
    if over:
        caption += f"Too sure where it says {_listed(over)}. "
    if under:
        caption += f"Surer than it says at {_listed(under)}. "
    caption += "On the dashed line it is right as often as it says; below it, too sure of itself."
    return Figure("Calibration", _reliability(bins), caption)


def _listed(confidences: Sequence[float]) -> str:
    return ", ".join(f"{100 * confidence:.0f}%" for confidence in confidences)


def _reliability(bins: Sequence[tuple[float, Interval]]) -> Markup:
    with drawing():
        figure, axes = blank(3.6, 2.8, "what the model says")
        axes.set_ylabel("how often it is so")
        low = min(0.5, *(confidence for confidence, _ in bins), *(seen.low for _, seen in bins))
        axes.plot([low, 1.0], [low, 1.0], color=SOFT, linewidth=0.8, linestyle=DASHES)
        place = [confidence for confidence, _ in bins]
        axes.vlines(place, [s.low for _, s in bins], [s.high for _, s in bins], color=HUES[0], linewidth=1.4)
        axes.plot(place, [s.estimate for _, s in bins], color=HUES[0], linewidth=1.0, marker="o", markersize=4.5)
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(PercentFormatter(1.0, decimals=0))
            axis.set_major_locator(MultipleLocator(0.1 if low >= 0.4 else 0.2))
        return inline(figure)


def _agreement(stage: str, evaluation: Json) -> Agreement:
    measures = (
        ("agreement", "Pairs of annotators that agree", "share"),
        ("strict", "Pairs that agree where neither ties", "share"),
        ("fleiss", "Fleiss' kappa", "kappa"),
        ("krippendorff", "Krippendorff's alpha", "kappa"),
        ("krippendorff_ordinal", "The same with ties halfway", "kappa"),
        ("ceiling", "Ceiling for any model", "share"),
    )
    found = [(title, interval_of(evaluation.get(key)), how) for key, title, how in measures]
    pairs = []
    for row in objects(evaluation.get("pairs")):
        kappa = interval_of(row.get("kappa"))
        if kappa:
            between = f"{row.get('a', '')} and {row.get('b', '')}"
            pairs.append((between, row.get("items"), interval_of(row.get("agreement")), kappa))
    return Agreement(
        stage=stage,
        data=called(str(evaluation.get("data") or "")),
        annotators=tuple(map(str, evaluation.get("annotators") or [])),
        items=evaluation.get("items"),
        measures=tuple((title, value, how) for title, value, how in found if value),
        pairs=tuple(pairs),
        warnings=warnings_of(evaluation),
    )
