"""Where a network's weights are stored in a model's files, and which stored tensors make up one weight.

transformers holds a mixture's experts as one weight whose first axis is the experts, where files have a tensor per
expert, or several that are concatenated: `gate_up_proj[i]` is expert i's `gate_proj` followed by its `up_proj`. A slice
of the network's experts is therefore a subset of the stored tensors, and a rank reads only its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import torch
from safetensors import safe_open
from torch import Tensor
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import (
    Concatenate,
    MergeModulelist,
    PrefixChange,
    WeightConverter,
    WeightRenaming,
    dot_natural_key,
    rename_source_key,
)


class ReadWhole(Exception):
    """The model cannot be read in parts, for the reason in the message: every rank must read the whole."""


@dataclass(frozen=True)
class StoredWeight:
    """A weight stored in a file as the network has it: the file, and its name and shape there."""

    file: Path
    key: str
    shape: tuple[int, ...]

    def rows(self, like: Tensor, device: torch.device, first: int, last: int | None, axis: int = 0) -> Tensor:
        """Rows `first` to `last` (exclusive; None: all) along an axis, on a device, in the precision of `like`."""
        with safe_open(self.file, "pt") as opened:  # opened anew each time, so that mapped memory is released
            some = (slice(None),) * axis + (slice(first, last),)
            rows: Tensor = opened.get_slice(self.key)[some] if like.dim() else opened.get_tensor(self.key)
            return rows.to(device, like.dtype, copy=True)


@dataclass(frozen=True)
class StoredExperts:
    """A weight stored in parts: for each expert, tensors to be concatenated along their first axis."""

    parts: tuple[tuple[StoredWeight, ...], ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the whole weight; () where the parts do not fit together."""
        shapes = {tuple(part.shape for part in expert) for expert in self.parts}
        first = self.parts[0]
        if len(shapes) > 1 or len({part.shape[1:] for part in first}) > 1:
            return ()
        return (len(self.parts), sum(part.shape[0] for part in first), *first[0].shape[1:])

    def rows(self, like: Tensor, device: torch.device, first: int, last: int | None, axis: int = 0) -> Tensor:
        """Experts `first` to `last` (axis 0), or such rows of every expert (axis 1), as `StoredWeight.rows`."""
        experts = self.parts if axis else self.parts[first:last]
        begin, end = (first, self.shape[1] if last is None else last) if axis else (0, self.shape[1])
        rows = torch.empty(len(experts), end - begin, *self.shape[2:], dtype=like.dtype, device=device)
        for row, parts in zip(rows, experts, strict=True):
            start = 0  # of the part, among the expert's rows
            for part in parts:
                low, high = max(begin - start, 0), min(end - start, part.shape[0])
                if low < high:
                    row[start + low - begin : start + high - begin] = part.rows(row, device, low, high)
                start += part.shape[0]
        return rows


Stored: TypeAlias = StoredWeight | StoredExperts


def stored_weights(
    network: Any, files: Sequence[Path], state: Mapping[str, Tensor]
) -> dict[str, StoredWeight | StoredExperts]:
    """Where each weight is stored, by its name in the network.

    `state` has the network's own names. Raises ReadWhole where a weight needs another conversion than stacking experts.
    """
    known = get_model_conversion_mapping(network)
    renamed = [how for how in known if isinstance(how, WeightRenaming)]
    converted = [how for how in known if isinstance(how, WeightConverter)]
    converters = {pattern: how for how in converted for pattern in how.source_patterns}
    weights: dict[str, Stored] = {}
    parts: dict[str, dict[str, list[StoredWeight]]] = {}
    for stored in sorted(_all_in(files), key=lambda stored: dot_natural_key(stored.key)):
        name, pattern = rename_source_key(stored.key, renamed, converted, network.base_model_prefix, state)  # type: ignore[arg-type]
        if name not in state and stored.key in state:
            name, pattern = stored.key, None
        if pattern is None and name not in weights:
            weights[name] = stored
        elif pattern is None:
            raise ReadWhole(f"its files have {name} twice")
        elif not _stacks(converters[pattern]):
            raise ReadWhole(f"its weights are converted as they are read ({stored.key})")
        else:
            parts.setdefault(name, {}).setdefault(pattern, []).append(stored)
    if any(isinstance(how, PrefixChange) and how.was_used() for how in renamed):
        raise ReadWhole("its weights have names of another class of network")
    for name, by_pattern in parts.items():
        converter = converters[next(iter(by_pattern))]  # the same for all patterns of one weight
        order = [by_pattern.get(pattern, []) for pattern in converter.source_patterns]
        if len({len(stored) for stored in order}) > 1:
            raise ReadWhole(f"its files lack some parts of {name}")
        weights[name] = StoredExperts(tuple(zip(*order, strict=True)))
    network._weight_conversions = [how for how in known if how.was_used()]  # so that it is saved in the same form
    return weights


def _all_in(files: Sequence[Path]) -> list[StoredWeight]:
    stored = []
    for file in files:
        with safe_open(file, "pt") as opened:
            for key in opened.keys():  # noqa: SIM118  # not a mapping
                stored.append(StoredWeight(file, key, tuple(opened.get_slice(key).get_shape())))
    return stored


def _stacks(how: WeightConverter) -> bool:
    """Whether a conversion only stacks experts along axis 0, after concatenating each expert's tensors along theirs."""
    dims = [getattr(operation, "dim", None) for operation in how.operations]
    kinds = [type(operation) for operation in how.operations]
    return len(how.target_patterns) == 1 and (
        (kinds == [MergeModulelist] and dims == [0] and len(how.source_patterns) == 1)
        or (kinds == [MergeModulelist, Concatenate] and dims == [0, 1])
    )
