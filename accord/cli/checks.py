"""Checks of a recipe before anything runs: stages are valid calls, the files they name exist or will be written, and
the rewards, judges and simulated users they name have a meaning.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from accord import feedback
from accord.cli.call import Call, bind, target_of
from accord.cli.options import options_of
from accord.cli.ranks import trains
from accord.cli.recipe import Stage, resolve
from accord.cli.state import inputs_of
from accord.cli.table import COMMANDS
from accord.errors import InputError, located


def checked(recipe: Mapping[str, Any], folder: Path, overrides: Mapping[str, Any]) -> list[Stage]:
    """A recipe's stages with their options converted, each checked as far as possible without running any.

    Raises InputError, naming the stage, where one cannot run.
    """
    stages = resolve(recipe, folder, overrides)
    for i, stage in enumerate(stages):
        stage.options = {name: value for name, value in call_of(stage, folder).options.items() if name != "out"}
        if stage.ranks > 1 and not trains(stage.command):
            raise InputError(
                f"stage {stage.name} asks for {stage.ranks} ranks, and `accord {stage.command}` runs in one process: "
                "leave `ranks` out."
            )
        _require_files(stage, stages[:i], folder)
        with located(f"stage {stage.name}: "):
            _require_names(stage, folder)
    return stages


def call_of(stage: Stage, folder: Path, *, resume: bool = False) -> Call:
    """The call of a stage, with its folder as output; InputError, naming the stage, where it is not a valid call."""
    out = folder / stage.name / (COMMANDS[stage.command].file if stage.command in COMMANDS else "")
    if stage.command in COMMANDS and "out" not in options_of(target_of(stage.command)):
        raise InputError(
            f"stage {stage.name}: `accord {stage.command}` writes nothing, so it cannot be a stage of a recipe."
        )
    try:
        return bind(stage.command, {**stage.options, "out": str(out), **({"resume": True} if resume else {})})
    except InputError as error:
        raise InputError(f"stage {stage.name}: {error}") from error


def is_resumable(command: str) -> bool:
    """Whether a command can continue from its last checkpoint (it has --resume)."""
    return "resume" in options_of(target_of(command))


FORMATS = (".jsonl", ".json", ".csv", ".parquet", ".gz", ".yaml", ".yml")


def _require_files(stage: Stage, earlier: Sequence[Stage], folder: Path) -> None:
    """Raise InputError where a stage names a file that neither exists nor is written by an earlier stage."""
    before = {s.name: s for s in earlier}
    model = stage.options.get("model")
    for name, other in before.items():
        if model == str(folder / name) and "model" in _leaves_of(other):
            raise InputError(f"stage {stage.name}: {model} is all that stage {name} leaves: write ${{{name}}}/model.")
    for text in inputs_of(stage):
        for name, file in re.findall(rf"{re.escape(str(folder))}/([\w-]+)/([^\s/*+,)]+)", text):
            leaves = _leaves_of(before[name]) if name in before else None
            if leaves is not None and not any(fnmatch(file, pattern) for pattern in leaves):
                raise InputError(
                    f"stage {stage.name} needs {folder / name / file}, and stage {name} ({before[name].command}) will "
                    f"not write it: it leaves {', '.join(leaves)}."
                )
        if folder not in Path(text).parents and _is_absent(text):
            raise InputError(f"stage {stage.name} needs {text}, which is not there, and no earlier stage writes it.")


SCORERS = ("judge", "reward", "rewards", "score", "simulated", "uncertainty", "verifier", "watch")
"""Options whose values are names of rewards or judges, or formulas of them."""


def _require_names(stage: Stage, folder: Path) -> None:
    """Raise InputError where a stage names a reward, a judge or a simulated user that has no meaning, as far as that
    can be told without loading a model or running the user's code."""
    specs: list[str] = []
    for given in (stage.options.get(option) or () for option in SCORERS):
        specs += [given] if isinstance(given, str) else given.values() if isinstance(given, Mapping) else given
    for spec in specs:
        for name in feedback.formula.names_in(spec):
            match feedback.formula.kind_of(name):
                case "verifier":
                    feedback.verifiers.verifier_named(name)
                case "function":
                    feedback.imports.require_function(name)
                case "ai":
                    allowed = {k: v for k, v in stage.options.items() if k in ("key", "insecure")}
                    feedback.options.read_judge(name, **allowed)
                case "model" if folder not in Path(name).parents:
                    if _is_absent(name):
                        raise InputError(f"there is no {name}, and no earlier stage writes it.")
                    feedback.formula.require_model(name)
    if (user := stage.options.get("user")) is not None:
        feedback.imports.require_function(feedback.formula.function_of_user(user))


KEEPS_BEST = {"watch", "eval_data", "eval_split"}
"""Options with which a method keeps its best model."""


def _leaves_of(stage: Stage) -> list[str]:
    entry = COMMANDS[stage.command]
    leaves = [entry.file] if entry.file else list(entry.leaves)
    return [name for name in leaves if name != "best" or KEEPS_BEST & stage.options.keys()]


def _is_absent(text: str) -> bool:
    """Whether a string can only be the path of a file or a folder, and does not exist."""
    if not re.fullmatch(r"[\w./~-]+", text):
        return False
    is_local = text.startswith(("./", "../", "/", "~/")) or text.count("/") > 1
    return (is_local or text.endswith(FORMATS)) and not Path(text).expanduser().exists()
