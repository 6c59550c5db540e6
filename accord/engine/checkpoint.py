"""Everything a run needs to go on as if it had never stopped, written whole or not at all.

A checkpoint is a folder: the networks' and the optimizer's tensors as safetensors, and `state.json` with the step, the
method's own state, and the size of every file. The order of the data and all sampling are functions of the seed and the
step, so the step is the data position and the random state at once.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

from accord.engine.adapters import own_state, take
from accord.engine.fit import Optimizer
from accord.errors import InputError

KEEP = 2
"""Checkpoints kept: the last, and one before it in case the last is damaged."""
MOMENTS = "optimizer.safetensors"


def save(folder: Path, step: int, optimizer: Optimizer, state: Mapping[str, Any]) -> Path:
    """Write `folder/step-<step>` under another name and rename it; older checkpoints than the last two are removed."""
    final = folder / f"step-{step:07d}"
    partial = folder / f".{final.name}"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    for name, network in optimizer.networks.items():
        save_file(own_state(network), partial / f"{name}.safetensors")
    moments = {
        f"{name}|{key}": tensor
        for name, parameter in optimizer.named_parameters().items()
        for key, tensor in optimizer.adam.state.get(parameter, {}).items()
    }
    save_file(moments, partial / MOMENTS)
    sizes = {file.name: file.stat().st_size for file in sorted(partial.iterdir())}
    (partial / "state.json").write_text(json.dumps({"step": step, "state": dict(state), "files": sizes}, indent=1))
    shutil.rmtree(final, ignore_errors=True)
    partial.rename(final)
    for old in checkpoints(folder)[:-KEEP]:
        shutil.rmtree(old)
    return final


def checkpoints(folder: Path) -> list[Path]:
    """The checkpoints in the folder, oldest first."""
    return sorted(folder.glob("step-*"))


def load(checkpoint: Path, optimizer: Optimizer) -> tuple[int, dict[str, Any]]:
    """Restore networks and optimizer in place; the number of steps done, and the method's own state.

    Raises InputError where a file is missing or cut short, or belongs to another model.
    """
    saved = _verified(checkpoint)
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
            optimizer.adam.state[parameter] = kept
    return int(saved["step"]), dict(saved["state"])


def _verified(checkpoint: Path) -> dict[str, Any]:
    remedy = "delete that folder to go on from the one before, or from the start"
    try:
        saved: dict[str, Any] = json.loads((checkpoint / "state.json").read_text())
        sizes = saved["files"]
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"the checkpoint {checkpoint} has no readable state.json; {remedy}.") from error
    if MOMENTS not in sizes:
        raise InputError(f"the checkpoint {checkpoint} was written by an older accord; {remedy}.")
    for name, size in sizes.items():
        file = checkpoint / name
        actual = file.stat().st_size if file.exists() else 0
        if actual != size:
            raise InputError(f"the checkpoint file {file} is cut short ({actual:,} of {size:,} bytes); {remedy}.")
    return saved
