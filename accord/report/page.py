"""One self-contained page about a run or a pipeline: read the folder, draw what it holds, fill in the template."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path as FilePath
from typing import Any

import jinja2
import numpy as np
from markupsafe import Markup

from accord.files import write_text
from accord.report import captions, figures, flow, results, series, text
from accord.report.folder import Json, Stage, Story, read_story

LEARNED_SCORE = "reward"
"""The score that the `reward` in a policy's metrics is comparable with: what the learned reward model says."""


@dataclass(frozen=True)
class Figure:
    """A drawing with its title and the sentence that says what to see."""

    title: str
    svg: Markup
    caption: str


@dataclass(frozen=True)
class Chapter:
    """What the page says about one stage: its curves, the less telling ones apart, and samples early and late."""

    stage: Stage
    steps: int
    speed: float | None
    curves: tuple[Figure, ...]
    more_curves: tuple[Figure, ...]
    samples: tuple[Json, ...]
    score: str
    environment: list[tuple[str, str]]

    @property
    def has_more(self) -> bool:
        """Whether there is anything to tell of this stage's making."""
        return bool(self.stage.inputs or self.stage.run.settings or self.environment)


def write_report(folder: str | FilePath) -> FilePath:
    """Write `report.html` into a run folder or a pipeline folder and return its path.

    The page needs no other file, no network and no script. It shows whatever the folder holds: results with their
    intervals, curves, answers, settings and environment. Raises `InputError` when the folder is neither a run nor a
    pipeline, or when one of its files cannot be read as what it should be.
    """
    folder = FilePath(folder)
    page = render(read_story(folder))
    path = folder / "report.html"
    write_text(path, page)
    return path


def render(story: Story) -> str:
    """The page as HTML. Every text in it is escaped, and half characters (lone surrogates) are replaced."""
    tables = results.model_tables(story)
    shared = _shared_environment(story)
    flows = [flow.draw(story.stages, upright=upright) for upright in (False, True)] if _has_flow(story) else []
    page = (
        _templates()
        .get_template("page.html")
        .render(
            story=story,
            flows=flows,
            tables=tables,
            agreements=results.agreements(story),
            frontiers=_frontiers(story, tables),
            chapters=[_chapter(stage, shared) for stage in story.stages],
            environment=_facts(shared),
        )
    )
    return page.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _templates() -> jinja2.Environment:
    loader = jinja2.FileSystemLoader(FilePath(__file__).parent / "templates")
    templates = jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    shown = (text.visible, text.plain, text.number, text.percent, text.duration, text.setting)
    templates.filters.update({function.__name__: function for function in shown})
    templates.globals.update(along_bar=_along_bar, box=(flow.WIDTH, flow.HEIGHT))
    return templates


def _along_bar(value: float, low: float, high: float) -> float:
    """Where `value` lies on an interval bar of 120 units that runs from `low` to `high`."""
    return round(5 + 110 * min(1.0, max(0.0, (value - low) / (high - low))), 1)


def _has_flow(story: Story) -> bool:
    return story.is_pipeline and bool(story.stages)


def _chapter(stage: Stage, shared: Json) -> Chapter:
    metrics = series.columns(stage.run.metrics)
    shown = [(captions.metric_for(name, metrics), metrics[name]) for name in captions.in_order(metrics)]
    drawn = [(m.is_main, Figure(m.title, figures.curve(s, m), captions.caption(m, s))) for m, s in shown]
    speed = metrics.get("tokens_per_second")
    return Chapter(
        stage=stage,
        steps=len(stage.run.metrics),
        speed=float(np.median(speed.values)) if speed else None,
        curves=tuple(figure for is_main, figure in drawn if is_main),
        more_curves=tuple(figure for is_main, figure in drawn if not is_main),
        samples=_early_and_late(stage.run.samples),
        score=captions.score_of(metrics),
        environment=_facts({k: v for k, v in stage.run.environment.items() if k not in shared}),
    )


def _early_and_late(samples: list[Json], most: int = 6) -> tuple[Json, ...]:
    """The first samples of the first step kept, then those of the last: enough to see what training changed."""
    if not samples:
        return ()
    first, last = samples[0].get("step"), samples[-1].get("step")
    late = [row for row in samples if row.get("step") == last][:most]
    early = [row for row in samples if row.get("step") == first][:most] if first != last else []
    return (*early, *late)


def _frontiers(story: Story, tables: list[results.ModelTable]) -> list[Figure]:
    """Score against √KL under every judge; the ways of training appear where the learned reward is the score."""
    paths = []
    for stage in story.stages:
        metrics = series.columns(stage.run.metrics)
        if {"reward", "kl"} <= metrics.keys() and captions.score_of(metrics) == LEARNED_SCORE:
            kl, reward = series.paired(metrics["kl"], metrics["reward"])
            if len(kl):
                paths.append(figures.Path(stage.name, np.sqrt(np.maximum(kl, 0.0)), reward))
    drawn = []
    for table in tables:
        for judge in sorted(table.judges, key=lambda name: name != LEARNED_SCORE):
            points = _points(table, judge)
            ways = paths if judge == LEARNED_SCORE else []
            if len(points) > 1:
                drawn.append(_frontier(ways, points, judge))
    if paths and not any(figure.title.startswith(f"{LEARNED_SCORE} ") for figure in drawn):
        drawn.insert(0, _frontier(paths, [], LEARNED_SCORE))
    return drawn


def _points(table: results.ModelTable, judge: str) -> list[figures.Point]:
    """The models whose score and distance are known; the reference is at distance zero from itself."""
    points = []
    for model in table.models:
        distance = 0.0 if model.name == table.reference else model.kl.estimate if model.kl else None
        if distance is not None and judge in model.scores:
            points.append(figures.Point(model.name, max(distance, 0.0) ** 0.5, model.scores[judge]))
    return points


def _frontier(paths: list[figures.Path], points: list[figures.Point], judge: str) -> Figure:
    caption = []
    if paths:
        names = " and ".join(path.name for path in paths)
        caption.append(
            f"The line is the way of {names} through training: dots are steps, the line their running mean. "
            "Steep is good; a line that goes right without rising pays distance for nothing."
        )
    if points:
        caption.append("Points are the finished models, with the 95% interval of their mean score.")
    if points and judge != LEARNED_SCORE:
        caption.append(
            f"{judge} is the judge: a model that goes up under the reward it was trained on but down here has "
            "over-optimised that reward."
        )
    return Figure(f"{judge} against √KL", figures.frontier(paths, points, judge), " ".join(caption))


def _shared_environment(story: Story) -> Json:
    """What every stage that recorded its environment recorded alike."""
    recorded = [stage.run.environment for stage in story.stages if stage.run.environment]
    if not recorded:
        return {}
    return {key: value for key, value in recorded[0].items() if all(other.get(key) == value for other in recorded)}


def _facts(values: Json) -> list[tuple[str, str]]:
    """Names and values to print; an object in an object becomes one line, a list of words a command line."""

    def line(value: Any) -> str:
        if isinstance(value, dict):
            return ", ".join(f"{name} {text.setting(inner)}" for name, inner in value.items())
        if isinstance(value, list) and all(isinstance(word, str) for word in value):
            return shlex.join(value)
        return text.setting(value)

    return [(str(key), line(value)) for key, value in values.items()]
