"""The state of a recipe's run, in pipeline.json: which stages ran, for how long, and the fingerprint of each."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
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

OWN = {"database"}
"""Options that name an output kept outside the recipe's folder: not an input of the stage, and never deleted."""


def restore_state(stages: list[Stage], folder: Path) -> dict[str, str]:
    """The new fingerprint of each stage; a stage whose recorded fingerprint is the same gets its recorded state."""
    before, wanted = {s["name"]: s for s in _state(folder).get("stages", ())}, dict[str, str]()
    for stage in stages:
        wanted[stage.name] = _fingerprint(stage, wanted, folder)
        last = before.get(stage.name, {})
        if last.get("fingerprint") == wanted[stage.name] and (folder / stage.name / MARK).is_file():
            stage.fingerprint, stage.seconds = last["fingerprint"], last["seconds"]
            stage.stopped = last.get("stopped", "")
            stage.status = "skipped" if last["status"] in ("ran", "skipped") else "waiting"
    return wanted


def save_state(recipe: Mapping[str, Any], stages: list[Stage], folder: Path) -> None:
    state = {
        "name": recipe["name"],
        "description": recipe.get("description", ""),
        "date": today().isoformat(),
        "seconds": sum(s.seconds for s in stages),
        "stages": [s.as_json() for s in stages],
    }
    write_text(folder / "pipeline.json", json.dumps(state, indent=1))


def _fingerprint(stage: Stage, earlier: Mapping[str, str], folder: Path) -> str:
    """A digest of the command, its options, the contents of the files they name, and the stages they refer to.

    For a model's folder it covers the configuration, and the size and modification time of the weights.
    """
    digest = hashlib.sha256(json.dumps([stage.command, stage.options], sort_keys=True, default=str).encode())
    for used in sorted({s for names in stage.inputs.values() for s in names}):
        digest.update(earlier[used].encode())
    for value in inputs_of(stage):
        path = Path(value)
        if path.is_file() and folder not in path.parents:
            digest.update(hashlib.sha256(path.read_bytes()).digest())
        elif folder not in path.parents and (configs := sorted(path.glob("*config.json"))):
            for config in configs:
                digest.update(config.read_bytes())
            for weights in sorted(path.glob("*.safetensors")):
                digest.update(f"{weights.name} {weights.stat().st_size} {weights.stat().st_mtime_ns}".encode())
    return digest.hexdigest()


def inputs_of(stage: Stage) -> list[str]:
    return _leaves({name: value for name, value in stage.options.items() if name not in OWN})


def _leaves(options: Any) -> list[str]:
    """Every string in nested options, without its weight in a mix of files."""
    if isinstance(options, str):
        return [re.sub(r":[\d.]+$", "", options)]
    inside = (
        [*options, *options.values()] if isinstance(options, Mapping) else options if isinstance(options, list) else ()
    )
    return [leaf for value in inside for leaf in _leaves(value)]


def begun(folder: Path) -> date | None:
    """The date on which a recipe's folder was begun, which all stages have in chats; None for a new one."""
    state = _state(folder)
    return as_date(state["date"], f"the date in {folder / 'pipeline.json'}") if "date" in state else None


def _state(folder: Path) -> dict[str, Any]:
    """The contents of pipeline.json, checked; empty where there is none."""
    file = folder / "pipeline.json"
    if not file.exists():
        if others(folder) and not may_overwrite():
            raise InputError(f"{folder} holds something other than a recipe's run; choose another --out.")
        return {}
    try:
        state = json.loads(file.read_text(encoding="utf-8"))
        kinds = {"name": str, "seconds": float, "status": str}
        stages = [{**s, **{key: kind(s[key]) for key, kind in kinds.items()}} for s in state["stages"]]
        return {**state, "stages": stages}
    except (ValueError, KeyError, TypeError, RecursionError):
        raise InputError(f"{file} does not say which stages ran: restore it, or choose another --out.") from None
