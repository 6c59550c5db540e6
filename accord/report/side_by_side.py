"""The same stage of several runs: which settings differ, curves in common figures, and final values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from accord.report import captions, figures, series
from accord.report.captions import metric_for
from accord.report.figures import Figure
from accord.report.folder import StageRecord, Story
from accord.report.html import Json, duration, number, percent, setting
from accord.report.series import ends

ABSENT = "–"

Row = tuple[str, tuple[str, ...]]
"""A setting or number, and its text for each run; ABSENT where a run has none."""

Stories = Sequence[tuple[str, Story]]
"""The runs or pipelines compared, with distinct names."""


@dataclass(frozen=True)
class SharedStage:
    """One stage of several runs; `title` is the stage's name, empty for single runs."""

    title: str
    leading: tuple[str, ...]
    stages: tuple[tuple[str, StageRecord], ...]
    settings: tuple[Row, ...]
    finals: tuple[Row, ...]
    curves: tuple[Figure, ...]


def shared_stages(stories: Stories) -> list[SharedStage]:
    """The parts of a comparison: one for single runs, one per stage that pipelines share."""
    names = [name for name, _ in stories]
    if not stories[0][1].is_pipeline:
        return [_shared_stage("", [(name, story.stages[0]) for name, story in stories], names)]
    chapters = []
    for title in dict.fromkeys(stage.name for _, story in stories for stage in story.stages):
        same = [(name, stage) for name, story in stories for stage in story.stages if stage.name == title]
        if len(same) > 1 and any(stage.run.settings or stage.run.metrics for _, stage in same):
            chapters.append(_shared_stage(title, same, names))
    return chapters


def differing(runs: Sequence[tuple[str, Json]]) -> list[Row]:
    """The entries that differ between runs, in order of first appearance."""
    keys = dict.fromkeys(key for _, values in runs for key in values)
    rows = [(str(key), tuple(setting(v[key]) if key in v else ABSENT for _, v in runs)) for key in keys]
    return [(key, values) for key, values in rows if any(value != values[0] for value in values)]


def differences(together: Sequence[SharedStage], names: Sequence[str]) -> tuple[list[Row], list[Row]]:
    """The settings that differ, and those that only some runs have; stages that differ alike share a row."""
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


def _shared_stage(title: str, same: Sequence[tuple[str, StageRecord]], names: Sequence[str]) -> SharedStage:
    """One stage of several runs: its differing settings, and final values by metric (means of the last tenth)."""
    runs = [(name, series.columns(stage.run.metrics)) for name, stage in same]
    leading, curves = [], []
    finals = [
        ("Command", tuple(stage.command or ABSENT for _, stage in same)),
        ("Steps", tuple(f"{stage.run.steps:,}" for _, stage in same)),
        ("Time", tuple(duration(stage.run.seconds) for _, stage in same)),
    ]
    for column in captions.in_order(dict.fromkeys(name for _, metrics in runs for name in metrics)):
        measuring = [(name, metrics[column]) for name, metrics in runs if column in metrics]
        metric = metric_for(column, next(metrics for _, metrics in runs if column in metrics))
        last = {name: ends(one.values)[1] for name, one in measuring}
        shown = {name: (percent if metric.is_share else number)(value) for name, value in last.items()}
        ranked = ", ".join(f"{name} {shown[name]}" for name in sorted(last, key=lambda name: -last[name]))
        if column in captions.REWARDS and len(measuring) == len(runs):
            leading.append(f"{metric.title}, at the end: {ranked}.")
        if metric.is_main:
            finals.append((metric.title, tuple(shown.get(name, ABSENT) for name, _ in runs)))
        caption = f"At the end: {ranked}."
        if others := [name for name, _ in runs if name not in shown]:
            caption += f" Not measured in {', '.join(others)}."
        if metric.look_for:
            caption += f" {metric.look_for}"
        svg = figures.curve([(names.index(name), one) for name, one in measuring], metric, height=1.9)
        curves.append(Figure(metric.title, svg, caption, metric.is_main))
    alarms = [stage.run.alarms for _, stage in same]
    finals.append(("Alarms", tuple(ABSENT if rung is None else str(len(rung)) for rung in alarms)))
    return SharedStage(
        title=title,
        leading=tuple(leading),
        stages=tuple(same),
        settings=tuple(differing([(name, stage.settings) for name, stage in same])),
        finals=tuple(row for row in finals if set(row[1]) != {ABSENT}),
        curves=tuple(curves),
    )
