"""Networks whose weights, gradients and optimizer states are sharded over the ranks of a team, by `fully_shard`
(FSDP2).

Each decoder layer is gathered while it computes, then released; the embedding, last norm and head form one group, so
that head and embedding may be tied. Gradients are summed over the ranks, not averaged: `fit` has divided by the global
count.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeGuard, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from accord.engine.groups import ReduceScatter, groups_of, is_half, mesh_of, placement
from accord.engine.team import Team
from accord.engine.unread import device_of, unread
from accord.errors import InputError

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor
    from typing_extensions import TypeIs

    from accord.engine.config import MemoryConfig

P = ParamSpec("P")
R = TypeVar("R")
M = TypeVar("M")


@dataclass(frozen=True)
class Sharing:
    """How networks are sharded: `ranks` of them hold a copy together (0: all), and `reshard` releases a layer's weights
    between its forward and backward pass."""

    ranks: int = 0
    reshard: bool = True


_sharing = Sharing()
"""The setting of this process's team."""


@contextmanager
def sharing(config: MemoryConfig) -> Iterator[None]:
    """Context in which networks are sharded as the settings say.

    Raises InputError where settings for several ranks are given to one, or do not divide the number of ranks.
    """
    global _sharing
    before, size = _sharing, Team.here().size
    for name in ("shard_ranks", "reshard_after_forward"):
        if size == 1 and getattr(config, name) not in (None, True):
            raise InputError(f"{name} is for several ranks: start them by torchrun, or leave it out.")
    ranks = config.shard_ranks or size
    if size % ranks:
        raise InputError(f"shard_ranks is {ranks}, which does not divide the {size} ranks: give a divisor.")
    _sharing = Sharing(ranks, config.reshard_after_forward)
    try:
        yield
    finally:
        _sharing = before


def shard(network: Any, dtype: torch.dtype = torch.float32) -> Any:
    """Shard a network in place, and return it; in a team of one it stays as it is.

    Before, every rank has the same weights, or none has read them (`accord.engine.unread`), in which case each reads
    its share. Frozen weights that several networks share, as under adapters, stay shared: all use one share. The linear
    layers of a trained network that computes in `dtype` bfloat16 are gathered in that, at half the bytes.
    """
    team = Team.here()
    if team.size == 1 or is_sharded(network):
        return network
    # Imported here, as it would cost every command half a second.
    from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method

    frozen = {name: p for name, p in network.named_parameters(remove_duplicate=False) if not p.requires_grad}
    kind = device_of(network).type
    shards = _sharing.ranks or team.size
    mesh, place = mesh_of(kind, shards), placement(network, kind, shards)
    for part, policy in groups_of(network, dtype):
        reshard = None if part is network else _sharing.reshard
        fully_shard(part, mesh=mesh, mp_policy=policy, reshard_after_forward=reshard, shard_placement_fn=place)
    for part in (m for m in network.modules() if isinstance(m, FSDPModule)):
        part.set_gradient_divide_factor(1.0)
        part.set_force_sum_reduction_for_comms(True)  # gloo only sums, and NCCL's scaled sum is wrong in bfloat16
        part.set_reduce_scatter_unused_params(True)  # a weight may have a gradient on some ranks only
        if kind == "cpu" and not is_half(network):  # one with two groups takes none
            part.set_custom_reduce_scatter(ReduceScatter())  # type: ignore[arg-type]
    network.load_state_dict(_shares(network, frozen), strict=False, assign=True)
    vars(network).pop("_unread", None)
    network._read_whole = lambda read: read()  # FSDP gathers around this method: see `with_gathered_weights`
    register_fsdp_forward_method(network, "_read_whole")
    return network


def _shares(network: nn.Module, frozen: Mapping[str, nn.Parameter]) -> dict[str, nn.Parameter]:
    """Parameters to replace shares that `fully_shard` made, by name.

    A frozen weight records its share, which replaces that of the next network with the same weight. For unread weights
    the rows are read from their file.
    """
    waiting, replacements = unread(network), dict[str, nn.Parameter]()
    read: dict[int, nn.Parameter] = {}
    for name, share in network.named_parameters(remove_duplicate=False):
        known: Any = vars(frozen[name]).get("_share") if name in frozen else None
        if known is None and waiting and is_share(share) and share.to_local().is_meta:
            if id(share) not in read:  # a tied weight has two names
                rows = waiting.rows(name, share, *rows_of(share), shard_axis(share))
                read[id(share)] = nn.Parameter(shard_from_rows(rows, share, tuple(share.shape)), share.requires_grad)
            known = read[id(share)]
        if name in frozen:
            known = vars(frozen[name]).setdefault("_share", share if known is None else known)
        if known is not None:
            replacements[name] = known
    return replacements


def sharded_parts(network: nn.Module) -> list[Any]:
    """The sharded modules of a network: itself, both parts of a mixture, or none."""
    return [part for part in (network, *network.children()) if hasattr(part, "_read_whole")]


def is_sharded(network: nn.Module) -> bool:
    """Whether this rank holds only a share of the network's weights."""
    return bool(sharded_parts(network))


def waits_for_ranks(network: nn.Module) -> bool:
    """Whether a pass through the network needs all ranks: it is sharded, and its layers are not kept gathered."""
    return is_sharded(network) and not getattr(network, "_layers_gathered", False)


def unsharded_class(network: nn.Module) -> type[nn.Module]:
    """The class of a network before it was sharded."""
    return type(network).__mro__[2] if is_sharded(network) else type(network)


def with_gathered_weights(function: Callable[Concatenate[M, P], R]) -> Callable[Concatenate[M, P], R]:
    """Decorator: within the function the weights of its first argument, a network or a model of one, are gathered.

    The weights outside the decoder layers stay gathered until it returns, or, if its result has gradients, until those
    are computed. All ranks must call it together. Code outside such functions sees only shares.
    """

    @functools.wraps(function)
    def read(first: M, *args: P.args, **named: P.kwargs) -> R:
        given: Any = first
        network = given if isinstance(given, nn.Module) else given.network
        if unread(network):  # a measurement before the first step: shard for the precision it computes in
            kind = device_of(network).type
            shard(network, torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else torch.float32)
        parts = sharded_parts(network)
        if not parts:
            return function(first, *args, **named)
        through: Callable[[], R] = functools.partial(function, first, *args, **named)
        for part in parts:
            through = functools.partial(part._read_whole, through)
        result = through()
        outputs = result if isinstance(result, tuple) else (result,)
        if not any(isinstance(output, Tensor) and output.requires_grad for output in outputs):
            # Reset what a backward pass would. Otherwise gathered weights would stay and miss the next update, and FSDP
            # would keep recording the passes of a frozen network, for prefetching in a backward pass.
            for part in parts:
                if getattr(part, "_sums_wait", False):
                    raise RuntimeError("a network is read while its gradients are not summed over copies yet")
                part.reset_iter_state()
        return result

    return read


@contextmanager
def layers_gathered(network: nn.Module) -> Iterator[None]:
    """Within the context, all layers stay gathered, so that passes do not communicate.

    For use inside a function decorated by `with_gathered_weights`.
    """
    layers: list[Any] = [m for m in network.modules() if hasattr(m, "set_reshard_after_forward")]
    layers = [layer for layer in layers if layer not in sharded_parts(network)]
    for layer in layers:
        layer.set_reshard_after_forward(False)
        layer.unshard()
    for part in sharded_parts(network):
        part._layers_gathered = True
    try:
        yield
    finally:
        for part in sharded_parts(network):
            part._layers_gathered = False
        for layer in layers:
            layer.set_reshard_after_forward(_sharing.reshard)


def is_share(tensor: Tensor) -> TypeIs[DTensor]:
    """Whether a tensor is sharded over the ranks (a DTensor)."""
    return hasattr(tensor, "full_tensor")


def local(tensor: Tensor) -> Tensor:
    """This rank's part of a tensor."""
    return tensor.to_local() if is_share(tensor) else tensor


def shard_axis(share: DTensor) -> int:
    """The axis along which a tensor is sharded, see `groups.axis_of`."""
    placement: Any = share.placements[-1]
    return int(placement.dim)


def rows_of(share: DTensor, rows: int | None = None) -> tuple[int, int]:
    """The range of rows, end exclusive, of the whole tensor that this rank holds; or of a tensor with `rows` rows."""
    part, parts, _ = shard_coordinates(share)
    return part_of(share.shape[shard_axis(share)] if rows is None else rows, part, parts)


def part_of(rows: int, part: int, parts: int) -> tuple[int, int]:
    """The range of rows, end exclusive, of one of the parts, numbered from 0: ceil(rows / parts) each while there are
    any, as in `fully_shard`."""
    each = -(-rows // parts)
    return min(part * each, rows), min((part + 1) * each, rows)


def shard_coordinates(share: DTensor) -> tuple[int, int, int]:
    """This rank's shard number, the number of shards, and the number of the copy (HSDP replica) it belongs to."""
    place = share.device_mesh.get_coordinate()
    assert place is not None
    return place[-1], share.device_mesh.size(len(place) - 1), place[0] if len(place) > 1 else 0


def sum_over_copies(networks: Iterable[nn.Module], now: bool) -> None:
    """Set whether the next pass all-reduces gradients over the copies of the trained networks (HSDP), including those
    accumulated in earlier passes; until then gradients are sums over the ranks of each copy.

    All passes of a step must be over the same networks, with gradients. No effect with a single copy.
    """
    if _sharing.ranks in (0, Team.here().size):
        return
    for part in (part for network in networks for part in sharded_parts(network)):
        if any(p.requires_grad for p in part.parameters()):
            part.set_requires_all_reduce(now)
            part._sums_wait = not now


@torch.no_grad()
def gathered(tensor: Tensor) -> Tensor:
    """The whole of a tensor that may be sharded, on every rank."""
    if not is_share(tensor):
        return tensor
    axis, mesh = shard_axis(tensor), tensor.device_mesh
    rows, parts = tensor.shape[axis], mesh.size(mesh.ndim - 1)
    own = local(tensor).movedim(axis, 0)
    # Blocking, and of tensors with names: `full_tensor` drops its own while gloo's thread reads them, which may crash
    # (pytorch#75529). The last ranks may have fewer rows.
    sent = own.new_zeros(-(-rows // parts), *own.shape[1:])
    sent[: len(own)] = own
    whole = own.new_empty(len(sent) * parts, *own.shape[1:])
    dist.all_gather_into_tensor(whole, sent, group=mesh.get_group(mesh.ndim - 1))
    return whole[:rows].movedim(0, axis).contiguous()


def gather_on_leader(tensors: Mapping[str, Tensor], team: Team) -> dict[str, Tensor]:
    """The whole of tensors that may be sharded, on rank 0, in host memory; empty on the others."""
    whole: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        full = gathered(tensor)
        if team.leads:
            whole[name] = full.cpu().contiguous() if is_share(tensor) else tensor
    return whole


def shard_like(whole: Tensor, like: Tensor) -> Tensor:
    """This rank's share of a whole tensor that every rank has, sharded like `like`; unchanged where that is not
    sharded."""
    if not is_share(like) or is_share(whole) or whole.shape != like.shape:
        return whole
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(whole, like.device_mesh, like.placements, src_data_rank=None)


def is_sharded_like(like: Tensor, shape: tuple[int, ...]) -> TypeGuard[DTensor]:
    """Whether a tensor of this shape is sharded like `like`: both have as many rows, and, if sharded along another axis
    than the first, a size there that the ranks divide."""
    if not is_share(like) or shape[:1] != tuple(like.shape[:1]):
        return False
    axis = shard_axis(like)
    return axis == 0 or (len(shape) > axis and shape[axis] % shard_coordinates(like)[1] == 0)


def shard_from_rows(rows: Tensor, like: Tensor, shape: tuple[int, ...]) -> Tensor:
    """A tensor of this shape whose rows on this rank are `rows`, sharded like `like`; or `rows` itself, as the whole,
    where it is not sharded alike."""
    if not is_sharded_like(like, shape):
        return rows
    from torch.distributed.tensor import DTensor

    stride = torch.empty(shape, device="meta").stride()
    arguments = {"shape": torch.Size(shape), "stride": stride, "run_check": False}
    return DTensor.from_local(rows, like.device_mesh, like.placements, **arguments)  # type: ignore[arg-type]
