"""Running recipes: stages in order, each a command, run again only when its inputs or settings have changed.

A stage's results lie in a folder of its name. A stage is skipped when its options, the contents of the files they name
and the stages they refer to are as they were when it last finished; one that was interrupted goes on from its
checkpoint.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from accord.cli import main as cli
from accord.cli.recipe import Stage, read_recipe, resolve
from accord.errors import InputError
from accord.files import write_text
from accord.report import write_report

FILES = {"sample": "samples.jsonl", "label": "comparisons.jsonl", "score": "scores.jsonl", "tasks": "train.jsonl"}
"""Commands that write one file, and its name in the stage's folder."""


def run_pipeline(recipe: str | Path, out: str | Path, overrides: Mapping[str, Any] | None = None) -> Path:
    """Run a recipe's stages in order, skipping those that are as they were, and write the report.

    Args:
        recipe: the YAML file.
        out: the folder for the stages' folders.
        overrides: values for variables (`data`) and stages' options (`sft.max_steps`).

    Returns:
        the report's path.

    Raises:
        InputError: the recipe or an option cannot be used, and nothing has been run; or a stage's input cannot, and the
            stages before it have been.
    """
    console, folder, begun = Console(stderr=True), Path(out), time.perf_counter()
    given = read_recipe(Path(recipe))
    stages = resolve(given, folder, overrides or {})
    for stage in stages:
        stage.command = cli.question(stage.command, stage.options)
    for stage in stages:
        cli.parse(stage.command, _arguments(stage, folder, resume=False))
    wanted = _recognize(stages, folder)
    for stage in stages:
        if stage.status == "skipped":
            console.print(f"[bold]{stage.name}[/] is as it was", highlight=False)
            continue
        resume = stage.fingerprint == wanted[stage.name] and _goes_on(stage.command)
        if (folder / stage.name).exists() and not resume:
            shutil.rmtree(folder / stage.name)
        stage.status, stage.fingerprint = "running", wanted[stage.name]
        _note(given, stages, folder)
        console.print(f"[bold]{stage.name}[/] ({stage.command})", highlight=False)
        clock = time.perf_counter()
        try:
            cli.execute(stage.command, _arguments(stage, folder, resume=resume))
            stage.status = "ran"
        finally:
            stage.seconds = time.perf_counter() - clock + (stage.seconds if resume else 0.0)
            _note(given, stages, folder)
    _note(given, stages, folder)
    page = write_report(folder)
    took = f"{given['name']} took {time.perf_counter() - begun:.0f} s; report: {page}"
    console.print(took, markup=False, highlight=False)
    return page


def _recognize(stages: list[Stage], folder: Path) -> dict[str, str]:
    """The fingerprint each stage is to have; those that an earlier run finished, or began, take over what it noted."""
    before, wanted = _before(folder), dict[str, str]()
    for stage in stages:
        wanted[stage.name] = _fingerprint(stage, wanted, folder)
        last = before.get(stage.name, {})
        if last.get("fingerprint") == wanted[stage.name] and (folder / stage.name).exists():
            stage.fingerprint, stage.seconds = last["fingerprint"], last["seconds"]
            stage.status = "skipped" if last["status"] in ("ran", "skipped") else "waiting"
    return wanted


def _note(recipe: Mapping[str, Any], stages: list[Stage], folder: Path) -> None:
    state = {
        "name": recipe["name"],
        "description": recipe.get("description", ""),
        "seconds": sum(s.seconds for s in stages),
        "stages": [s.as_json() for s in stages],
    }
    write_text(folder / "pipeline.json", json.dumps(state, indent=1))


def _arguments(stage: Stage, folder: Path, *, resume: bool) -> list[str]:
    out = folder / stage.name / FILES[stage.command] if stage.command in FILES else folder / stage.name
    extra = {"resume": True} if resume else {}
    return cli.options_as_args(stage.command, {"out": str(out), **stage.options, **extra}, None)


def _goes_on(command: str) -> bool:
    """Whether a command is a method, whose run goes on from its last checkpoint."""
    return hasattr(cli.target_of(command), "fit")


def _fingerprint(stage: Stage, earlier: Mapping[str, str], folder: Path) -> str:
    """A digest of the command, its options, the contents of the files they name, and the stages they refer to.

    Of a model's folder the configuration counts, and the size and time of its weights.
    """
    digest = hashlib.sha256(json.dumps([stage.command, stage.options], sort_keys=True, default=str).encode())
    for used in sorted({s for names in stage.inputs.values() for s in names}):
        digest.update(earlier[used].encode())
    for value in _leaves(stage.options):
        path = Path(value)
        if path.is_file() and folder not in path.parents:
            digest.update(hashlib.sha256(path.read_bytes()).digest())
        elif (path / "config.json").is_file() and folder not in path.parents:
            digest.update((path / "config.json").read_bytes())
            for weights in sorted(path.glob("*.safetensors")):
                digest.update(f"{weights.name} {weights.stat().st_size} {weights.stat().st_mtime_ns}".encode())
    return digest.hexdigest()


def _leaves(options: Any) -> list[str]:
    """Every text in options, which may hold mappings and lists."""
    if isinstance(options, str):
        return [options]
    inside = options.values() if isinstance(options, Mapping) else options if isinstance(options, list) else ()
    return [leaf for value in inside for leaf in _leaves(value)]


def _before(folder: Path) -> dict[str, dict[str, Any]]:
    file = folder / "pipeline.json"
    if not file.exists():
        if folder.exists() and any(folder.iterdir()):
            raise InputError(f"{folder} holds something else than a pipeline's run; choose another --out.")
        return {}
    return {s["name"]: s for s in json.loads(file.read_text())["stages"]}
