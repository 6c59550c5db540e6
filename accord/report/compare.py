"""Runs side by side on one page: what differs in their settings, and what came of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from accord.errors import InputError
from accord.files import write_text
from accord.report import captions, html, series
from accord.report.alarms import StageAlarms, stage_alarms
from accord.report.figures import Figure
from accord.report.folder import RunFiles, Story, is_story, read_story
from accord.report.frontier import LEARNED_SCORE, ScoredPoint, frontier, points, trajectories
from accord.report.html import Json, plain
from accord.report.lineage import distinct_names
from accord.report.models import ModelTable, model_tables
from accord.report.side_by_side import SharedStage, differences, differing, shared_stages
from accord.report.trial import trials
from accord.results.models import Answer, SideBySide

MOST = 6
"""Prompts that are shown."""

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
    """Write one page that lays several runs, or several pipelines, side by side; its path.

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
    together = shared_stages([(lane.name, lane.story) for lane in lanes])
    tables = [model_tables(lane.story) for lane in lanes]
    models = [{model.name: model for table in own for model in table.result.models} for own in tables]
    judges = dict.fromkeys(table.result.judge for own in tables for table in own)
    return html.fill(
        "compare.html",
        lanes=lanes,
        together=together,
        differences=differences(together, [lane.name for lane in lanes]),
        judges=list(judges),
        models=_crossed(models),
        trials=_crossed([{trial.result.name: trial for trial in trials(lane.story)} for lane in lanes]),
        frontiers=_frontiers(lanes, tables, together),
        watches=_alarms(together),
        asked=_asked(lanes, together),
        environment=differing([(lane.name, _environment(lane.story)) for lane in lanes]),
    )


def _lanes(folders: list[Path]) -> list[Lane]:
    whole = [folder.resolve() for folder in folders]
    twice = [str(folder) for index, folder in enumerate(folders) if whole[index] in whole[:index]]
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


def _crossed(runs: Sequence[dict[str, T]]) -> list[Crossed[T]]:
    """What the runs have by name, one row a name."""
    names = dict.fromkeys(name for one in runs for name in one)
    return [Crossed(name, tuple(one.get(name) for one in runs)) for name in names]


def _frontiers(
    lanes: Sequence[Lane], tables: Sequence[list[ModelTable]], together: Sequence[SharedStage]
) -> list[Figure]:
    """By judge, all finished models; with the learned reward, the ways that all runs took through training."""
    names = [lane.name for lane in lanes]
    ways = trajectories([(name, run.metrics) for chapter in together for name, run in chapter.runs])
    judges = dict.fromkeys(judge for own in tables for table in own for judge in table.judges)
    drawn = []
    for judge in [LEARNED_SCORE, *(judge for judge in judges if judge != LEARNED_SCORE)]:
        finished = [
            ScoredPoint(point.name, point.distance, point.score, group=name)
            for name, evaluated in zip(names, tables, strict=True)
            for table in evaluated
            for point in points(table, judge)
        ]
        walked = ways if judge == LEARNED_SCORE else []
        if len(finished) > 1 or walked:
            drawn.append(frontier(walked, finished, judge, names))
    return drawn


def _alarms(together: Sequence[SharedStage]) -> list[StageAlarms]:
    heard = []
    for chapter in together:
        for name, stage in chapter.stages:
            alarms = stage_alarms(stage, series.columns(stage.run.metrics))
            if alarms:
                heard.append(alarms.named(f"{name}, {chapter.title}" if chapter.title else name))
    return heard


def _asked(lanes: Sequence[Lane], together: Sequence[SharedStage]) -> list[tuple[str, list[SideBySide]]]:
    """What the runs wrote on the same prompts: at the end of training, and where models were judged."""
    prompts = [(chapter.title, common_samples(chapter.runs)) for chapter in together]
    tables = [(lane.name, table) for lane in lanes for table in model_tables(lane.story)]
    prompts.append(("Judged", common_answers(tables)))
    return [(title, asked) for title, asked in prompts if asked]


def common_samples(runs: Sequence[tuple[str, RunFiles]]) -> list[SideBySide]:
    """The last sample of each run on prompts that two or more have kept; prompts that all have come first."""
    last: dict[str, dict[str, Answer]] = {}
    for name, run in runs:
        score = captions.score_of(series.columns(run.metrics))
        for row in run.samples:
            last.setdefault(plain(row.get("prompt")), {})[name] = _sample(name, row, score)
    return _fullest({prompt: list(by_run.values()) for prompt, by_run in last.items() if len(by_run) > 1})


def common_answers(tables: Sequence[tuple[str, ModelTable]]) -> list[SideBySide]:
    """What the models of different evaluations answered to the same prompts; a prompt of one evaluation is left out."""
    answers: dict[str, list[tuple[str, Answer]]] = {}
    for lane, table in tables:
        for asked in table.result.side_by_side:
            answers.setdefault(asked.prompt, []).extend((lane, answer) for answer in asked.answers)
    several = {prompt: rows for prompt, rows in answers.items() if len({lane for lane, _ in rows}) > 1}
    return _fullest(
        {
            prompt: [answer.model_copy(update={"model": f"{answer.model}, {lane}"}) for lane, answer in rows]
            for prompt, rows in several.items()
        }
    )


def _fullest(prompts: dict[str, list[Answer]]) -> list[SideBySide]:
    fullest = sorted(prompts.items(), key=lambda pair: -len(pair[1]))[:MOST]
    return [SideBySide(prompt=prompt, answers=answers) for prompt, answers in fullest]


def _sample(name: str, row: Json, score: str) -> Answer:
    kept = {"step": row.get("step"), score: row.get("reward") if score else None}
    scores: dict[str, float | None] = {
        key: float(value) for key, value in kept.items() if isinstance(value, int | float)
    }
    return Answer(model=name, text=plain(row.get("completion")), scores=scores)


def _environment(story: Story) -> dict[str, object]:
    shared = html.shared([stage.run.environment for stage in story.stages])
    versions = shared.pop("versions", {})
    for name in ("command", "seed"):  # each run has its own, and the settings hold the seed
        shared.pop(name, None)
    return shared | (versions if isinstance(versions, dict) else {})
