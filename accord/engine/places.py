"""Where in a model's files the weights of a network lie: by which names, and of which several are one weight.

transformers has a mixture's experts as one weight, its first axis the experts, where files have a weight for each, or
several that stand one above the other: `gate_up_proj[i]` is expert i's `gate_proj` over its `up_proj`. So some experts
of the network's weight are those weights of the files, and a rank reads no other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
    """Why a model is read whole by every rank, as its files are no plain ones."""


@dataclass(frozen=True)
class Place:
    """A weight that lies in a file as the network has it: the file, and its name and shape there."""

    file: Path
    key: str
    shape: tuple[int, ...]

    def rows(self, like: Tensor, device: torch.device, first: int, last: int | None, axis: int = 0) -> Tensor:
        """The rows along an axis from `first` to before `last`, or all, on a device and in the precision of `like`."""
        with safe_open(self.file, "pt") as opened:  # anew each time, so that what was mapped into memory is let go
            some = (slice(None),) * axis + (slice(first, last),)
            rows: Tensor = opened.get_slice(self.key)[some] if like.dim() else opened.get_tensor(self.key)
            return rows.to(device, like.dtype, copy=True)


@dataclass(frozen=True)
class Experts:
    """A weight that files have in parts: of each expert those that stand one above the other."""

    parts: tuple[tuple[Place, ...], ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """That of the whole; () where the parts are not those of one weight."""
        shapes = {tuple(part.shape for part in expert) for expert in self.parts}
        first = self.parts[0]
        if len(shapes) > 1 or len({part.shape[1:] for part in first}) > 1:
            return ()
        return (len(self.parts), sum(part.shape[0] for part in first), *first[0].shape[1:])

    def rows(self, like: Tensor, device: torch.device, first: int, last: int | None, axis: int = 0) -> Tensor:
        """The experts from `first` to before `last`, as `Place.rows` has rows; or such rows of every expert."""
        experts = self.parts if axis else self.parts[first:last]
        begin, end = (first, self.shape[1] if last is None else last) if axis else (0, self.shape[1])
        rows = torch.empty(len(experts), end - begin, *self.shape[2:], dtype=like.dtype, device=device)
        for row, parts in zip(rows, experts, strict=True):
            start = 0  # of a part, among the rows of the expert
            for part in parts:
                low, high = max(begin - start, 0), min(end - start, part.shape[0])
                if low < high:
                    row[start + low - begin : start + high - begin] = part.rows(row, device, low, high)
                start += part.shape[0]
        return rows


def places_of(network: Any, files: Sequence[Path], state: Mapping[str, Tensor]) -> dict[str, Place | Experts]:
    """Where what the files have lies, by the names that a network of transformers has for it, as it names them itself.

    `state` has the network's own names. Raises ReadWhole where a weight is converted in another way than to experts.
    """
    known = get_model_conversion_mapping(network)
    renamed = [how for how in known if isinstance(how, WeightRenaming)]
    converted = [how for how in known if isinstance(how, WeightConverter)]
    converters = {pattern: how for how in converted for pattern in how.source_patterns}
    found: dict[str, Place | Experts] = {}
    parts: dict[str, dict[str, list[Place]]] = {}
    for place in sorted(_all_in(files), key=lambda place: dot_natural_key(place.key)):
        name, pattern = rename_source_key(place.key, renamed, converted, network.base_model_prefix, state)  # type: ignore[arg-type]
        if name not in state and place.key in state:
            name, pattern = place.key, None
        if pattern is None and name not in found:
            found[name] = place
        elif pattern is None:
            raise ReadWhole(f"its files have {name} twice")
        elif not _stacks(converters[pattern]):
            raise ReadWhole(f"its weights are converted as they are read ({place.key})")
        else:
            parts.setdefault(name, {}).setdefault(pattern, []).append(place)
    if any(isinstance(how, PrefixChange) and how.was_used() for how in renamed):
        raise ReadWhole("its weights have names of another class of network")
    for name, by_pattern in parts.items():
        order = [by_pattern.get(pattern, []) for pattern in _converter(converters, by_pattern).source_patterns]
        if len({len(places) for places in order}) > 1:
            raise ReadWhole(f"its files lack some parts of {name}")
        found[name] = Experts(tuple(zip(*order, strict=True)))
    network._weight_conversions = [how for how in known if how.was_used()]  # by which it is saved as it was
    return found


def _all_in(files: Sequence[Path]) -> list[Place]:
    places = []
    for file in files:
        with safe_open(file, "pt") as opened:
            for key in opened.keys():  # noqa: SIM118  # it is no mapping
                places.append(Place(file, key, tuple(opened.get_slice(key).get_shape())))
    return places


def _converter(converters: Mapping[str, WeightConverter], patterns: Mapping[str, Any]) -> WeightConverter:
    """The one that all of these are patterns of."""
    return converters[next(iter(patterns))]


def _stacks(how: WeightConverter) -> bool:
    """Whether weights of experts become one, and an expert's own stand one above the other."""
    dims = [getattr(operation, "dim", None) for operation in how.operations]
    kinds = [type(operation) for operation in how.operations]
    return len(how.target_patterns) == 1 and (
        (kinds == [MergeModulelist] and dims == [0] and len(how.source_patterns) == 1)
        or (kinds == [MergeModulelist, Concatenate] and dims == [0, 1])
    )
