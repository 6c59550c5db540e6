"""A run that goes on: from which checkpoint, and with which settings other than before (the table in docs/trust.md)."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accord import engine
from accord.errors import InputError
from accord.parsing import read_yaml
from accord.train.inputs import URL_DIGEST

if TYPE_CHECKING:
    from accord.engine import Optimizer
    from accord.train.learner import Learner
    from accord.train.run import Run

SMALLER = {
    "tokens_per_pass", "activation_checkpointing", "return_freed_memory", "offload_reference", "shard_ranks",
    "reshard_after_forward",
}  # fmt: skip
"""Settings that need less memory and change no number but by rounding: a run may go on with others."""
STEPPED = {"learning_rate", "max_grad_norm", "kl_coefficient"}
"""Settings of a step that a stop or an alarm says to change: a run may go on with others too."""
TUNED = STEPPED | {"max_steps", "epochs", "stop_when", "eval_every", "patience", "watch_every"}
"""And what ends or measures it."""
SERVED = {f"sampler{end}" for end in ("", "_folder", "_parallel", "_wait", "_key", "_insecure")}
"""Who draws the samples, which whoever starts a server again says anew."""
SAMPLED = {"group_size", "max_new_tokens"}
"""What a round that selects nothing says to raise."""
HISTORY = "history"
"""The part of config.yaml that says which settings were changed as the run went on, after which step."""
DIGEST = "_sha256"
"""What the name of a setting's digest ends with."""
STOP = "stopped"
"""The part of a checkpoint's state that says whether it was saved as the run stopped itself."""


def settings_of(folder: Path) -> dict[str, Any]:
    """What a run was begun with. Raises InputError where its config.yaml is damaged."""
    settings = read_yaml(folder / "config.yaml", "the settings")
    if not isinstance(settings, dict) or not all(isinstance(name, str) for name in settings):
        raise InputError(f"{folder}/config.yaml holds no settings: restore it, or choose another --out.")
    history = settings.get(HISTORY, [])
    if not (isinstance(history, list) and all(isinstance(e, dict) and type(e.get("step")) is int for e in history)):
        raise InputError(
            f"{folder}/config.yaml: its {HISTORY} is no list of changes: restore it, or choose another --out."
        )
    return settings


def changes(folder: Path, before: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that a run which goes on has others of; InputError for the first that may not change."""
    finished = (folder / "model").is_dir()
    may = SMALLER | SERVED if finished else SMALLER | SERVED | TUNED
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


def restore(run: Run, learner: Learner, optimizer: Optimizer) -> int:
    """The steps that are done already, with everything as it was after them; 0 where there is nothing to go on from.

    What is damaged is stepped over. So is what was saved as the run stopped itself, where its steps are others now: it
    is finite, but what the steps until then had made of it. Raises InputError where nothing before is whole, or more
    steps are done than there are to be.
    """
    found = engine.Team.here().lead(lambda: last_whole(run, needed=learner.watch is not None))
    if found is None:
        return 0
    step, state = engine.checkpoint.load(found[0], optimizer, found[1])
    learner.restore(state, run, optimizer)
    if step > learner.total:
        raise InputError(
            f"{run.folder} has gone {step} steps already, and was to end after {learner.total}: give it more steps."
        )
    return step


def last_whole(run: Run, *, needed: bool) -> tuple[Path, dict[str, Any]] | None:
    """The checkpoint to go on from, and what `verified` gave of it; `needed`: whether rows of numbers are."""
    saved = engine.checkpoint.checkpoints(run.folder / "checkpoints") if run.resumed else []
    why = ""
    for checkpoint in reversed(saved):
        try:
            known = engine.checkpoint.verified(checkpoint)
            run.rows.require(known["step"], known["state"].pop("rows", {}), needed=needed)
        except engine.checkpoint.Damaged as error:
            run.print(f"{error}: {checkpoint.name} is skipped.")
            why = why or str(error)
            continue
        if known["state"].pop(STOP, False) and run.is_retuned:
            run.print(f"{checkpoint.name} was saved as the run stopped itself: it continues from before that.")
            shutil.rmtree(checkpoint)
            continue
        return checkpoint, known
    if why:
        raise InputError(
            f"{why}, and there is no earlier checkpoint to continue from: restore it, delete "
            f"{run.folder / 'checkpoints'} to start over, or choose another --out."
        )
    return None
