"""The state of a recipe's run, in pipeline.json: which stages ran, for how long, and the fingerprint of each."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable, Mapping
from datetime import date
from pathlib import Path
from typing import Any

from accord.cli.recipe import Stage
from accord.dates import as_date, today
from accord.errors import InputError
from accord.files import others, write_text
from accord.outputs import may_overwrite

MARK = ".accord-stage"
"""The file that marks a stage's folder as made by `accord run`."""

Records = dict[str, dict[str, Any]]
"""What pipeline.json says of stages, by name."""

OWN = {"database"}
"""Options that name an output kept outside the recipe's folder: not an input of the stage, and never deleted."""


def restore_state(stages: list[Stage], folder: Path) -> dict[str, str]:
    """The new fingerprint of each stage; a stage whose recorded fingerprint is the same gets its recorded state."""
    before, wanted = before_in(folder), dict[str, str]()
    for stage in stages:
        wanted[stage.name] = _fingerprint(stage, wanted, folder)
        last = before.get(stage.name, {})
        if last.get("fingerprint") == wanted[stage.name] and (folder / stage.name / MARK).is_file():
            stage.fingerprint, stage.seconds = last["fingerprint"], last["seconds"]
            stage.stopped = last.get("stopped", "")
            stage.status = "skipped" if last["status"] in ("ran", "skipped") else "waiting"
    return wanted


def save_state(recipe: Mapping[str, Any], stages: list[Stage], folder: Path, former: Records) -> None:
    """Write pipeline.json; it keeps the records of `former` stages, of another recipe or grid, for when they return."""
    names = {stage.name for stage in stages}
    state = {
        "name": recipe["name"],
        "description": recipe.get("description", ""),
        "date": today().isoformat(),
        "seconds": sum(s.seconds for s in stages),
        "stages": [s.as_json() for s in stages],
        "former": [record for name, record in former.items() if name not in names and (folder / name / MARK).is_file()],
    }
    write_text(folder / "pipeline.json", json.dumps(state, indent=1))


def _fingerprint(stage: Stage, earlier: Mapping[str, str], folder: Path) -> str:
    """A digest of the command, its options, the contents of the files they name, and the stages they refer to.

    For large files within a folder it covers the size and modification time in place of the contents.
    """
    digest = hashlib.sha256(json.dumps([stage.command, stage.options], sort_keys=True, default=str).encode())
    for used in sorted(used_by(stage, earlier, folder)):
        digest.update(earlier[used].encode())
    for text in inputs_of(stage):
        path = Path(os.path.expanduser(text))
        if folder in path.parents:
            continue
        for file in [path] if os.path.isfile(path) else _modules(text):
            digest.update(hashlib.sha256(file.read_bytes()).digest())
        for file in _files_within(path):
            digest.update(f"{file.relative_to(path)} ".encode())
            if file.suffix in SMALL:
                digest.update(file.read_bytes())
            else:
                digest.update(f"{file.stat().st_size} {file.stat().st_mtime_ns}".encode())
    return digest.hexdigest()


SMALL = {".json", ".jinja", ".model", ".yaml"}
"""Suffixes of the settings and tokenizers of models, whose contents are compared."""

LARGE = {".safetensors", ".jsonl", ".gz", ".parquet", ".arrow", ".csv"}
"""Suffixes of weights and rows."""


def _files_within(path: Path) -> list[Path]:
    """The files of a folder that holds a model or rows, and of the folders of its splits."""
    files = [file for form in ("*", "*/*") for file in path.glob(form)] if os.path.isdir(path) else []
    return sorted(file for file in files if file.suffix in SMALL | LARGE and file.is_file())


def _modules(text: str) -> list[Path]:
    """The files of modules that a text names as module:function, in the working folder."""
    names = re.findall(r"([\w./-]+):[A-Za-z_]\w*", text)
    files = [Path(name if name.endswith(".py") else f"{name.replace('.', '/')}.py") for name in names]
    return [file for file in files if os.path.isfile(file)]


def used_by(stage: Stage, earlier: Iterable[str], folder: Path) -> set[str]:
    """The earlier stages that a stage refers to, or names a file of."""
    texts = inputs_of(stage)
    named = {name for names in stage.inputs.values() for name in names}
    for other in earlier:
        path = rf"{re.escape(str(folder / other))}(?![\w-])"
        if any(re.search(path, text) for text in texts):
            named.add(other)
    return named


def inputs_of(stage: Stage) -> list[str]:
    """Every string in the options of a stage, which may name a file, a folder or an earlier stage."""
    return _leaves({name: value for name, value in stage.options.items() if name not in OWN})


def _leaves(options: Any) -> list[str]:
    """Every string in nested options, without its weight in a mix of files."""
    if isinstance(options, str):
        return [re.sub(r":[\d.]+$", "", options)]
    inside = (
        [*options, *options.values()] if isinstance(options, Mapping) else options if isinstance(options, list) else ()
    )
    return [leaf for value in inside for leaf in _leaves(value)]


def begun_on(folder: Path) -> date | None:
    """The date on which a recipe's folder was begun, which all stages have in chats; None for a new one."""
    state = _state(folder)
    return as_date(state["date"], f"the date in {folder / 'pipeline.json'}") if "date" in state else None


def before_in(folder: Path) -> Records:
    """The recorded stages of a folder, by name. Raises InputError where it is no recipe's, or cannot be read."""
    state = _state(folder)
    return {record["name"]: record for record in (*state.get("former", ()), *state.get("stages", ()))}


def _state(folder: Path) -> dict[str, Any]:
    """The contents of pipeline.json, checked; empty where there is none."""
    file = folder / "pipeline.json"
    if not file.exists():
        if others(folder) and not may_overwrite():
            raise InputError(f"{folder} holds something other than a recipe's run; choose another --out.")
        return {}
    try:
        state = {"former": [], **json.loads(file.read_text(encoding="utf-8"))}
        kinds = {"name": str, "seconds": float, "status": str}
        for records in ("former", "stages"):
            state[records] = [{**s, **{key: kind(s[key]) for key, kind in kinds.items()}} for s in state[records]]
        return state
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise InputError(f"{file} does not say which stages ran: restore it, or choose another --out.") from None
