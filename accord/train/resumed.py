"""A run that goes on: what it was begun with, and of which settings it may have others (the table in docs/trust.md)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from accord.errors import InputError
from accord.parsing import read_yaml
from accord.train.inputs import URL_DIGEST

SMALLER = {"tokens_per_pass", "activation_checkpointing", "return_freed_memory", "offload_reference"}
"""Settings that need less memory and change no number but by rounding: a run may go on with others."""
STEPPED = {"learning_rate", "max_grad_norm", "kl_coefficient"}
"""Settings of a step that a stop or an alarm says to change: a run may go on with others too."""
TUNED = STEPPED | {"max_steps", "epochs", "stop_when", "eval_every", "patience", "watch_every"}
"""And what ends or measures it."""
SAMPLED = {"group_size", "max_new_tokens"}
"""What a round that selects nothing says to raise."""
HISTORY = "history"
"""The part of config.yaml that says which settings were changed as the run went on, after which step."""
DIGEST = "_sha256"
"""What the name of a setting's digest ends with."""


def settings_of(folder: Path) -> dict[str, Any]:
    """What a run was begun with. Raises InputError where its config.yaml is damaged."""
    settings = read_yaml(folder / "config.yaml", "the settings")
    if not isinstance(settings, dict):
        raise InputError(f"{folder}/config.yaml holds no settings: restore it, or choose another --out.")
    return settings


def changes(folder: Path, before: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that a run which goes on has others of; InputError for the first that may not change."""
    finished = (folder / "model").is_dir()
    may = SMALLER if finished else SMALLER | TUNED
    if "rounds" in settings:  # whose steps say where a round ends
        may = may - {"max_steps", "epochs"} | (set() if finished else SAMPLED)
    if settings.get("kl_target") is not None:  # by which the coefficient moves
        may = may - {"kl_coefficient"}
    changed = {}
    for key in sorted({**before, **settings}.keys()):
        if before.get(key) == settings.get(key):
            continue
        if key.endswith(URL_DIGEST):
            raise InputError(
                f"{folder} was run with a URL of {key.removesuffix(URL_DIGEST)} of another user, password or query; "
                "resume it with the same, or choose another --out."
            )
        if key.endswith(DIGEST):
            continue
        if key in may:
            changed[key] = settings.get(key)
            continue
        remedy = "resume it with the same settings, or choose another --out"
        if key in TUNED and finished:
            remedy = f"it is finished: train on from --model {folder / 'model'} in another --out"
        raise InputError(f"{folder} was run with {key} = {before.get(key)}, not {settings.get(key)}; {remedy}.")
    return changed
