"""The self-contained page of a run or a pipeline: read the folder, draw its contents, fill in the template."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from markupsafe import Markup

from accord.console import status
from accord.outputs import NotOurs, save_text
from accord.report import captions, figures, html, series
from accord.report.alarms import StageAlarms, stage_alarms
from accord.report.composition import Composition, composition_of
from accord.report.figures import Figure
from accord.report.folder import StageRecord, read_story
from accord.report.frontier import frontiers
from accord.report.html import Json, number
from accord.report.lineage import draw, lineage
from accord.report.models import by_labels, by_temperature, model_tables
from accord.report.overoptimization import overoptimization_section
from accord.report.preferences import AgreementSection, comparison_sections
from accord.report.series import Series
from accord.report.synthesis import by_principles, critique_section, synthesis_section
from accord.results import (
    AgreementResult,
    AlarmsResult,
    CritiqueResult,
    FailuresResult,
    JudgeResult,
    LearningCurveResult,
    OveroptimizationResult,
    PassesResult,
    PeopleResult,
    PersonalResult,
    PlanResult,
    SeedsResult,
    SweepResult,
    SynthesisResult,
    TasksResult,
    UsersResult,
)


@dataclass(frozen=True)
class Chapter:
    """One stage's part of the page: figures, samples, alarms, environment and composition."""

    stage: StageRecord
    steps: int
    speed: float | None
    parting: Figure | None
    curves: tuple[Figure, ...]
    samples: tuple[Json, ...]
    score: str
    alarms: StageAlarms | None
    environment: list[tuple[str, str]]
    composition: Composition | None

    @property
    def has_more(self) -> bool:
        """Whether inputs, settings or environment of this stage are known."""
        return bool(self.stage.inputs or self.stage.run.settings or self.environment)


def write_report(folder: str | Path, out: str | Path | None = None) -> Path:
    """Write the page of a run or a pipeline, `report.html` in its folder unless `out` names another; returns its path.

    The page is self-contained, without network or scripts. It shows what the folder holds: what was run, alarms,
    results with their intervals, curves, answers, settings and environment. Raises InputError where the folder is
    neither a run nor a pipeline, a file cannot be read, or nothing can be written at `out` (a file that ends in .html,
    or a folder).
    """
    story = read_story(Path(folder))
    path = html.page_file(folder if out is None else out, "report.html")
    tables = model_tables(story)
    shared = html.shared([stage.run.environment for stage in story.stages])
    origins = list(story.stages) if story.is_pipeline else lineage(story.folder)
    is_drawn = len(origins) >= (1 if story.is_pipeline else 2)
    page = html.fill(
        "page.html",
        story=story,
        origins=origins if story.is_pipeline or any(stage.command for stage in origins) else [],
        drawings=[draw(origins, upright=upright) for upright in (False, True)] if is_drawn else [],
        tables=tables,
        comparisons=comparison_sections(story),
        agreements=[AgreementSection(stage, result) for stage, result in story.results(AgreementResult)],
        personal=story.results(PersonalResult),
        users=story.results(UsersResult),
        judges=[result for _, result in story.results(JudgeResult)],
        people=story.results(PeopleResult),
        learning=[(stage, result, _curve_figure(result)) for stage, result in story.results(LearningCurveResult)],
        tasks=[(stage, result, _models(result)) for stage, result in story.results(TasksResult)],
        passes=story.results(PassesResult),
        failures=story.results(FailuresResult),
        sweeps=story.results(SweepResult),
        seeds=story.results(SeedsResult),
        logs=story.results(AlarmsResult),
        plans=story.results(PlanResult),
        synthesized=[synthesis_section(stage, result) for stage, result in story.results(SynthesisResult)],
        revised=[critique_section(stage, result) for stage, result in story.results(CritiqueResult)],
        by_principles=by_principles([result for _, result in story.results(CritiqueResult)]),
        frontiers=frontiers(story, tables),
        by_temperature=by_temperature(tables),
        by_labels=by_labels(tables),
        overoptimization=[overoptimization_section(result) for _, result in story.results(OveroptimizationResult)],
        chapters=[chapter(stage, shared) for stage in story.stages],
        environment=html.facts(shared),
    )
    save_text(path, page)
    return path


def refresh_report(folder: str | Path) -> Path:
    """Rewrite the page of a folder; a page changed by someone else is kept, and a line says so."""
    try:
        return write_report(folder)
    except NotOurs as error:
        status(f"the page is left as it is: {error}")
        return Path(folder) / "report.html"


def _curve_figure(result: LearningCurveResult) -> Figure:
    """The figure of a learning curve; the prediction is dashed."""
    caption = f"{result.sentence()} {result.note()} Dots are single models; the dashed part is the prediction."
    return Figure("Held-out accuracy by number of labels", Markup(result.svg()), caption)


def _models(result: TasksResult) -> list[str]:
    """The models with a score on any task; older files do not name them."""
    scores = [scores for cluster in result.clusters for scores in (cluster.mean, *(t.scores for t in cluster.tasks))]
    return result.models or list(dict.fromkeys(name for one in scores for name in one))


def chapter(stage: StageRecord, shared: Json) -> Chapter:
    """The part of the page about one stage; environment entries in `shared` are shown elsewhere."""
    metrics = series.columns(stage.run.metrics)
    alarms = stage_alarms(stage.name, stage.run, metrics)
    marks = [alarm.mark for alarm in alarms.alarms] if alarms else []
    speed = metrics.get("tokens_per_second")
    parting, shown = None, set(metrics)
    if shown >= set(captions.REWARDS):
        reward, watched = (metrics[name] for name in captions.REWARDS)
        svg = figures.parting(reward, watched, marks)
        parting = Figure("Reward and independent measure", svg, parted(reward, watched))
        shown = shown - set(captions.REWARDS)
    curves = []
    for name, values, held_out in figures.paired_up({name: metrics[name] for name in metrics if name in shown}):
        metric = captions.metric_for(name, metrics)
        svg = figures.curve([(0, values)], metric, marks, held_out=held_out)
        title = f"{metric.title}, trained on and held out" if held_out else metric.title
        curves.append(Figure(title, svg, figures.caption(metric, values, held_out), metric.is_main))
    return Chapter(
        stage=stage,
        steps=stage.run.steps,
        speed=float(np.median(speed.values)) if speed else None,
        parting=parting,
        curves=tuple(curves),
        samples=_early_and_late(stage.run.samples),
        score=captions.score_of(metrics),
        alarms=alarms,
        environment=html.facts({k: v for k, v in stage.run.environment.items() if k not in shared}),
        composition=composition_of(stage.run.composition),
    )


def parted(reward: Series, watched: Series) -> str:
    """Where reward and measure started and ended, and whether they diverged."""
    legend = "Dashed: the reward that is optimized. Solid: the independent measure that training never sees."
    claimed, truth = series.paired(reward, watched)
    if len(truth) < 2:
        return legend
    claimed, smoothed = series.smooth(claimed), series.smooth(truth)
    top = series.peak(smoothed)
    begun, ended = number(claimed[0]), number(claimed[-1])
    if top.never_rose:
        seen = f"The measure never rises above its start of {number(smoothed[0])}"
        rises = f", while the reward goes from {begun} to {ended}."
    elif top.has_turned:
        step = np.intersect1d(reward.steps, watched.steps)[top.index]
        best = number(smoothed[top.index])
        seen = f"The measure is highest at step {step:,.0f} ({best}) and {top.fall} ({number(smoothed[-1])})"
        still = "still rises" if claimed[-1] > claimed[top.index] else "falls too"
        rises = f", while the reward {still}, from {number(claimed[top.index])} to {ended}."
    else:
        seen = f"The measure rises from {number(smoothed[0])} to {number(smoothed[-1])}"
        rises = f" as the reward goes from {begun} to {ended}: they have not diverged."
    return f"{seen}{rises} {legend}"


def _early_and_late(samples: list[Json]) -> tuple[Json, ...]:
    """Six samples of the first step kept, and six of the last."""
    if not samples:
        return ()
    first, last = samples[0].get("step"), samples[-1].get("step")
    late = [row for row in samples if row.get("step") == last][:6]
    early = [row for row in samples if row.get("step") == first][:6] if first != last else []
    return (*early, *late)
