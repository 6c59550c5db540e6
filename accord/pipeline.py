"""Recipes: stages in order, each a command, run again only when its inputs or settings have changed.

    name: ...
    description: ...
    variables:
      data: pairs.jsonl
    stages:
      sft: {command: sft, model: smollm2, data: ${data}}
      dpo: {command: dpo, model: "${sft}/model", data: ${data}}

`${name}` stands for a variable, or for the folder of an earlier stage. A stage's results lie in a folder of its name.
A stage is skipped when its options, the contents of the files they name and the stages they refer to are as they were
when it last finished; one that was interrupted goes on from its checkpoint.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console

from accord import cli
from accord.errors import InputError
from accord.files import write_text
from accord.report import write_report

FILES = {"sample": "samples.jsonl", "label": "comparisons.jsonl", "score": "scores.jsonl"}
"""Commands that write one file, and its name in the stage's folder."""

RESUMABLE = {"pretrain", "sft", "reward", "preference", "dpo", "ppo"}
REFERENCE = re.compile(r"\$\{([\w-]+)\}")


@dataclass
class Stage:
    """A stage with its options resolved, the earlier stages they refer to, and what is known of its folder.

    `fingerprint` is that of the settings its folder was made with, "" where it is not known.
    """

    name: str
    command: str
    options: dict[str, Any]
    inputs: dict[str, list[str]] = field(default_factory=dict)
    fingerprint: str = ""
    status: str = "waiting"
    seconds: float = 0.0

    def as_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "command": self.command,
            "folder": self.name,
            "status": self.status,
            "seconds": self.seconds,
            "inputs": self.inputs,
            "fingerprint": self.fingerprint,
        }


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
    given = _read(Path(recipe))
    stages = resolve(given, folder, overrides or {})
    for stage in stages:
        cli.parse(stage.command, _arguments(stage, folder, resume=False))
    wanted = _recognise(stages, folder)
    for stage in stages:
        if stage.status == "skipped":
            console.print(f"[bold]{stage.name}[/] is as it was", highlight=False)
            continue
        resume = stage.fingerprint == wanted[stage.name] and stage.command in RESUMABLE
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


def _recognise(stages: list[Stage], folder: Path) -> dict[str, str]:
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


def resolve(recipe: Mapping[str, Any], folder: Path, overrides: Mapping[str, Any]) -> list[Stage]:
    """The recipe's stages with overrides applied and references replaced.

    Raises:
        InputError: an override or a reference names nothing, a stage has no command, or says where its results go.
    """
    variables = dict(recipe.get("variables") or {})
    stages = {name: dict(options or {}) for name, options in recipe["stages"].items()}
    for key, value in overrides.items():
        stage, dot, option = key.partition(".")
        if dot and stage in stages:
            stages[stage][option.replace("-", "_")] = value
        elif not dot and key.replace("-", "_") in variables:
            variables[key.replace("-", "_")] = value
        else:
            known = [*variables, *(f"{s}.OPTION" for s in stages)]
            raise InputError(f"the recipe has no variable or stage option {key}; it has {', '.join(known)}.")
    resolved: list[Stage] = []
    for name, options in stages.items():
        if "command" not in options:
            raise InputError(f"stage {name} of the recipe has no command.")
        if "out" in options:
            raise InputError(f"stage {name} of the recipe has an `out`; its results go to a folder of its name.")
        places = {s.name: str(folder / s.name) for s in resolved}
        made = Stage(name, str(options.pop("command")), {})
        for option, value in options.items():
            made.options[option.replace("-", "_")] = _substituted(value, variables | places, name)
            used = [s for s in REFERENCE.findall(json.dumps(value, default=str)) if s in places]
            if used:
                made.inputs[option] = list(dict.fromkeys(used))
        resolved.append(made)
    return resolved


def _substituted(value: Any, names: Mapping[str, Any], stage: str) -> Any:
    if isinstance(value, Mapping):
        return {k: _substituted(v, names, stage) for k, v in value.items()}
    if not isinstance(value, str):
        return value
    for name in REFERENCE.findall(value):
        if name not in names:
            raise InputError(f"stage {stage} refers to {name}, which is neither a variable nor an earlier stage.")
    whole = REFERENCE.fullmatch(value)
    return names[whole[1]] if whole else REFERENCE.sub(lambda m: str(names[m[1]]), value)


def _arguments(stage: Stage, folder: Path, *, resume: bool) -> list[str]:
    out = folder / stage.name / FILES[stage.command] if stage.command in FILES else folder / stage.name
    extra = {"resume": True} if resume and stage.command in RESUMABLE else {}
    return cli.options_as_args(stage.command, {"out": str(out), **stage.options, **extra}, None)


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


def _leaves(options: Mapping[str, Any]) -> list[str]:
    found = []
    for value in options.values():
        found += _leaves(value) if isinstance(value, Mapping) else [value] if isinstance(value, str) else []
    return found


def _read(path: Path) -> dict[str, Any]:
    try:
        recipe = yaml.safe_load(path.read_bytes())
    except OSError as error:
        raise InputError(f"the recipe {path} cannot be read: {error.strerror}.") from error
    except yaml.YAMLError as error:
        raise InputError(f"the recipe {path} is not YAML: {' '.join(str(error).split())}.") from error
    if not isinstance(recipe, dict) or not isinstance(recipe.get("stages"), dict):
        raise InputError(f"the recipe {path} has no `stages`, each a name with a command and its options.")
    for name, options in recipe["stages"].items():
        if not re.fullmatch(r"[\w-]+", str(name)) or not isinstance(options, dict):
            raise InputError(
                f"the recipe {path}: stage {name} must be a name of letters, digits, - and _, with options."
            )
    unknown = set(recipe) - {"name", "description", "variables", "stages"}
    if unknown:
        raise InputError(
            f"the recipe {path} has an unknown key {sorted(unknown)[0]}; it takes name, description, variables, stages."
        )
    stages = {str(name): options for name, options in recipe["stages"].items()}
    return {"name": path.stem, **recipe, "stages": stages}


def _before(folder: Path) -> dict[str, dict[str, Any]]:
    file = folder / "pipeline.json"
    if not file.exists():
        if folder.exists() and any(folder.iterdir()):
            raise InputError(f"{folder} holds something else than a pipeline's run; choose another --out.")
        return {}
    return {s["name"]: s for s in json.loads(file.read_text())["stages"]}
