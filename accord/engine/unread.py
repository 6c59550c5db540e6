"""Networks whose weights are still in their files: built on torch's meta device, and read when they are sharded.

Each rank then reads only its own rows of every weight, directly into the precision they are held in (`shard`), so that
no rank ever holds a whole model. Until then the weights have shapes and precisions, so that copies, adapters, casts and
heads can be made. Buffers, which are small, are read at once.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers.utils import cached_file

from accord.console import error_text
from accord.engine.stored import ReadWhole, Stored, stored_weights
from accord.engine.team import Team

WRAPPED = ".base_layer"
"""What peft inserts into the names of weights that have adapters."""
INVERSE = r"rotary_emb\.inv_freq"
"""A buffer that old files hold for each layer, and networks compute."""


@dataclass(frozen=True)
class Unread:
    """Where a network's weights are stored, by their names, and the `device` that they are to be on."""

    device: torch.device
    stored: Mapping[str, Stored]

    def __deepcopy__(self, _: Any) -> Unread:
        return self

    def rows(self, name: str, like: Tensor, first: int = 0, last: int | None = None, axis: int = 0) -> Tensor:
        """Rows `first` to `last` (exclusive; None: all) of a weight, on the device and in the precision of `like`.

        `axis` is 0, or 1 for rows within every expert of a block of experts.
        """
        last = like.shape[axis] if last is None and like.dim() else last
        if first == last:
            return torch.empty(0, *like.shape[1:], dtype=like.dtype, device=self.device)
        return self.stored[name.replace(WRAPPED, "")].rows(like, self.device, first, last, axis)

    def under(self, names: Mapping[str, str]) -> Unread:
        """The same stored weights for another network; `names` maps its names to this network's."""
        own = {name.replace(WRAPPED, ""): at.replace(WRAPPED, "") for name, at in names.items()}
        return replace(self, stored={name: self.stored[at] for name, at in own.items()})


def unread(network: nn.Module) -> Unread | None:
    """Where a network's weights are stored, None once they are read."""
    return vars(network).get("_unread")


def device_of(network: nn.Module) -> torch.device:
    """The device that a network's weights are on, or are to be on."""
    waiting = unread(network)
    return waiting.device if waiting else next(network.parameters()).device


def make(kind: Any, config: Any, device: str | torch.device, **options: Any) -> Any:
    """A network of a transformers class, with parameters on the meta device and buffers computed.

    Raises ReadWhole where it cannot be made so.
    """
    create = getattr(kind, "from_config", None) or kind._from_config
    try:
        with torch.device("meta"):
            network = create(copy.deepcopy(config), dtype=torch.float32, **options)
    except (RuntimeError, NotImplementedError) as error:  # its constructor reads a computed number
        raise ReadWhole(f"it cannot be made without weights ({error_text(error)})") from error
    if any(isinstance(value, Tensor) and value.is_meta for m in network.modules() for value in vars(m).values()):
        raise ReadWhole("it has numbers that are neither weights nor buffers")
    drawn = [p for p in network.parameters() if not p.is_meta]  # by an operation that ignores torch.device
    _put(network, {id(p): nn.Parameter(torch.empty_like(p, device="meta"), p.requires_grad) for p in drawn})
    for module in network.modules():
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = torch.empty_like(buffer, device="cpu")
    with torch.random.fork_rng(devices=[]):
        network.initialize_weights()  # fills the buffers, as transformers does on loading; a no-op on the meta device
    for module in network.modules():
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = buffer.to(device)
    return network.eval()


def file_of(source: str, name: str) -> Path | None:
    """A file of a folder or on the Hub; None where there is none."""
    if Path(source).is_dir():
        return Path(source) / name if (Path(source) / name).is_file() else None
    path = cached_file(source, name, _raise_exceptions_for_missing_entries=False)
    return Path(path) if path else None


def files_of(source: str) -> list[Path]:
    """The weights files of a model in a folder or on the Hub. Raises ReadWhole where there are no safetensors."""
    if single := file_of(source, "model.safetensors"):
        return [single]
    index = file_of(source, "model.safetensors.index.json")
    if index is None:
        raise ReadWhole("its weights are not in model.safetensors, or in files that an index of that name lists")
    names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    files = [file for name in names if (file := file_of(source, name))]
    if len(files) < len(names):
        raise ReadWhole("its index names a file that is not there")
    return files


def attach(network: Any, files: Sequence[Path], device: str | torch.device, ignored: Sequence[str]) -> dict[str, Any]:
    """Record on a network from `make` where its weights are stored, and read its buffers; returns loading info as
    transformers does.

    Names that begin with one of `ignored` belong to other heads. Raises ReadWhole where names in the files are not the
    network's, or weights need a conversion that only transformers does.
    """
    state = network.state_dict(keep_vars=True)
    stored = stored_weights(network, files, state)
    tied = _tied(state, stored)
    missing = [name for name in state if name not in stored and name not in tied]
    known = re.compile("|".join([INVERSE, *(network._keys_to_ignore_on_load_unexpected or ())]))
    unexpected = [key for key in stored if key not in state and not key.startswith(tuple(ignored))]
    for key in unexpected:
        if not known.search(key):
            raise ReadWhole(f"its files have {key}, which transformers may know by another name")
    if missing and network._keys_to_ignore_on_load_missing:
        raise ReadWhole(f"its files lack {missing[0]}, which transformers may do without")
    mismatched = [name for name in state if name in stored and stored[name].shape != tuple(state[name].shape)]
    waiting = Unread(torch.device(device), stored | {name: stored[own] for name, own in tied.items()})
    network._unread = waiting
    for name, tensor in state.items():
        if not isinstance(tensor, nn.Parameter) and name in stored and name not in mismatched:
            tensor.copy_(waiting.rows(name, tensor))
    return {"missing_keys": missing, "unexpected_keys": [], "mismatched_keys": mismatched}


def _tied(state: Mapping[str, Tensor], stored: Mapping[str, Any]) -> dict[str, str]:
    """Names that the files lack, mapped to the stored name of the same (tied) weight."""
    known = {id(tensor): name for name, tensor in state.items() if name in stored}
    tied = {name: known[id(t)] for name, t in state.items() if name not in stored and id(t) in known}
    if len(known) < sum(name in stored for name in state):
        raise ReadWhole("its files have a weight twice that the network has once")
    return tied


def not_finite(network: nn.Module) -> list[str]:
    """The names of weights that hold NaN or infinity, on every rank; each rank checks its rows."""
    team, waiting = Team.here(), unread(network)
    assert waiting is not None
    bad = []
    for name, p in network.named_parameters():
        each = -(-p.shape[0] // team.size) if p.dim() else 1
        rows = waiting.rows(name, p, min(team.rank * each, len(p)), min((team.rank + 1) * each, len(p)))
        if not bool(rows.sum(dtype=torch.float32).isfinite()) and not bool(rows.isfinite().all()):
            bad.append(name)
    return sorted({name for names in team.all_gather(bad) for name in names})


def read_whole(network: nn.Module) -> None:
    """Read all of a network's weights, in place; no effect if it has them."""
    waiting = unread(network)
    if waiting:
        _put(network, _read(network, waiting))
        del network._unread
        network._read_from = waiting  # type: ignore[assignment]


def unread_copy(network: Any) -> Any:
    """A copy of a network with its weights unread, even if its own are read; an ordinary copy where that is
    impossible."""
    waiting = unread(network) or vars(network).get("_read_from")
    if waiting is None:
        return copy.deepcopy(network)
    empty = {id(p): nn.Parameter(torch.empty_like(p, device="meta"), p.requires_grad) for p in network.parameters()}
    made = copy.deepcopy(network, empty)
    vars(made).pop("_read_from", None)
    made._unread = waiting
    return made


@contextmanager
def read_for_now(network: nn.Module) -> Iterator[None]:
    """Within the context the network has its whole weights, if they are unread.

    One rank may do so alone, as the network does not count as unread meanwhile.
    """
    waiting = unread(network)
    if waiting is None:
        yield
        return
    before = _put(network, _read(network, waiting))
    del network._unread
    try:
        yield
    finally:
        network._unread = waiting  # type: ignore[assignment]
        for module, name, p in before:
            module._parameters[name] = p


@contextmanager
def stood_in_for(network: nn.Module) -> Iterator[None]:
    """Within the context unread weights are zeros that take no memory, for code that asks a weight for its device."""
    waiting = unread(network)
    zeros = {
        id(p): nn.Parameter(torch.zeros((), dtype=p.dtype, device=device_of(network)).expand(p.shape), p.requires_grad)
        for p in (network.parameters() if waiting else ())
        if p.is_meta
    }
    before = _put(network, zeros)
    try:
        yield
    finally:
        for module, name, p in before:
            p.requires_grad_(zeros[id(p)].requires_grad)
            module._parameters[name] = p


def _read(network: nn.Module, waiting: Unread) -> dict[int, nn.Parameter]:
    """The parameters on the meta device, read from the files, by the id of the parameter."""
    named = ((name, p) for name, p in network.named_parameters() if p.is_meta)
    return {id(p): nn.Parameter(waiting.rows(name, p), p.requires_grad) for name, p in named}


def _put(network: nn.Module, read: Mapping[int, nn.Parameter]) -> list[tuple[nn.Module, str, nn.Parameter]]:
    """Replace parameters by id; returns each module and name with the parameter that was there."""
    before = [(m, name, p) for m in network.modules() for name, p in m._parameters.items() if p is not None]
    before = [(m, name, p) for m, name, p in before if id(p) in read]
    for module, name, p in before:
        module._parameters[name] = read[id(p)]
    return before
