"""Networks whose weights, gradients and optimizer states are shared out among the ranks of a team, by `fully_shard`.

Each decoder layer is gathered when it computes, and let go; the embedding, the last norm and the head are one group,
so that a head may be the embedding. Gradients are summed over the ranks: `fit` has divided by the count of all.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeGuard, TypeVar

import torch
from torch import Tensor, nn

from accord.engine.groups import groups_of, mesh_of, placement
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
    """How ranks share networks: `ranks` of them hold a copy together, or all where it is 0, and, with `reshard`, let go
    of a layer's weights between its forward and its backward pass."""

    ranks: int = 0
    reshard: bool = True


_sharing = Sharing()
"""That of the team which this process is in."""


@contextmanager
def sharing(config: MemoryConfig) -> Iterator[None]:
    """Within it networks are shared out as the settings say.

    Raises InputError where they are about several ranks and there is one, or do not fit the number of ranks.
    """
    global _sharing
    before, size = _sharing, Team.here().size
    for name in ("shard_ranks", "reshard_after_forward"):
        if size == 1 and getattr(config, name) not in (None, True):
            raise InputError(f"{name} is about several ranks: start them by torchrun, or leave it out.")
    ranks = config.shard_ranks or size
    if size % ranks:
        raise InputError(f"shard_ranks is {ranks}, and {size} ranks make no whole number of such: give a divisor.")
    _sharing = Sharing(ranks, config.reshard_after_forward)
    try:
        yield
    finally:
        _sharing = before


def shard(network: Any, dtype: torch.dtype = torch.float32) -> Any:
    """The network, of which this rank holds its share from now on, in place; in a team of one it stays as it is.

    Every rank has the same weights before, or none has read them (`accord.engine.unread`): then each reads its share.
    Frozen weights that several networks share, as those under adapters are, stay so: all have one share. A network that
    computes in the `dtype` bfloat16 and is trained has its linear layers gathered in that: half of the bytes.
    """
    team = Team.here()
    if team.size == 1 or is_sharded(network):
        return network
    # What is of several ranks is imported where it is needed: it would cost every command half a second.
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
        part.set_force_sum_reduction_for_comms(True)  # gloo has no other, and NCCL's scaled sum is wrong in bfloat16
        part.set_reduce_scatter_unused_params(True)  # a pass may train nothing here that it trains on another rank
    network.load_state_dict(_shares(network, frozen), strict=False, assign=True)
    vars(network).pop("_unread", None)
    network._read_whole = lambda read: read()
    register_fsdp_forward_method(network, "_read_whole")
    return network


def _shares(network: nn.Module, frozen: Mapping[str, nn.Parameter]) -> dict[str, nn.Parameter]:
    """What takes the place of shares that `fully_shard` has made of a network.

    A frozen weight knows its share, which the next network that has the weight takes in place of its own. Of a weight
    that is not read yet the rows are read.
    """
    waiting, found = unread(network), dict[str, nn.Parameter]()
    read: dict[int, nn.Parameter] = {}
    for name, share in network.named_parameters(remove_duplicate=False):
        known: Any = vars(frozen[name]).get("_share") if name in frozen else None
        if known is None and waiting and is_share(share) and share.to_local().is_meta:
            if id(share) not in read:  # a tied weight has two names
                rows = waiting.rows(name, share, *rows_of(share), shared_axis(share))
                read[id(share)] = nn.Parameter(shared_of(rows, share, tuple(share.shape)), share.requires_grad)
            known = read[id(share)]
        if name in frozen:
            known = vars(frozen[name]).setdefault("_share", share if known is None else known)
        if known is not None:
            found[name] = known
    return found


def shared_in(network: nn.Module) -> list[Any]:
    """What of a network is shared out as one: the network itself, both parts of a mixture, or nothing."""
    return [part for part in (network, *network.children()) if hasattr(part, "_read_whole")]


def is_sharded(network: nn.Module) -> bool:
    """Whether this rank holds but a share of the network's weights."""
    return bool(shared_in(network))


def gathers(network: nn.Module) -> bool:
    """Whether a pass through the network waits for all ranks: it is shared out, and its layers are not held whole."""
    return is_sharded(network) and not getattr(network, "_is_held_whole", False)


def whole_kind(network: nn.Module) -> type[nn.Module]:
    """The class that the network had before it was shared out."""
    return type(network).__mro__[2] if is_sharded(network) else type(network)


def reads_whole(function: Callable[Concatenate[M, P], R]) -> Callable[Concatenate[M, P], R]:
    """The one door to a sharded network: the function finds the weights of its first argument, a network or a model of
    one, gathered.

    Those beside the decoder layers stay so until it returns, or, where what it returns has gradients, until those are
    computed. All ranks come through the door together.
    """

    @functools.wraps(function)
    def read(first: M, *args: P.args, **named: P.kwargs) -> R:
        given: Any = first
        network = given if isinstance(given, nn.Module) else given.network
        if unread(network):  # what is measured before the first step, in the precision that it is computed in
            kind = device_of(network).type
            shard(network, torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else torch.float32)
        parts = shared_in(network)
        if not parts:
            return function(first, *args, **named)
        through: Callable[[], R] = functools.partial(function, first, *args, **named)
        for part in parts:
            through = functools.partial(part._read_whole, through)
        result = through()
        outputs = result if isinstance(result, tuple) else (result,)
        if not any(isinstance(output, Tensor) and output.requires_grad for output in outputs):
            # What a backward pass would do. Else what is gathered stayed so, and an update went unnoticed; and torch
            # would note every pass of a network that is only read, to fetch layers ahead in a backward pass.
            for part in parts:
                if getattr(part, "_sums_wait", False):
                    raise RuntimeError("a network that waits for sums of its gradients is only read")
                part.reset_iter_state()
        return result

    return read


@contextmanager
def held_whole(network: nn.Module) -> Iterator[None]:
    """Within the door, the weights of layers that are gathered stay so, all from now on: no pass waits for ranks."""
    layers: list[Any] = [m for m in network.modules() if hasattr(m, "set_reshard_after_forward")]
    layers = [layer for layer in layers if layer not in shared_in(network)]
    for layer in layers:
        layer.set_reshard_after_forward(False)
        layer.unshard()
    for part in shared_in(network):
        part._is_held_whole = True
    try:
        yield
    finally:
        for part in shared_in(network):
            part._is_held_whole = False
        for layer in layers:
            layer.set_reshard_after_forward(_sharing.reshard)


def is_share(tensor: Tensor) -> TypeIs[DTensor]:
    """Whether a tensor is shared out among the ranks."""
    return hasattr(tensor, "full_tensor")


def local(tensor: Tensor) -> Tensor:
    """What of a tensor this rank holds."""
    return tensor.to_local() if is_share(tensor) else tensor


def shared_axis(share: DTensor) -> int:
    """The axis by which a tensor is shared out, along which its rows are counted: see `groups.axis_of`."""
    placement: Any = share.placements[-1]
    return int(placement.dim)


def rows_of(share: DTensor, rows: int | None = None) -> tuple[int, int]:
    """The first of the rows of the whole that this rank holds, and the one after its last; or of so many `rows`."""
    part, parts, _ = place_of(share)
    return part_of(share.shape[shared_axis(share)] if rows is None else rows, part, parts)


def part_of(rows: int, part: int, parts: int) -> tuple[int, int]:
    """The first of so many rows that one of the parts has, counted from 0, and the one after its last: as
    `fully_shard` deals them out, ceil(rows / parts) each as long as there are any."""
    each = -(-rows // parts)
    return min(part * each, rows), min((part + 1) * each, rows)


def place_of(share: DTensor) -> tuple[int, int, int]:
    """Which part of a whole this rank has, counted from 0, of how many, and in which copy of the whole."""
    place = share.device_mesh.get_coordinate()
    assert place is not None
    return place[-1], share.device_mesh.size(len(place) - 1), place[0] if len(place) > 1 else 0


def sum_over_copies(networks: Iterable[nn.Module], now: bool) -> None:
    """Whether the pass that begins sums the gradients of trained networks over the copies that ranks have of them, and
    with its own those of passes that did not; until then they are sums over the ranks of each copy.

    All passes of a step are of the same networks, with gradients. Where there is one copy nothing happens.
    """
    if _sharing.ranks in (0, Team.here().size):
        return
    for part in (part for network in networks for part in shared_in(network)):
        if any(p.requires_grad for p in part.parameters()):
            part.set_requires_all_reduce(now)
            part._sums_wait = not now


def gathered(tensor: Tensor) -> Tensor:
    """The whole of a tensor that may be shared out, on every rank."""
    return tensor.full_tensor() if is_share(tensor) else tensor


def gathered_for_leader(tensors: Mapping[str, Tensor], team: Team) -> dict[str, Tensor]:
    """The whole of tensors that a team may share out, on the rank that leads, in its host's memory; elsewhere none."""
    whole: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        full = gathered(tensor)
        if team.leads:
            whole[name] = full.cpu().contiguous() if is_share(tensor) else tensor
    return whole


def shared_like(whole: Tensor, like: Tensor) -> Tensor:
    """This rank's share of a whole tensor, which every rank has, where `like` is shared out; the order is `like`'s."""
    if not is_share(like) or is_share(whole) or whole.shape != like.shape:
        return whole
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(whole, like.device_mesh, like.placements, src_data_rank=None)


def is_shared_as(like: Tensor, shape: tuple[int, ...]) -> TypeGuard[DTensor]:
    """Whether of a tensor of a shape ranks have the rows that they have of `like`: where that is shared out, and both
    have as many rows, or by another axis than the first a number that ranks divide."""
    if not is_share(like) or shape[:1] != tuple(like.shape[:1]):
        return False
    axis = shared_axis(like)
    return axis == 0 or (len(shape) > axis and shape[axis] % place_of(like)[1] == 0)


def shared_of(rows: Tensor, like: Tensor, shape: tuple[int, ...]) -> Tensor:
    """A tensor of a shape of which this rank has these rows, those that it has of `like`; or all, where they are not
    shared out alike."""
    if not is_shared_as(like, shape):
        return rows
    from torch.distributed.tensor import DTensor

    stride = torch.empty(shape, device="meta").stride()
    given = {"shape": torch.Size(shape), "stride": stride, "run_check": False}
    return DTensor.from_local(rows, like.device_mesh, like.placements, **given)  # type: ignore[arg-type]
