"""Everything a run needs to go on as if it had never stopped, written whole or not at all.

A checkpoint is a folder: the networks' and the optimizer's tensors as safetensors, and `state.json` with the step, the
method's own state, the SHA-256 of every file, and its own. The order of the data and all sampling are functions of the
seed and the step, so the step is the data position and the random state at once.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

from accord.engine.adapters import own_state, take
from accord.engine.fit import Optimizer
from accord.errors import InputError
from accord.files import replacing_folder, sha256_of

KEEP = 2
"""Checkpoints kept: the last, and one before it in case the last is damaged."""
MOMENTS = "optimizer.safetensors"


class Damaged(InputError):
    """A checkpoint that is not as it was written."""


def save(folder: Path, step: int, optimizer: Optimizer, state: Mapping[str, Any]) -> Path:
    """Write `folder/step-<step>`, whole and on the disk; then all but the last two up to it go."""
    final = folder / f"step-{step:07d}"
    with replacing_folder(final) as partial:
        for name, network in optimizer.networks.items():
            save_file(own_state(network), partial / f"{name}.safetensors")
        moments = {
            f"{name}|{key}": tensor
            for name, parameter in optimizer.named_parameters().items()
            for key, tensor in optimizer.rule.state.get(parameter, {}).items()
        }
        save_file(moments, partial / MOMENTS)
        files = {file.name: sha256_of(file) for file in sorted(partial.iterdir())}
        saved = json.loads(json.dumps({"step": step, "state": dict(state), "files": files}))
        text = json.dumps(saved | {"sha256": _digest(saved)}, indent=1)
        (partial / "state.json").write_text(text, encoding="utf-8")
    there = checkpoints(folder)
    kept = [one for one in there if _step(one) <= step][-KEEP:]
    for old in there:  # and those of a future that was stepped back from
        if old not in kept:
            shutil.rmtree(old)
    return final


def checkpoints(folder: Path) -> list[Path]:
    """The checkpoints in the folder, oldest first."""
    found = [path for path in folder.glob("step-*") if re.fullmatch(r"step-\d{7,}", path.name) and path.is_dir()]
    return sorted(found, key=_step)


def _step(checkpoint: Path) -> int:
    return int(checkpoint.name.removeprefix("step-"))


def load(checkpoint: Path, optimizer: Optimizer, saved: Mapping[str, Any] | None = None) -> tuple[int, dict[str, Any]]:
    """Restore networks and optimizer in place; the number of steps done, and the method's own state.

    `saved` is what `verified` gave, where it was asked. Raises as that does, and InputError where the checkpoint
    belongs to another model.
    """
    saved = verified(checkpoint) if saved is None else saved
    for name, network in optimizer.networks.items():
        file = checkpoint / f"{name}.safetensors"
        tensors = load_file(file, device=str(optimizer.device)) if file.name in saved["files"] else {}
        expected = own_state(network)
        if tensors.keys() != expected.keys() or any(tensors[k].shape != expected[k].shape for k in expected):
            raise InputError(
                f"{checkpoint} belongs to another model than the one given; give the same --model as before."
            )
        take(network, tensors)
    moments = load_file(checkpoint / MOMENTS, device=str(optimizer.device))
    for name, parameter in optimizer.named_parameters().items():
        kept = {k.removeprefix(f"{name}|"): v for k, v in moments.items() if k.startswith(f"{name}|")}
        if kept:
            optimizer.rule.state[parameter] = kept
    return int(saved["step"]), dict(saved["state"])


def _digest(saved: Mapping[str, Any]) -> str:
    """Of what state.json says besides this."""
    return hashlib.sha256(json.dumps({k: saved[k] for k in ("step", "state", "files")}).encode()).hexdigest()


def verified(checkpoint: Path) -> dict[str, Any]:
    """The step, the method's state and the files of a checkpoint; Damaged where one is not as it was written."""
    try:
        saved: dict[str, Any] = json.loads((checkpoint / "state.json").read_text(encoding="utf-8"))
        is_whole = saved["sha256"] == _digest(saved)
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        raise Damaged(f"the checkpoint {checkpoint} has no readable state.json") from None
    if not is_whole:
        raise Damaged(f"the checkpoint {checkpoint} has a state.json that is not as it was written")
    for name, digest in saved["files"].items():
        file = checkpoint / name
        if not file.is_file():
            raise Damaged(f"the checkpoint {checkpoint} lacks {name}")
        if sha256_of(file) != digest:
            raise Damaged(f"the checkpoint file {file} is not as it was written")
    return saved
