"""Checkpoints, from which a run resumes as if it had never stopped; each is written whole or not at all.

A checkpoint is a folder: the networks' and the optimizer's tensors as safetensors, and `state.json` with the step, the
method's own state, and the SHA-256 of every file and of itself. The order of the data and all sampling are functions of
the seed and the step, so the step stands for both the data position and the random state.

Each rank writes its share in a file of its own, and any number of ranks can read them: `policy-2-of-3.safetensors` is
the second of three ranks' part of what a single process writes as `policy.safetensors`. A sharded tensor is stored as
consecutive rows in the ranks' files, in order; any other is in rank 0's file. Rows are along the first axis unless the
metadata names another for the tensor, as for experts that are fewer than ranks.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from accord.engine.adapters import own_state
from accord.engine.fit import Optimizer
from accord.engine.shard import (
    is_sharded_like,
    is_share,
    local,
    rows_of,
    shard_axis,
    shard_coordinates,
    shard_from_rows,
)
from accord.engine.team import Team
from accord.errors import InputError
from accord.files import replacing_folder, sha256_of, sync
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
    files = [file for name, some in tensors.items() if (file := write_rank_file(folder, name, some))]
    return {file.name: sha256_of(file) for file in files}


def _retire(folder: Path, step: int) -> None:
    """Remove all but the last checkpoints up to a step, and those after it, left from before the run was set back to
    it."""
    existing = checkpoints(folder)
    kept = [one for one in existing if _step(one) <= step][-KEEP:]
    for old in existing:
        if old not in kept:
            shutil.rmtree(old)


def checkpoints(folder: Path) -> list[Path]:
    """The checkpoints in the folder, oldest first."""
    folders = [path for path in folder.glob("step-*") if re.fullmatch(r"step-\d{7,}", path.name) and path.is_dir()]
    return sorted(folders, key=_step)


def _step(checkpoint: Path) -> int:
    return int(checkpoint.name.removeprefix("step-"))


def load(checkpoint: Path, optimizer: Optimizer, saved: Mapping[str, Any] | None = None) -> tuple[int, dict[str, Any]]:
    """Restore networks and optimizer in place; returns the number of steps done, and the method's own state.

    `saved` is the result of `verified`, if at hand. Raises as that does, and InputError where the checkpoint is of
    another model.
    """
    saved = verified(checkpoint) if saved is None else saved
    for name, network in optimizer.networks.items():
        stored, expected = RankFiles(checkpoint, name, saved["files"]), own_state(network)
        if stored.shapes != {key: tuple(tensor.shape) for key, tensor in expected.items()}:
            raise InputError(
                f"{checkpoint} belongs to another model than the one given; give the same --model as before."
            )
        with torch.no_grad():
            for key, tensor in expected.items():
                local(tensor).copy_(stored.share(key, tensor))
    moments = RankFiles(checkpoint, MOMENTS, saved["files"])
    device = torch.device("cpu") if optimizer.config.offload_optimizer else optimizer.device
    for name, parameter in optimizer.named_parameters().items():
        keys = [key for key in moments.shapes if key.startswith(f"{name}|")]
        if keys:
            optimizer.rule.state[parameter] = {
                key.removeprefix(f"{name}|"): shard_from_rows(
                    moments.share(key, parameter).to(device), parameter, moments.shapes[key]
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


def write_rank_file(folder: Path, name: str, tensors: Mapping[str, Tensor]) -> Path | None:
    """Write this rank's share of the tensors, synced to disk if there are several ranks; returns the file, None where
    this rank writes none.

    Where ranks hold several copies of a sharded network, only the first copy is written.
    """
    team = Team.here()
    if team.size == 1:
        file = folder / f"{name}.safetensors"
        save_file(dict(tensors), file)
        return file
    part, parts, copy = next((shard_coordinates(t) for t in tensors.values() if is_share(t)), (team.rank, team.size, 0))
    if copy:
        return None
    file = folder / f"{name}-{part + 1}-of-{parts}.safetensors"
    own = {k: local(tensor) for k, tensor in tensors.items() if is_share(tensor) or team.leads}
    some = {k: tensor for k, tensor in own.items() if tensor.numel() or not is_share(tensors[k])}  # one may be empty
    axes = {k: str(axis) for k in some if is_share(whole := tensors[k]) and (axis := shard_axis(whole))}
    save_file({k: tensor.cpu().contiguous() for k, tensor in some.items()}, file, axes or None)
    sync(file)
    return file


class RankFiles:
    """Reads the tensors stored under a name in a folder; `shapes` has the shapes of the whole tensors, by key."""

    def __init__(self, folder: Path, name: str, files: Iterable[str]) -> None:
        pattern = rf"{re.escape(name)}(-(?P<part>\d+)-of-\d+)?\.safetensors"
        matches = [match for file in files if (match := re.fullmatch(pattern, file))]
        matches.sort(key=lambda match: int(match["part"] or 1))
        self._parts: dict[str, list[Any]] = {}
        self._axes: dict[str, int] = {}
        for match in matches:
            file = safe_open(folder / match[0], "pt")
            self._axes |= {key: int(axis) for key, axis in (file.metadata() or {}).items()}
            for key in file.keys():  # noqa: SIM118  # not a mapping
                self._parts.setdefault(key, []).append(file)
        self.shapes = {key: self._shape(key) for key in self._parts}

    def _shape(self, key: str) -> tuple[int, ...]:
        first, *others = (tuple(file.get_slice(key).get_shape()) for file in self._parts[key])
        axis = self._axes.get(key, 0)
        rows = sum(shape[axis] for shape in (first, *others)) if others else 0
        return (*first[:axis], rows, *first[axis + 1 :]) if others else first

    def share(self, key: str, like: Tensor) -> Tensor:
        """This rank's share of a tensor, in main memory: the rows that it holds of `like`, where that is sharded and
        has as many rows; else the whole."""
        files, across, shape = self._parts[key], self._axes.get(key, 0), self.shapes[key]
        if not is_sharded_like(like, shape):
            whole = [file.get_tensor(key) for file in files]
            return torch.cat(whole, across) if len(whole) > 1 else whole[0]
        along = shard_axis(like)
        first, last = rows_of(like, shape[along])
        rows, start = [], 0
        for file in files:
            part = file.get_slice(key)
            count = part.get_shape()[across]
            low, high = (max(first - start, 0), min(last - start, count)) if along == across else (first, last)
            if low < high:
                rows.append(part[(slice(None),) * along + (slice(low, high),)])
            start += count
        return torch.cat(rows, across) if rows else files[0].get_slice(key)[0:1].new_empty(0, *shape[1:])
