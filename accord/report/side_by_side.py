"""The same stage of several runs: which settings differ, every curve in one figure, and where they ended."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from accord.report import captions, figures, series
from accord.report.captions import Metric, metric_for
from accord.report.figures import Figure
from accord.report.folder import RunFiles, StageRecord, Story
from accord.report.html import Json, duration, number, percent, setting
from accord.report.series import Series, ends

ABSENT = "–"

Row = tuple[str, tuple[str, ...]]
"""A setting or a number, and its value in each run as shown; ABSENT where a run has none."""

Measured = Sequence[tuple[str, dict[str, Series]]]
"""The metrics of each run by its name."""

LEADING = ("reward", "watched")
"""Metrics that the page opens with."""


@dataclass(frozen=True)
class SharedStage:
    """One stage of several runs; `title` is the stage's name in pipelines and empty for runs by themselves."""

    title: str
    leading: tuple[str, ...]
    stages: tuple[tuple[str, StageRecord], ...]
    settings: tuple[Row, ...]
    finals: tuple[Row, ...]
    curves: tuple[Figure, ...]
    more_curves: tuple[Figure, ...]

    @property
    def runs(self) -> list[tuple[str, RunFiles]]:
        """Each run by its name."""
        return [(name, stage.run) for name, stage in self.stages]


def shared_stages(stories: Sequence[tuple[str, Story]]) -> list[SharedStage]:
    """The chapters of a comparison: one for runs by themselves, one a stage that pipelines share."""
    names = [name for name, _ in stories]
    if not stories[0][1].is_pipeline:
        return [_shared_stage("", [(name, story.stages[0], story) for name, story in stories], names)]
    chapters = []
    for title in dict.fromkeys(stage.name for _, story in stories for stage in story.stages):
        same = [(name, stage, story) for name, story in stories for stage in story.stages if stage.name == title]
        if len(same) > 1 and any(stage.run.settings or stage.run.metrics for _, stage, _ in same):
            chapters.append(_shared_stage(title, same, names))
    return chapters


def differing(runs: Sequence[tuple[str, Json]]) -> list[Row]:
    """What is not the same in all, in the order in which it first appears."""
    keys = dict.fromkeys(key for _, values in runs for key in values)
    rows = [(str(key), tuple(setting(v[key]) if key in v else ABSENT for _, v in runs)) for key in keys]
    return [(key, values) for key, values in rows if any(value != values[0] for value in values)]


def differences(together: Sequence[SharedStage], names: Sequence[str]) -> tuple[list[Row], list[Row]]:
    """The settings that differ, and those that only some of the runs have; one row for stages that differ alike."""
    rows: dict[Row, list[str]] = {}
    for chapter in together:
        own = [name for name, _ in chapter.stages]
        for key, values in chapter.settings:
            by_name = dict(zip(own, values, strict=True))
            rows.setdefault((key, tuple(by_name.get(name, ABSENT) for name in names)), []).append(chapter.title)
    titled = [
        (f"{key} ({', '.join(titles)})" if any(titles) else key, values) for (key, values), titles in rows.items()
    ]
    return [row for row in titled if ABSENT not in row[1]], [row for row in titled if ABSENT in row[1]]


def _shared_stage(title: str, same: Sequence[tuple[str, StageRecord, Story]], names: Sequence[str]) -> SharedStage:
    measured = [(name, series.columns(stage.run.metrics)) for name, stage, _ in same]
    main, more = _curves(measured, names)
    return SharedStage(
        title=title,
        leading=_leading(measured),
        stages=tuple((name, stage) for name, stage, _ in same),
        settings=tuple(differing([(name, _settings(stage, story)) for name, stage, story in same])),
        finals=_finals(same, measured),
        curves=main,
        more_curves=more,
    )


def _settings(stage: StageRecord, story: Story) -> Json:
    """The settings; inputs from other stages are written from the pipeline's folder, wherever it was when they ran."""
    if not story.is_pipeline:
        return stage.run.settings

    def relative(option: str, value: Any) -> Any:
        for name in stage.inputs.get(option, ()):
            start = f"/{value}".rfind(f"/{name.split('/')[0]}/") if isinstance(value, str) else -1
            value = value[start:] if start >= 0 else value
        return value

    return {option: relative(option, value) for option, value in stage.run.settings.items()}


def _metrics(measured: Measured) -> list[tuple[str, Metric, list[tuple[str, Series]]]]:
    """Every metric in its order, how it is shown, and the runs that have it."""
    shown = []
    for name in captions.in_order(dict.fromkeys(name for _, one in measured for name in one)):
        measuring = [(run, one[name]) for run, one in measured if name in one]
        first = next(one for _, one in measured if name in one)
        shown.append((name, metric_for(name, first), measuring))
    return shown


def _finals(same: Sequence[tuple[str, StageRecord, Story]], measured: Measured) -> tuple[Row, ...]:
    """Where each run ended, by metric (a mean of its last tenth), after how it was run."""
    runs = [stage.run for _, stage, _ in same]
    rows: list[Row] = [
        ("Command", tuple(stage.command or ABSENT for _, stage, _ in same)),
        ("Steps", tuple(f"{len(run.metrics):,}" for run in runs)),
        ("Time", tuple(duration(run.seconds) for run in runs)),
    ]
    for _, metric, measuring in _metrics(measured):
        if metric.is_main:
            last = {name: _shown(metric, one) for name, one in measuring}
            rows.append((metric.title, tuple(last.get(name, ABSENT) for name, _ in measured)))
    rows.append(("Alarms", tuple(ABSENT if run.alarms is None else str(len(run.alarms)) for run in runs)))
    return tuple(row for row in rows if set(row[1]) != {ABSENT})


def _leading(measured: Measured) -> tuple[str, ...]:
    """Where the runs end in what counts most, the highest first, where all of them measured it."""
    ranked = []
    for name, metric, measuring in _metrics(measured):
        if name in LEADING and len(measuring) == len(measured):
            ranked.append(f"{metric.title}, at the end: {_ranked(metric, measuring)}.")
    return tuple(ranked)


def _ranked(metric: Metric, measuring: Sequence[tuple[str, Series]]) -> str:
    order = sorted(measuring, key=lambda pair: -ends(pair[1].values)[1])
    return ", ".join(f"{name} {_shown(metric, one)}" for name, one in order)


def _shown(metric: Metric, one: Series) -> str:
    return (percent if metric.is_share else number)(ends(one.values)[1])


def _curves(measured: Measured, names: Sequence[str]) -> tuple[tuple[Figure, ...], tuple[Figure, ...]]:
    """The main metrics and the others, each with all runs in one figure."""
    styles = {name: figures.style(index) for index, name in enumerate(names)}
    main: list[Figure] = []
    more: list[Figure] = []
    for _, metric, measuring in _metrics(measured):
        drawn = Figure(
            metric.title,
            figures.overlay(measuring, metric, styles),
            _caption(metric, measuring, [name for name, _ in measured]),
        )
        (main if metric.is_main else more).append(drawn)
    return tuple(main), tuple(more)


def _caption(metric: Metric, measuring: Sequence[tuple[str, Series]], runs: Sequence[str]) -> str:
    """Where each ends, from the highest down, and what to look for."""
    text = f"At the end: {_ranked(metric, measuring)}."
    others = [name for name in runs if name not in dict(measuring)]
    if others:
        text += f" Not measured in {', '.join(others)}."
    return f"{text} {metric.look_for}" if metric.look_for else text
