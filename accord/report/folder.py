"""What a run folder or a pipeline folder holds, read into plain rows; whatever is missing is simply empty."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from accord.errors import InputError

Json = dict[str, Any]

_OF_A_RUN = ("config.yaml", "metrics.jsonl", "evaluation.json")

_EVALUATIONS = {
    "models": "Models beside each other, on the same prompts.",
    "comparisons": "A model of preferences on trial.",
    "agreement": "How far annotators agree.",
    "frontier": "What a nat of distance buys.",
    "overoptimization": "Where more of the reward stops being better.",
    "tasks": "Models on clusters of tasks.",
}


@dataclass(frozen=True)
class Run:
    """The files of one run folder; `alarms` is None where none were listening."""

    settings: Json = field(default_factory=dict)
    environment: Json = field(default_factory=dict)
    metrics: list[Json] = field(default_factory=list)
    samples: list[Json] = field(default_factory=list)
    evaluation: Json = field(default_factory=dict)
    alarms: list[Json] | None = None
    best: Json = field(default_factory=dict)

    @property
    def kind(self) -> str:
        """The question that the evaluation in the folder answers."""
        return str(self.evaluation.get("kind") or "")

    @property
    def seconds(self) -> float | None:
        """The time that the steps took together; None when no row says."""
        each = [row["seconds"] for row in self.metrics if isinstance(row.get("seconds"), int | float)]
        return sum(each) if each else None


@dataclass(frozen=True)
class Stage:
    """One step of a pipeline: which command ran, for how many seconds, on which stages or files, and what it left."""

    name: str
    command: str
    run: Run
    status: str = "ran"
    seconds: float | None = None
    inputs: dict[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Story:
    """What a page tells: the stages of a pipeline, or the one stage that a single run is."""

    title: str
    description: str
    seconds: float | None
    stages: tuple[Stage, ...]
    is_pipeline: bool
    folder: Path


def is_run(folder: Path) -> bool:
    """Whether the folder holds what a run leaves."""
    return any((folder / name).is_file() for name in _OF_A_RUN)


def is_story(folder: Path) -> bool:
    """Whether there is anything to report on in the folder: a run's files or a pipeline's."""
    return (folder / "pipeline.json").is_file() or is_run(folder)


def read_story(folder: Path) -> Story:
    """The story in a folder; `InputError` when it holds neither a pipeline nor a run."""
    if (folder / "pipeline.json").is_file():
        return read_pipeline(folder)
    if is_run(folder):
        stage = read_stage(folder)
        what = f"One run of accord {stage.command}." if stage.command else _EVALUATIONS.get(stage.run.kind, "One run.")
        return Story(stage.name, what, stage.run.seconds, (stage,), is_pipeline=False, folder=folder)
    raise InputError(
        f"{folder} is neither a run nor a pipeline: it holds none of pipeline.json, {', '.join(_OF_A_RUN)}; "
        "give the folder that was --out of a run."
    )


def read_stage(folder: Path, name: str = "") -> Stage:
    """A run by itself, called as its folder is unless it has a better name."""
    run = read_run(folder)
    return Stage(name=name or folder.resolve().name, command=str(run.settings.get("command") or ""), run=run)


def read_pipeline(folder: Path) -> Story:
    """The story of the pipeline in a folder."""
    path = folder / "pipeline.json"
    pipeline = _read_json(path)
    stages = []
    for row, stage in enumerate(pipeline.get("stages", []), start=1):
        if not isinstance(stage, dict) or not isinstance(stage.get("name"), str):
            raise InputError(f"{path}: stage {row} has no name; run the pipeline again to write the file anew.")
        run = read_run(folder / str(stage.get("folder") or stage["name"]))
        stages.append(
            Stage(
                name=stage["name"],
                command=str(stage.get("command") or run.settings.get("command", "")),
                run=run,
                status=str(stage.get("status", "ran")),
                seconds=stage.get("seconds"),
                inputs={option: _several(value) for option, value in stage.get("inputs", {}).items()},
            )
        )
    title = pipeline.get("name") or folder.resolve().name
    return Story(title, pipeline.get("description") or "", pipeline.get("seconds"), tuple(stages), True, folder)


def _several(value: Any) -> tuple[str, ...]:
    """One input or a list of them."""
    return tuple(map(str, value)) if isinstance(value, list) else (str(value),)


def read_run(folder: Path) -> Run:
    """What one run left in its folder."""
    return Run(
        settings=_read_settings(folder / "config.yaml"),
        environment=_read_json(folder / "environment.json"),
        metrics=_latest(_read_rows(folder / "metrics.jsonl")),
        samples=_read_rows(folder / "samples.jsonl"),
        evaluation=_read_json(folder / "evaluation.json"),
        alarms=_read_rows(folder / "alarms.jsonl") if (folder / "alarms.jsonl").is_file() else None,
        best=_read_json(folder / "best.json"),
    )


def _read_settings(path: Path) -> Json:
    if not path.is_file():
        return {}
    try:
        settings = yaml.safe_load(_read_text(path))
    except yaml.YAMLError:
        settings = None
    if not isinstance(settings, dict):
        raise InputError(f"{path} is not a YAML mapping of settings; restore it or remove it.")
    return settings


def _read_json(path: Path) -> Json:
    if not path.is_file():
        return {}
    try:
        value = json.loads(_read_text(path))
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise InputError(f"{path} is not a JSON object; restore it or remove it.")
    return value


def _read_rows(path: Path) -> list[Json]:
    """The rows of a JSONL file; a last line cut short, which a killed run leaves, is not a row."""
    if not path.is_file():
        return []
    lines = [(row, line) for row, line in enumerate(_read_text(path).split("\n"), start=1) if line.strip()]
    rows = []
    for row, line in lines:
        try:
            value = json.loads(line)
        except ValueError:
            value = None
        if isinstance(value, dict):
            rows.append(value)
        elif row != lines[-1][0]:
            raise InputError(f"{path}: row {row} is not a JSON object; correct it or remove the line.")
    return rows


def _read_text(path: Path) -> str:
    """The file's text; bytes that are not UTF-8 (a character cut in half) become replacement characters."""
    return path.read_text(encoding="utf-8", errors="replace")


def _latest(rows: list[Json]) -> list[Json]:
    """One row a step, in order: where a resumed run has gone through a step again, the later row stands."""
    by_step = {}
    for index, row in enumerate(rows):
        step = row.get("step")
        numbered = step if isinstance(step, int | float) and math.isfinite(step) else index
        by_step[numbered] = {**row, "step": numbered}
    return [by_step[step] for step in sorted(by_step)]
