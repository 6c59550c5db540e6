"""Checkpoints, from which a run resumes as if it had never stopped; each is written whole or not at all.

A checkpoint is a folder: the networks' and the optimizer's tensors as safetensors, and `state.json` with the step, the
method's own state, and the SHA-256 of every file and of itself. The order of the data and all sampling are functions of
the seed and the step, so the step stands for both the data position and the random state. Several ranks write one file
each where one process writes one (`accord.engine.parts`), so that none holds the whole.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from accord.engine.adapters import own_state
from accord.engine.fit import Optimizer
from accord.engine.parts import Parts, write_part
from accord.engine.shard import local, shard_from_rows
from accord.engine.team import Team
from accord.errors import InputError
from accord.files import replacing_folder, sha256_of
from accord.parsing import read_content

KEEP = 2
"""Checkpoints kept: the last, and one before it in case the last is damaged."""
MOMENTS = "optimizer"


class Damaged(InputError):
    """A checkpoint that differs from what was written."""


def save(folder: Path, step: int, optimizer: Optimizer, state: Mapping[str, Any]) -> Path:
    """Write `folder/step-<step>`, whole and synced to disk; then all checkpoints but the last two up to it are removed.

    Each rank writes what it holds; any number of ranks can resume from it. Raises InputError on every rank where one
    cannot write.
    """
    final, team = folder / f"step-{step:07d}", Team.here()
    tensors = {name: own_state(network) for name, network in optimizer.networks.items()}
    tensors[MOMENTS] = {
        f"{name}|{key}": tensor
        for name, parameter in optimizer.named_parameters().items()
        for key, tensor in optimizer.rule.state.get(parameter, {}).items()
    }
    with ExitStack() as writing:
        partial = team.lead(lambda: writing.enter_context(replacing_folder(final)))
        written = team.on_all(lambda: _write(partial, tensors))

        def end() -> None:
            files = dict(sorted({name: digest for part in written for name, digest in part.items()}.items()))
            saved = json.loads(json.dumps({"step": step, "state": dict(state), "files": files}))
            text = json.dumps(saved | {"sha256": _digest(saved)}, indent=1)
            (partial / "state.json").write_text(text, encoding="utf-8")
            writing.close()
            _retire(folder, step)

        team.lead(end)
    return final


def _write(folder: Path, tensors: Mapping[str, dict[str, Tensor]]) -> dict[str, str]:
    """Write this rank's part of every file; returns their digests by name."""
    if not folder.is_dir():
        raise InputError(
            f"rank {Team.here().rank} does not see {folder.parent}: on several machines a run's folder must lie where "
            "all ranks can write."
        )
    files = [file for name, some in tensors.items() if (file := write_part(folder, name, some))]
    return {file.name: sha256_of(file) for file in files}


def _retire(folder: Path, step: int) -> None:
    """Remove all but the last checkpoints up to a step, and those after it, left from before the run was set back to
    it."""
    there = checkpoints(folder)
    kept = [one for one in there if _step(one) <= step][-KEEP:]
    for old in there:
        if old not in kept:
            shutil.rmtree(old)


def checkpoints(folder: Path) -> list[Path]:
    """The checkpoints in the folder, oldest first."""
    found = [path for path in folder.glob("step-*") if re.fullmatch(r"step-\d{7,}", path.name) and path.is_dir()]
    return sorted(found, key=_step)


def _step(checkpoint: Path) -> int:
    return int(checkpoint.name.removeprefix("step-"))


def load(checkpoint: Path, optimizer: Optimizer, saved: Mapping[str, Any] | None = None) -> tuple[int, dict[str, Any]]:
    """Restore networks and optimizer in place; returns the number of steps done, and the method's own state.

    `saved` is the result of `verified`, if at hand. Raises as that does, and InputError where the checkpoint is of
    another model.
    """
    saved = verified(checkpoint) if saved is None else saved
    for name, network in optimizer.networks.items():
        found, expected = Parts(checkpoint, name, saved["files"]), own_state(network)
        if found.shapes != {key: tuple(tensor.shape) for key, tensor in expected.items()}:
            raise InputError(
                f"{checkpoint} belongs to another model than the one given; give the same --model as before."
            )
        with torch.no_grad():
            for key, tensor in expected.items():
                local(tensor).copy_(found.share(key, tensor))
    moments = Parts(checkpoint, MOMENTS, saved["files"])
    for name, parameter in optimizer.named_parameters().items():
        keys = [key for key in moments.shapes if key.startswith(f"{name}|")]
        if keys:
            optimizer.rule.state[parameter] = {
                key.removeprefix(f"{name}|"): shard_from_rows(
                    moments.share(key, parameter).to(optimizer.device), parameter, moments.shapes[key]
                )
                for key in keys
            }
    return int(saved["step"]), dict(saved["state"])


def _digest(saved: Mapping[str, Any]) -> str:
    """SHA-256 of the other contents of state.json."""
    return hashlib.sha256(json.dumps({k: saved[k] for k in ("step", "state", "files")}).encode()).hexdigest()


def verified(checkpoint: Path) -> dict[str, Any]:
    """The contents of a checkpoint's state.json, after checking all files. Raises Damaged where one differs from its
    digest."""
    try:
        saved: dict[str, Any] = json.loads(read_content(checkpoint / "state.json"))
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
