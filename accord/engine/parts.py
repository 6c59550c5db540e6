"""Safetensors checkpoints in one file per rank: each rank writes its share, and any number of ranks can read them.

A sharded tensor is stored as consecutive rows in the files of the ranks, in order; any other is in rank 0's file. Rows
are along the first axis unless the metadata names another for the tensor, as for experts that are fewer than ranks.
`policy-2-of-3.safetensors` is the second of three ranks' part of what a single process writes as `policy.safetensors`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from accord.engine.shard import is_sharded_like, is_share, local, rows_of, shard_axis, shard_coordinates
from accord.engine.team import Team
from accord.files import sync


def write_part(folder: Path, name: str, tensors: Mapping[str, Tensor]) -> Path | None:
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


class Parts:
    """Reads the tensors stored under a name in a folder; `shapes` has the shapes of the whole tensors, by key."""

    def __init__(self, folder: Path, name: str, files: Iterable[str]) -> None:
        pattern = rf"{re.escape(name)}(-(?P<part>\d+)-of-\d+)?\.safetensors"
        found = [match for file in files if (match := re.fullmatch(pattern, file))]
        found.sort(key=lambda match: int(match["part"] or 1))
        self._parts: dict[str, list[Any]] = {}
        self._axes: dict[str, int] = {}
        for match in found:
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
