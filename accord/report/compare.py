"""A page that compares several runs side by side: which settings differ, and with what results."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from accord.errors import InputError
from accord.files import real
from accord.outputs import save_text
from accord.report import captions, html, series
from accord.report.alarms import StageAlarms, stage_alarms
from accord.report.figures import Figure
from accord.report.folder import StageRecord, Story, is_story, read_story
from accord.report.frontier import LEARNED_SCORE, frontier, points, trajectories
from accord.report.html import plain
from accord.report.lineage import distinct_names
from accord.report.models import ModelTable, model_tables
from accord.report.side_by_side import SharedStage, Stories, differences, differing, shared_stages
from accord.results import ComparisonsResult
from accord.results.models import Answer, SideBySide

MOST = 6
"""Maximum number of prompts shown."""

T = TypeVar("T")


def write_comparison(folders: Sequence[str | Path], out: str | Path) -> Path:
    """Write one page that compares several runs, or several pipelines, side by side; returns its path.

    The page shows the settings that differ, every curve of all runs in one figure, the final numbers, reward against
    distance, the alarms of each, and their samples on the same prompts. Pipelines are compared stage by stage.

    Args:
        folders: two or more folders of runs, or of pipelines.
        out: the page's file, or a folder for a `comparison.html`.

    Raises:
        InputError: a folder holds no run, is given twice, or runs and pipelines are mixed, or nothing can be written at
            `out`.
    """
    stories = _stories([Path(folder) for folder in folders])
    path = html.page_file(out, "comparison.html")
    names = [name for name, _ in stories]
    together = shared_stages(stories)
    tables = [model_tables(story) for _, story in stories]
    judges = dict.fromkeys(table.result.judge for own in tables for table in own)
    environments = [(name, _environment(story)) for name, story in stories]
    page = html.fill(
        "compare.html",
        names=names,
        are_pipelines=stories[0][1].is_pipeline,
        together=together,
        differences=differences(together, names),
        judges=list(judges),
        models=_crossed([{model.name: model for table in own for model in table.result.models} for own in tables]),
        comparisons=_crossed([{r.name: r for _, r in story.results(ComparisonsResult)} for _, story in stories]),
        frontiers=_frontiers(names, tables, together),
        watches=_alarms(together),
        asked=_same_prompts(names, tables, together),
        environment=differing(environments),
    )
    save_text(path, page)
    return path


def runs_in(folder: Path) -> list[Path]:
    """The folders of runs and pipelines directly inside a folder, by name."""
    return sorted(path for path in folder.iterdir() if path.is_dir() and is_story(path)) if folder.is_dir() else []


def _stories(folders: list[Path]) -> Stories:
    whole = [real(folder) for folder in folders]
    twice = [str(folder) for index, folder in enumerate(folders) if whole[index] in whole[:index]]
    if twice:
        raise InputError(f"{twice[0]} is given twice; give each run once.")
    if len(folders) < 2:
        raise InputError("a comparison needs two runs or more; give the --out folder of each.")
    stories = [read_story(folder) for folder in folders]
    runs = [str(story.folder) for story in stories if not story.is_pipeline]
    if 0 < len(runs) < len(stories):
        raise InputError(
            f"{runs[0]} is a run and others are pipelines; compare runs with runs, or pipelines with pipelines."
        )
    return list(zip(distinct_names(folders), stories, strict=True))


def _crossed(runs: Sequence[dict[str, T]]) -> list[tuple[str, list[T | None]]]:
    """One row per name: each run's value, or None where it has none."""
    names = dict.fromkeys(name for one in runs for name in one)
    return [(name, [one.get(name) for one in runs]) for name in names]


def _frontiers(
    names: Sequence[str], tables: Sequence[list[ModelTable]], together: Sequence[SharedStage]
) -> list[Figure]:
    """All finished models by judge; for the learned reward also the trajectories of training."""
    ways = trajectories([(name, stage.run.metrics) for chapter in together for name, stage in chapter.stages])
    drawn = []
    for judge in dict.fromkeys([LEARNED_SCORE, *(judge for own in tables for table in own for judge in table.judges)]):
        finished = [
            replace(point, group=name)
            for name, evaluated in zip(names, tables, strict=True)
            for table in evaluated
            for point in points(table, judge)
        ]
        walked = ways if judge == LEARNED_SCORE else []
        if len(finished) > 1 or walked:
            drawn.append(frontier(walked, finished, judge, names))
    return drawn


def _alarms(together: Sequence[SharedStage]) -> list[StageAlarms]:
    stages = [
        (f"{name}, {chapter.title}" if chapter.title else name, stage.run)
        for chapter in together
        for name, stage in chapter.stages
    ]
    of_stages = [stage_alarms(name, run, series.columns(run.metrics)) for name, run in stages]
    return [alarms for alarms in of_stages if alarms]


def _same_prompts(
    names: Sequence[str], tables: Sequence[list[ModelTable]], together: Sequence[SharedStage]
) -> list[tuple[str, list[SideBySide]]]:
    """The runs' samples on the same prompts: at the end of training, and in evaluations."""
    asked = [(chapter.title, _common_samples(chapter.stages)) for chapter in together]
    asked.append(("Judged", _common_answers(names, tables)))
    return [(title, prompts) for title, prompts in asked if prompts]


def _common_samples(stages: Sequence[tuple[str, StageRecord]]) -> list[SideBySide]:
    """Each run's last sample on prompts that two or more runs have kept; prompts of most runs come first."""
    last: dict[str, dict[str, Answer]] = {}
    for name, stage in stages:
        score = captions.score_of(series.columns(stage.run.metrics))
        for row in stage.run.samples:
            kept = {"step": row.get("step"), score: row.get("reward") if score else None}
            scores: dict[str, float | None] = {k: float(v) for k, v in kept.items() if isinstance(v, int | float)}
            answer = Answer(model=name, text=plain(row.get("completion")), scores=scores)
            last.setdefault(plain(row.get("prompt")), {})[name] = answer
    return _fullest({prompt: list(by_run.values()) for prompt, by_run in last.items() if len(by_run) > 1})


def _common_answers(names: Sequence[str], tables: Sequence[list[ModelTable]]) -> list[SideBySide]:
    """Answers of models from different evaluations to the same prompts; prompts of a single evaluation are left out."""
    answers: dict[str, list[Answer]] = {}
    asking: dict[str, set[str]] = {}
    for name, own in zip(names, tables, strict=True):
        for asked in (asked for table in own for asked in table.result.side_by_side):
            called = [answer.model_copy(update={"model": f"{answer.model}, {name}"}) for answer in asked.answers]
            answers.setdefault(asked.prompt, []).extend(called)
            asking.setdefault(asked.prompt, set()).add(name)
    return _fullest({prompt: rows for prompt, rows in answers.items() if len(asking[prompt]) > 1})


def _fullest(prompts: dict[str, list[Answer]]) -> list[SideBySide]:
    fullest = sorted(prompts.items(), key=lambda pair: -len(pair[1]))[:MOST]
    return [SideBySide(prompt=prompt, answers=answers) for prompt, answers in fullest]


def _environment(story: Story) -> dict[str, object]:
    shared = html.shared([stage.run.environment for stage in story.stages])
    versions = shared.pop("versions", {})
    for name in ("command", "seed"):  # differ anyway; the seed is among the settings
        shared.pop(name, None)
    return shared | (versions if isinstance(versions, dict) else {})
