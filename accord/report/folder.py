"""What a run's or a pipeline's folder holds: settings, rows, and an evaluation's result; what is missing is empty."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import yaml

from accord import results
from accord.console import legible, status
from accord.errors import InputError
from accord.files import changed
from accord.parsing import parse_json, parse_yaml
from accord.report.captions import HELD_OUT
from accord.report.html import Json
from accord.results import Evaluation

Result = TypeVar("Result", bound=Evaluation)

KEY = (
    "learning_rate", "batch_size", "epochs", "max_steps", "beta", "tau", "kl_coefficient", "kl_target", "group_size",
    "inner_epochs", "rounds", "temperature", "seed",
)  # fmt: skip
"""Settings worth a word in the summary of a run, where it has them."""

_TELLING = ("pipeline.json", "config.yaml", "metrics.jsonl", results.FILE)

_EVALUATIONS = {
    "models": "Models side by side, on the same prompts.",
    "comparisons": "A model of preferences on trial.",
    "agreement": "How far annotators agree.",
    "judge": "A judge beside people.",
    "frontier": "What a nat of distance buys.",
    "overoptimization": "Where more of the reward stops being better.",
    "tasks": "Models on clusters of tasks.",
    "passes": "How often samples are right.",
    "failures": "How models fail.",
    "people": "What people answered.",
    "synthesis": "Instructions that a model made.",
    "learning_curve": "What the labels so far have bought, and what more would.",
    "critique": "Answers that a model revised by a constitution.",
    "sweep": "A method over a grid of settings.",
    "seeds": "A recipe over several seeds.",
    "alarms": "The alarms of another trainer's log.",
    "plan": "A training on many cards, before it is begun.",
}


@dataclass(frozen=True)
class RunFiles:
    """The files of one run's folder; `alarms` is None where none were listening.

    `history` says which settings were others up to which step.
    """

    settings: Json = field(default_factory=dict)
    history: list[Json] = field(default_factory=list)
    environment: Json = field(default_factory=dict)
    metrics: list[Json] = field(default_factory=list)
    samples: list[Json] = field(default_factory=list)
    evaluation: Evaluation | None = None
    alarms: list[Json] | None = None
    best: Json = field(default_factory=dict)
    composition: list[Json] = field(default_factory=list)

    @property
    def steps(self) -> int:
        """How many steps have a row; what was measured before the first is none."""
        known = (HELD_OUT, "watched")
        before = (row["step"] == 0 and any(name.startswith(known) for name in row) for row in self.metrics)
        return len(self.metrics) - sum(before)

    @property
    def changes(self) -> list[tuple[str, str, Any, Any]]:
        """The settings that were changed as the run went on: after how many steps, which, from what and to what."""
        found = []
        for entry in self.history:
            before, after = (part if isinstance(part := entry.get(end), dict) else {} for end in ("from", "to"))
            found += [(f"{entry.get('step')}", str(name), before.get(name), after[name]) for name in after]
        return found

    @property
    def seconds(self) -> float | None:
        """The time that the steps took together; None when no row says."""
        each = [row["seconds"] for row in self.metrics if isinstance(row.get("seconds"), int | float)]
        return sum(each) if each else None

    @property
    def tokens(self) -> int | None:
        """The tokens that its steps went through together, prompts counted; None when no row says."""
        each = [row["tokens"] for row in self.metrics if isinstance(row.get("tokens"), int)]
        return sum(each) if each else None


@dataclass(frozen=True)
class StageRecord:
    """One step of a pipeline: which command ran, for how many seconds, on which stages or files, and what it left.

    Its status is `ran`, `skipped` (as it was), `unfinished`, `waiting`, or `given` (no run made it).
    """

    name: str
    command: str
    run: RunFiles
    status: str = "ran"
    seconds: float | None = None
    inputs: dict[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def settings(self) -> Json:
        """The settings; inputs from other stages are written from the pipeline's folder, wherever it was then."""

        def relative(option: str, value: Any) -> Any:
            for name in self.inputs.get(option, ()):
                start = f"/{value}".rfind(f"/{name.split('/')[0]}/") if isinstance(value, str) else -1
                value = value[start:] if start >= 0 else value
            return value

        return {option: relative(option, value) for option, value in self.run.settings.items()}

    @property
    def key_settings(self) -> list[tuple[str, Any]]:
        """The few settings by which people know a run; those left open (null) are not among them."""
        settings = self.run.settings
        return [(name, settings[name]) for name in KEY if settings.get(name) is not None]


@dataclass(frozen=True)
class Story:
    """What a page is about: the stages of a pipeline, or the one stage that a single run is."""

    title: str
    description: str
    seconds: float | None
    stages: tuple[StageRecord, ...]
    is_pipeline: bool
    folder: Path

    def results(self, question: type[Result]) -> list[tuple[str, Result]]:
        """The answers to one question of `accord evaluate`, each with the name of its stage."""
        given = [(stage.name, stage.run.evaluation) for stage in self.stages]
        return [(name, result) for name, result in given if isinstance(result, question)]


def is_story(folder: Path) -> bool:
    """Whether there is anything to report on in the folder: a run's files or a pipeline's."""
    return any((folder / name).is_file() for name in (*_TELLING, *results.FILES))


def read_story(folder: Path) -> Story:
    """The story in a folder; `InputError` when it holds neither a pipeline nor a run."""
    is_answer = any((folder / name).is_file() for name in results.FILES)  # a sweep's, whose runs are stages
    if (folder / "pipeline.json").is_file() and not is_answer:
        return read_pipeline(folder)
    if is_story(folder):
        stage = read_stage(folder)
        kind = stage.run.evaluation.kind if stage.run.evaluation else ""
        what = f"One run of accord {stage.command}." if stage.command else _EVALUATIONS.get(kind, "One run.")
        return Story(stage.name, what, stage.run.seconds, (stage,), is_pipeline=False, folder=folder)
    raise InputError(
        f"{folder} is neither a run nor a pipeline: it holds none of {', '.join(_TELLING)}; "
        "give the --out folder of a run."
    )


def read_stage(folder: Path) -> StageRecord:
    """What one run left in its folder, called as the folder is; a line says where it is not as it was at its end."""
    if file := changed(folder):
        status(f"{folder / file} has changed since the run ended: what is shown of it may be wrong.")
    settings = _read_mapping(folder / "config.yaml", parse_yaml, "a YAML mapping of settings")
    history = settings.pop("history", None)
    run = RunFiles(
        settings=settings,
        history=[entry for entry in history if isinstance(entry, dict)] if isinstance(history, list) else [],
        environment=_read_json(folder / "environment.json"),
        metrics=_latest(_read_rows(folder / "metrics.jsonl")),
        samples=_read_rows(folder / "samples.jsonl"),
        evaluation=results.load(folder) if any((folder / name).is_file() for name in results.FILES) else None,
        alarms=_read_rows(folder / "alarms.jsonl") if (folder / "alarms.jsonl").is_file() else None,
        best=_read_json(folder / "best.json"),
        composition=_read_rows(folder / "composition.jsonl"),
    )
    return StageRecord(legible(folder.resolve().name), legible(str(run.settings.get("command") or "")), run)


def read_pipeline(folder: Path) -> Story:
    """The story of the pipeline in a folder."""
    path = folder / "pipeline.json"
    pipeline = _read_json(path)
    listed, stages = pipeline.get("stages", []), []
    if not isinstance(listed, list):
        raise InputError(f"{path}: its stages are no list; run the pipeline again to write the file anew.")
    for row, stage in enumerate(listed, start=1):
        if not isinstance(stage, dict) or not isinstance(stage.get("name"), str):
            raise InputError(f"{path}: stage {row} has no name; run the pipeline again to write the file anew.")
        inside = folder / str(stage.get("folder") or stage["name"])
        left = read_stage(inside)
        command = str(stage.get("command") or left.command)
        status, seconds = _state(stage, left.run, inside)
        inputs = {
            option: tuple(map(str, value)) if isinstance(value, list) else (str(value),)
            for option, value in stage.get("inputs", {}).items()
        }
        stages.append(StageRecord(legible(stage["name"]), legible(command), left.run, status, seconds, inputs))
    title = pipeline.get("name") or folder.resolve().name
    return Story(
        legible(str(title)), str(pipeline.get("description") or ""), _seconds(pipeline), tuple(stages), True, folder
    )


def _seconds(told: Json) -> float | None:
    seconds = told.get("seconds")
    return float(seconds) if isinstance(seconds, int | float) else None


def _state(stage: Json, run: RunFiles, folder: Path) -> tuple[str, float | None]:
    """A stage's status and seconds.

    While a command runs, and after a kill, pipeline.json calls its stage running, of 0 seconds; what the stage
    has left in its own folder is newer: the page of a training run is written once its model is.
    """
    status, seconds = str(stage.get("status", "ran")), _seconds(stage)
    if status in ("running", "waiting"):
        seconds = max(seconds or 0.0, run.seconds or 0.0) or None
    if status == "running":
        status = "ran" if (folder / "model").is_dir() or run.evaluation else "unfinished"
    return status, seconds


def _read_json(path: Path) -> Json:
    return _read_mapping(path, _parse, "a JSON object")


def _parse(text: str) -> Any:
    """JSON whose numbers are finite or infinite, however many digits they have."""
    return parse_json(text, parse_int=lambda digits: int(digits) if len(digits) < 300 else float(digits))


def _read_mapping(path: Path, parse: Callable[[str], Any], what: str) -> Json:
    value = _mapping(_read_text(path), parse) if path.is_file() else {}
    if value is None:
        raise InputError(f"{path} is not {what}; restore it or remove it.")
    return value


def _mapping(text: str, parse: Callable[[str], Any]) -> Json | None:
    """What a text says by names, whose characters are all to be seen; None where it says nothing by names."""
    try:
        value = parse(text)
    except (ValueError, RecursionError, yaml.YAMLError):
        return None
    return {legible(str(name)): inner for name, inner in value.items()} if isinstance(value, dict) else None


def _read_rows(path: Path) -> list[Json]:
    """The rows of a JSONL file; a last line cut short, which a killed run leaves, is not a row."""
    if not path.is_file():
        return []
    lines = [(row, line) for row, line in enumerate(_read_text(path).split("\n"), start=1) if line.strip()]
    rows = []
    for row, line in lines:
        value = _mapping(line, _parse)
        if value is not None:
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
