"""Runs beside each other on one page: what differs in their settings, and what came of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from accord.errors import InputError
from accord.files import write_text
from accord.report import html
from accord.report.alarms import Watch, watch
from accord.report.answers import Asked
from accord.report.beside import Beside, beside, differences, differing
from accord.report.figures import Figure
from accord.report.folder import Story, is_story, read_story
from accord.report.frontier import LEARNED_SCORE, Point, frontier, paths, points
from accord.report.lineage import distinct_names
from accord.report.results import ModelTable, model_tables
from accord.report.series import columns
from accord.report.shared_prompts import common_answers, common_samples
from accord.report.trial import trials

T = TypeVar("T")


@dataclass(frozen=True)
class Lane:
    """One of the runs or pipelines compared, with a name that none of the others has."""

    name: str
    story: Story


@dataclass(frozen=True)
class Crossed(Generic[T]):
    """A row of a table whose columns are the runs: what each has under a name, None where it has nothing."""

    name: str
    cells: tuple[T | None, ...]


def write_comparison(folders: Sequence[str | Path], out: str | Path) -> Path:
    """Write one page that lays several runs, or several pipelines, beside each other; its path.

    The page shows the settings that differ, every curve of all in one figure, the final numbers, reward against
    distance, the alarms of each, and what they wrote on the same prompts. Pipelines are compared stage by stage.

    Args:
        folders: two or more folders of runs, or of pipelines.
        out: the page's file, or a folder for a `comparison.html`.

    Raises:
        InputError: a folder holds no run, is given twice, or runs and pipelines are mixed, or nothing can be written at
            `out`.
    """
    lanes = _lanes([Path(folder) for folder in folders])
    path = html.page_file(out, "comparison.html")
    write_text(path, render(lanes))
    return path


def runs_in(folder: Path) -> list[Path]:
    """The folders of runs and pipelines directly inside a folder, by name."""
    return sorted(path for path in folder.iterdir() if path.is_dir() and is_story(path)) if folder.is_dir() else []


def render(lanes: Sequence[Lane]) -> str:
    """The page as HTML."""
    together = beside([(lane.name, lane.story) for lane in lanes])
    tables = [model_tables(lane.story) for lane in lanes]
    models = [{model.name: model for table in found for model in table.models} for found in tables]
    judges = dict.fromkeys(table.judge for found in tables for table in found)
    return html.fill(
        "compare.html",
        lanes=lanes,
        together=together,
        differences=differences(together, [lane.name for lane in lanes]),
        judges=list(judges),
        models=_crossed(models),
        trials=_crossed([{trial.name: trial for trial in trials(lane.story)} for lane in lanes]),
        frontiers=_frontiers(lanes, tables, together),
        watches=_watches(together),
        asked=_asked(lanes, together),
        environment=differing([(lane.name, _environment(lane.story)) for lane in lanes]),
    )


def _lanes(folders: list[Path]) -> list[Lane]:
    whole = [folder.resolve() for folder in folders]
    twice = [str(folder) for place, folder in enumerate(folders) if whole[place] in whole[:place]]
    if twice:
        raise InputError(f"{twice[0]} is given twice; give each run once.")
    if len(folders) < 2:
        raise InputError("comparing takes two runs or more; give the folders that were --out of each.")
    stories = [read_story(folder) for folder in folders]
    kinds = {story.is_pipeline for story in stories}
    if len(kinds) > 1:
        run = next(folder for folder, story in zip(folders, stories, strict=True) if not story.is_pipeline)
        raise InputError(
            f"{run} is a run and others are pipelines; compare runs with runs, or pipelines with pipelines."
        )
    return [Lane(name, story) for name, story in zip(distinct_names(folders), stories, strict=True)]


def _crossed(found: Sequence[dict[str, T]]) -> list[Crossed[T]]:
    """What the runs have by name, one row a name."""
    names = dict.fromkeys(name for one in found for name in one)
    return [Crossed(name, tuple(one.get(name) for one in found)) for name in names]


def _frontiers(lanes: Sequence[Lane], tables: Sequence[list[ModelTable]], together: Sequence[Beside]) -> list[Figure]:
    """By judge, all finished models; with the learned reward, the ways that all runs took through training."""
    names = [lane.name for lane in lanes]
    ways = paths([(name, run.metrics) for chapter in together for name, run in chapter.runs])
    judges = dict.fromkeys(judge for found in tables for table in found for judge in table.judges)
    drawn = []
    for judge in [LEARNED_SCORE, *(judge for judge in judges if judge != LEARNED_SCORE)]:
        found = [
            Point(point.name, point.distance, point.score, group=name)
            for name, evaluated in zip(names, tables, strict=True)
            for table in evaluated
            for point in points(table, judge)
        ]
        walked = ways if judge == LEARNED_SCORE else []
        if len(found) > 1 or walked:
            drawn.append(frontier(walked, found, judge, names))
    return drawn


def _watches(together: Sequence[Beside]) -> list[Watch]:
    found = []
    for chapter in together:
        for name, stage in chapter.stages:
            seen = watch(stage, columns(stage.run.metrics))
            if seen:
                found.append(seen.named(f"{name}, {chapter.title}" if chapter.title else name))
    return found


def _asked(lanes: Sequence[Lane], together: Sequence[Beside]) -> list[tuple[str, tuple[Asked, ...]]]:
    """What the runs wrote on the same prompts: at the end of training, and where models were judged."""
    found = [(chapter.title, common_samples(chapter.runs)) for chapter in together]
    tables = [(lane.name, table) for lane in lanes for table in model_tables(lane.story)]
    found.append(("Judged", common_answers(tables)))
    return [(title, asked) for title, asked in found if asked]


def _environment(story: Story) -> dict[str, object]:
    shared = html.shared([stage.run.environment for stage in story.stages])
    versions = shared.pop("versions", {})
    for name in ("command", "seed"):  # each run has its own, and the settings tell the seed
        shared.pop(name, None)
    return shared | (versions if isinstance(versions, dict) else {})
