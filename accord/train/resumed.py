"""Resuming a run: from which checkpoint, and which settings may differ from before (the table in docs/trust.md)."""

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
"""Settings that save memory and change numbers by rounding only: they may change when a run is resumed."""
STEPPED = {"learning_rate", "max_grad_norm", "kl_coefficient"}
"""Settings of the update that a stop or an alarm advises to change: these may change too."""
TUNED = STEPPED | {"max_steps", "epochs", "stop_when", "eval_every", "patience", "watch_every"}
"""All of those, and settings that end or measure the run."""
SERVED = {f"sampler{end}" for end in ("", "_folder", "_parallel", "_wait", "_key", "_insecure")}
"""Where the samples are drawn: given anew whenever a server is restarted."""
SAMPLED = {"group_size", "max_new_tokens"}
"""What a round that selects nothing advises to raise."""
HISTORY = "history"
"""The key of config.yaml for settings that changed when the run was resumed, and after which step."""
DATE = "date"
"""The key of config.yaml for the date on which the run began, which chat templates write until it ends."""
DIGEST = "_sha256"
"""Suffix of the name of a setting's digest."""
STOP = "stopped"
"""The key of a checkpoint's state that says whether it was saved as the run stopped itself."""


def settings_of(folder: Path) -> dict[str, Any]:
    """The settings a run began with. Raises InputError where its config.yaml is damaged."""
    settings = read_yaml(folder / "config.yaml", "the settings")
    if not isinstance(settings, dict) or not all(isinstance(name, str) for name in settings):
        raise InputError(f"{folder}/config.yaml holds no settings: restore it, or choose another --out.")
    history = settings.get(HISTORY, [])
    if not (isinstance(history, list) and all(isinstance(e, dict) and type(e.get("step")) is int for e in history)):
        raise InputError(
            f"{folder}/config.yaml: its {HISTORY} is not a list of changes: restore it, or choose another --out."
        )
    return settings


def changes(folder: Path, before: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a resumed run that differ from before; InputError for the first that may not change."""
    finished = (folder / "model").is_dir()
    may = SMALLER | SERVED if finished else SMALLER | SERVED | TUNED
    if "rounds" in settings:  # the number of steps decides where a round ends
        may = may - {"max_steps", "epochs"} | (set() if finished else SAMPLED)
    if settings.get("kl_target") is not None:  # the coefficient is adapted to it
        may = may - {"kl_coefficient"}
    changed = {}
    for key in sorted({**before, **settings}.keys()):
        if before.get(key) == settings.get(key):
            continue
        if key.endswith(URL_DIGEST):
            raise InputError(
                f"{folder} was run with another user, password or query in a URL of {key.removesuffix(URL_DIGEST)}; "
                "resume it with the same, or choose another --out."
            )
        if key.endswith(DIGEST) or key == DATE:
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
    """Restore the last usable checkpoint; returns the number of steps done, 0 where there is none.

    Damaged checkpoints are skipped. So is one saved as the run stopped itself, where settings of the update have
    changed: its weights are finite but come from the steps that failed. Raises InputError where no earlier checkpoint
    is intact, or more steps are done than the run has.
    """
    usable = engine.Team.here().lead(lambda: last_whole(run, needed=learner.watch is not None))
    if usable is None:
        return 0
    step, state = engine.checkpoint.load(usable[0], optimizer, usable[1])
    learner.restore(state, run, optimizer)
    if step > learner.total:
        raise InputError(
            f"{run.folder} has done {step} steps already, more than the {learner.total} asked for: ask for more steps."
        )
    return step


def last_whole(run: Run, *, needed: bool) -> tuple[Path, dict[str, Any]] | None:
    """The last usable checkpoint and its verified contents; `needed`: whether its rows of metrics must exist."""
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
            run.print(f"{checkpoint.name} was saved as the run stopped itself: the run continues from before it.")
            shutil.rmtree(checkpoint)
            continue
        return checkpoint, known
    if why:
        raise InputError(
            f"{why}, and there is no earlier checkpoint to continue from: restore it, delete "
            f"{run.folder / 'checkpoints'} to start over, or choose another --out."
        )
    return None
