"""What the page says about one stage: its curves, its alarms, and samples early and late."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from accord.report import captions, figures, series
from accord.report.alarms import Watch, watch
from accord.report.captions import metric_for
from accord.report.figures import Figure, Mark
from accord.report.folder import Json, Stage
from accord.report.html import facts
from accord.report.peaks import peak
from accord.report.series import Series
from accord.report.text import number

PARTING = ("reward", "watched")
"""What is optimized and what watches it: drawn as one figure where both were measured."""


@dataclass(frozen=True)
class Chapter:
    """One stage: the figure of reward and watch, its main curves, the less telling ones apart, samples, alarms."""

    stage: Stage
    steps: int
    speed: float | None
    parting: Figure | None
    curves: tuple[Figure, ...]
    more_curves: tuple[Figure, ...]
    samples: tuple[Json, ...]
    score: str
    watch: Watch | None
    environment: list[tuple[str, str]]

    @property
    def has_more(self) -> bool:
        """Whether there is anything to tell of this stage's making."""
        return bool(self.stage.inputs or self.stage.run.settings or self.environment)


def chapter(stage: Stage, shared: Json) -> Chapter:
    """The chapter of a stage; what its environment shares with the others' is told elsewhere."""
    metrics = series.columns(stage.run.metrics)
    alarms = watch(stage, metrics)
    marks = alarms.marks if alarms else []
    speed = metrics.get("tokens_per_second")
    main, more = _curves(metrics, marks)
    return Chapter(
        stage=stage,
        steps=len(stage.run.metrics),
        speed=float(np.median(speed.values)) if speed else None,
        parting=parting(metrics, marks),
        curves=main,
        more_curves=more,
        samples=_early_and_late(stage.run.samples),
        score=captions.score_of(metrics),
        watch=alarms,
        environment=facts({k: v for k, v in stage.run.environment.items() if k not in shared}),
    )


def parting(metrics: dict[str, Series], marks: list[Mark]) -> Figure | None:
    """Reward and what watches it in one figure; None where either is missing."""
    if not metrics.keys() >= set(PARTING):
        return None
    reward, watched = (metrics[name] for name in PARTING)
    svg = figures.parting(reward, watched, PARTING, marks)
    return Figure("The reward, and what watches it", svg, parted(reward, watched))


def parted(reward: Series, watched: Series) -> str:
    """From where to where both went, and whether they parted."""
    legend = "Dashed: the reward that is optimized. Solid: the independent measure that training never sees."
    claimed, truth = series.paired(reward, watched)
    if len(truth) < 2:
        return legend
    claimed, smoothed = series.smooth(claimed), series.smooth(truth)
    top = peak(smoothed)
    begun, ended = number(claimed[0]), number(claimed[-1])
    if top.never_rose:
        seen = f"The measure never rises above the {number(smoothed[0])} where it begins"
        rises = f", while the reward goes from {begun} to {ended}."
    elif top.has_turned:
        step = np.intersect1d(reward.steps, watched.steps)[top.place]
        best = number(smoothed[top.place])
        seen = f"The measure is highest at step {step:,.0f} ({best}) and {top.fall} ({number(smoothed[-1])})"
        still = "still rises" if claimed[-1] > claimed[top.place] else "falls too"
        rises = f", while the reward {still}, from {number(claimed[top.place])} to {ended}."
    else:
        seen = f"The measure rises from {number(smoothed[0])} to {number(smoothed[-1])}"
        rises = f" as the reward goes from {begun} to {ended}: they have not parted."
    return f"{seen}{rises} {legend}"


def _curves(metrics: dict[str, Series], marks: list[Mark]) -> tuple[tuple[Figure, ...], tuple[Figure, ...]]:
    """The main curves and the others, in their order, without those that the figure of reward and watch shows."""
    main: list[Figure] = []
    more: list[Figure] = []
    apart = PARTING if metrics.keys() >= set(PARTING) else ()
    for name in captions.in_order(name for name in metrics if name not in apart):
        metric, values = metric_for(name, metrics), metrics[name]
        drawn = Figure(metric.title, figures.curve(values, metric, marks), captions.caption(metric, values))
        (main if metric.is_main else more).append(drawn)
    return tuple(main), tuple(more)


def _early_and_late(samples: list[Json], most: int = 6) -> tuple[Json, ...]:
    """The first samples of the first step kept, then those of the last: enough to see what training changed."""
    if not samples:
        return ()
    first, last = samples[0].get("step"), samples[-1].get("step")
    late = [row for row in samples if row.get("step") == last][:most]
    early = [row for row in samples if row.get("step") == first][:most] if first != last else []
    return (*early, *late)
