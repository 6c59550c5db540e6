"""FSDP groups: which weights are gathered together, in which precision, and by which ranks.

Each decoder layer is a group; the embedding, last norm and head form one group, so that head and embedding may be tied.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from transformers.modeling_layers import GradientCheckpointingLayer

from accord.engine.precision import linear_weights
from accord.engine.team import PATIENCE, Team
from accord.errors import InputError

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh
    from torch.distributed.fsdp import MixedPrecisionPolicy

_meshes: dict[Any, DeviceMesh] = {}


def mesh_of(kind: str, shards: int, use: str = "") -> DeviceMesh:
    """The device mesh of all ranks, `shards` to a copy of a model: one-dimensional, or (copies, shards) where there are
    several copies (HSDP).

    A mesh for another `use` has its own process groups, whose communication is independent.
    """
    from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

    size = Team.here().size
    key = (dist.group.WORLD, kind, shards, use)
    if key not in _meshes:  # only the mesh of all ranks uses the default process group
        if shards < size:
            _meshes[key] = init_device_mesh(kind, (size // shards, shards), mesh_dim_names=("replicate", "shard"))
        elif use:
            _meshes[key] = DeviceMesh.from_group(dist.new_group(timeout=PATIENCE), kind)
        else:
            _meshes[key] = init_device_mesh(kind, (size,))
    return _meshes[key]


class ReduceScatter:
    """The reduce-scatter of ranks on CPUs, for `fully_shard`: a rank receives its rows of every rank's gradient, and
    adds them in the order of the ranks.

    gloo's own all-reduces a copy of all rows, with twice the traffic.
    """

    def allocate(self, size: Sequence[int], *, dtype: torch.dtype, device: torch.device) -> Tensor:
        return torch.empty(*size, dtype=dtype, device=device)

    def __call__(
        self, output_tensor: Tensor, input_tensor: Tensor, group: Any, op: Any, async_op: bool = False
    ) -> None:
        assert op == dist.ReduceOp.SUM and not async_op
        received = torch.empty_like(input_tensor)
        dist.all_to_all_single(received, input_tensor, group=group)
        first, *others = received.chunk(group.size())
        output_tensor.copy_(first)
        for other in others:
            output_tensor.add_(other)


def is_half(network: nn.Module) -> bool:
    """Whether trained weights are held in bfloat16: all matrices; vectors stay in float32."""
    return any(p.requires_grad and p.dtype == torch.bfloat16 for p in network.parameters())


def axis_of(shape: Sequence[int], ranks: int) -> int:
    """The axis along which this many ranks shard a weight: the first.

    For a block of experts (E, d_out, d_in) with fewer experts than ranks it is the second, the rows of each expert, if
    the ranks divide them: `fully_shard` shards only the first axis unevenly.
    """
    return 1 if len(shape) == 3 and shape[0] < ranks and shape[1] % ranks == 0 else 0


def placement(network: nn.Module, kind: str, shards: int) -> Callable[[nn.Parameter], Any]:
    """The placement function for `fully_shard`: along which axis a weight is sharded, with float32 weights among
    bfloat16 ones in a process group of their own.

    Raises InputError as `by_precision` does.
    """
    from torch.distributed.tensor import Shard

    apart = by_precision(kind, shards) if is_half(network) else None

    def place(p: nn.Parameter) -> Any:
        if apart is not None and p.dtype != torch.bfloat16:
            return apart
        return Shard(axis) if (axis := axis_of(p.shape, shards)) else None

    return place


def by_precision(kind: str, shards: int) -> Any:
    """The placement of float32 weights among bfloat16 ones: on the same ranks, but in another process group, as
    `fully_shard` reduces the gradients of one group in one precision.

    Raises InputError where torch is too old to give a weight its own group.
    """
    try:
        from torch.distributed.fsdp._fully_shard._fsdp_common import FSDPMeshInfo, HSDPMeshInfo, ShardPlacementResult
    except ImportError as error:
        raise InputError(
            f"weight_dtype bfloat16 on several ranks needs torch 2.12 or later, and this is {torch.__version__}: "
            "leave it out, or hold less by --optimizer-states 8bit."
        ) from error
    mesh = mesh_of(kind, shards, "vectors")
    return ShardPlacementResult(
        None, FSDPMeshInfo(mesh, shard_mesh_dim=0) if mesh.ndim == 1 else HSDPMeshInfo(mesh, 1, 0)
    )


def groups_of(network: nn.Module, dtype: torch.dtype) -> Iterator[tuple[Any, MixedPrecisionPolicy]]:
    """The modules that are gathered together, inner ones first, with their mixed-precision policy.

    Autocast multiplies in bfloat16 and leaves the residual stream, norms and embeddings in float32. So linear layers
    are gathered in bfloat16, to which autocast would round them, and a layer's norms as they are held; gradients,
    already rounded, are reduced in float32. The computation is the same as in one process. Matrices held in bfloat16
    are gathered as they are; their gradients are reduced in float32, then rounded.
    """
    from torch.distributed.fsdp import MixedPrecisionPolicy

    as_they_are = dtype != torch.bfloat16 or is_half(network)
    as_held = MixedPrecisionPolicy(reduce_dtype=torch.float32) if is_half(network) else MixedPrecisionPolicy()
    half = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32, cast_forward_inputs=False)
    trained = {id(p) for p in linear_weights(network) if p.requires_grad and p.dtype == torch.float32}
    for layer in [m for m in network.modules() if isinstance(m, GradientCheckpointingLayer)]:
        others = [m for m in layer.modules() if any(id(p) not in trained for p in m.parameters(recurse=False))]
        if as_they_are or layer in others or not trained:
            yield layer, as_held
            continue
        inner = {id(m) for other in others for m in other.modules() if m is not other}
        if outer := [m for m in others if id(m) not in inner]:
            yield outer, as_held
        yield layer, half
    yield network, as_held
