"""Which weights of a network ranks gather together, in which precision, and which ranks do.

Each decoder layer is a group; the embedding, the last norm and the head are one, so that a head may be the embedding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import nn
from transformers.modeling_layers import GradientCheckpointingLayer

from accord.engine.precision import linear_weights
from accord.engine.team import PATIENCE, Team
from accord.errors import InputError

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh
    from torch.distributed.fsdp import MixedPrecisionPolicy

_meshes: dict[Any, DeviceMesh] = {}


def mesh_of(kind: str, shards: int, use: str = "") -> DeviceMesh:
    """The ranks on one kind of device, so many to a copy of a model: in a line, or where that is not all of them a row
    of ranks for each copy.

    What has a `use` has groups of ranks of its own, which speak as if the others were not there.
    """
    from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

    size = Team.here().size
    key = (dist.group.WORLD, kind, shards, use)
    if key not in _meshes:  # each makes groups of its own, but for one of all ranks
        if shards < size:
            _meshes[key] = init_device_mesh(kind, (size // shards, shards), mesh_dim_names=("replicate", "shard"))
        elif use:
            _meshes[key] = DeviceMesh.from_group(dist.new_group(timeout=PATIENCE), kind)
        else:
            _meshes[key] = init_device_mesh(kind, (size,))
    return _meshes[key]


def is_half(network: nn.Module) -> bool:
    """Whether trained weights are held in bfloat16: all matrices, beside vectors in float32."""
    return any(p.requires_grad and p.dtype == torch.bfloat16 for p in network.parameters())


def axis_of(shape: Sequence[int], ranks: int) -> int:
    """The axis of a weight that so many ranks share out: the first.

    Of a block of experts (E, d_out, d_in) that are fewer than the ranks it is the second, each expert's own rows, where
    the ranks can have equally many, as `fully_shard` shares out no other axis than the first unevenly.
    """
    return 1 if len(shape) == 3 and shape[0] < ranks and shape[1] % ranks == 0 else 0


def placement(network: nn.Module, kind: str, shards: int) -> Callable[[nn.Parameter], Any]:
    """Where `fully_shard` puts a weight: by which axis it is shared out, and those in float32 beside bfloat16 apart.

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
    """Where weights in float32 are put that lie beside others in bfloat16, as gradients of one precision at a time are
    summed: what is shared by the same group of ranks is put together, so that these have another, of the same ranks.

    Raises InputError where torch is too old to let a weight have a group of its own.
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
    """What is gathered together, a module or several, inner ones first, and in which precision.

    Autocast multiplies in bfloat16, and leaves the sums between the layers, norms and embeddings in float32. So linear
    layers are gathered in bfloat16, to which autocast would round them, and a layer's norms beside them as they are;
    gradients are summed in float32, where rounding has happened already. What computes is what one process does.
    Matrices that are held in bfloat16 are gathered as they are; their gradients are summed in float32, and rounded.
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
