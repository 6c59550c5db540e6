"""Tensors in safetensors files, one file or one of each rank: each rank writes its share, and any number of them reads.

A tensor that is shared out lies in the files of the ranks as consecutive rows, in the order of the ranks; one that is
not is in that of the rank that leads. Rows are of a tensor's first axis, unless the files' metadata names another by
the tensor's name, as of experts that are fewer than ranks. `policy-2-of-3.safetensors` is the second of three ranks'
part of what one process writes as `policy.safetensors`.
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

from accord.engine.shard import is_share, is_shared_as, local, place_of, rows_of, shared_axis
from accord.engine.team import Team
from accord.files import sync


def write_part(folder: Path, name: str, tensors: Mapping[str, Tensor]) -> Path | None:
    """Write what this rank holds of tensors, and in a team have it on the disk; the file, where it writes one.

    Of copies that ranks have of what is shared out, the first is written.
    """
    team = Team.here()
    if team.size == 1:
        file = folder / f"{name}.safetensors"
        save_file(dict(tensors), file)
        return file
    part, parts, copy = next((place_of(t) for t in tensors.values() if is_share(t)), (team.rank, team.size, 0))
    if copy:
        return None
    file = folder / f"{name}-{part + 1}-of-{parts}.safetensors"
    own = {k: local(tensor) for k, tensor in tensors.items() if is_share(tensor) or team.leads}
    some = {k: tensor for k, tensor in own.items() if tensor.numel() or not is_share(tensors[k])}  # a share may be none
    axes = {k: str(axis) for k in some if is_share(whole := tensors[k]) and (axis := shared_axis(whole))}
    save_file({k: tensor.cpu().contiguous() for k, tensor in some.items()}, file, axes or None)
    sync(file)
    return file


class Parts:
    """The tensors of a name in a folder; `shapes` has those of the whole, by key."""

    def __init__(self, folder: Path, name: str, files: Iterable[str]) -> None:
        pattern = rf"{re.escape(name)}(-(?P<part>\d+)-of-\d+)?\.safetensors"
        found = [match for file in files if (match := re.fullmatch(pattern, file))]
        found.sort(key=lambda match: int(match["part"] or 1))
        self._parts: dict[str, list[Any]] = {}
        self._axes: dict[str, int] = {}
        for match in found:
            file = safe_open(folder / match[0], "pt")
            self._axes |= {key: int(axis) for key, axis in (file.metadata() or {}).items()}
            for key in file.keys():  # noqa: SIM118  # it is no mapping
                self._parts.setdefault(key, []).append(file)
        self.shapes = {key: self._shape(key) for key in self._parts}

    def _shape(self, key: str) -> tuple[int, ...]:
        first, *others = (tuple(file.get_slice(key).get_shape()) for file in self._parts[key])
        axis = self._axes.get(key, 0)
        rows = sum(shape[axis] for shape in (first, *others)) if others else 0
        return (*first[:axis], rows, *first[axis + 1 :]) if others else first

    def share(self, key: str, like: Tensor) -> Tensor:
        """What this rank holds of a tensor, in main memory: all, or its rows where `like`, with as many, is shared."""
        files, across, shape = self._parts[key], self._axes.get(key, 0), self.shapes[key]
        if not is_shared_as(like, shape):
            whole = [file.get_tensor(key) for file in files]
            return torch.cat(whole, across) if len(whole) > 1 else whole[0]
        along = shared_axis(like)
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
