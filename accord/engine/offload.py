"""Frozen copies of models: beside the model, or in host memory with one layer on the GPU at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from accord.engine.adapters import adapted, copy_sharing_base, own_state
from accord.engine.precision import cast_linear
from accord.engine.shard import shard
from accord.engine.team import Team
from accord.errors import InputError

if TYPE_CHECKING:
    from accord.engine.config import MemoryConfig
    from accord.engine.models import AnyModel


def frozen_copy(network: Any, dtype: torch.dtype, device: torch.device | None = None) -> Any:
    """A copy of the network for reading only, without gradients, its linear layers held in `dtype`.

    Its results equal the original's bit for bit: see `precision.cast_linear`. With a `device` its weights are copied
    there; buffers stay where they are.
    """
    weights = () if device is None else network.parameters()
    copies = {id(p): nn.Parameter(p.detach().to(device, copy=True), False) for p in weights}
    duplicate = copy_sharing_base(network, copies).requires_grad_(False).eval()
    cast_linear(duplicate, dtype)
    return duplicate


def shared_copy(model: AnyModel) -> AnyModel:
    """A frozen copy, whose results equal the model's bit for bit; with several ranks it is sharded, and all read it
    together.

    Raises InputError with several ranks where the model is quantized.
    """
    if model.is_quantized and Team.here().size > 1:
        raise InputError(f"{model.name} is held in few bits, which is not for several ranks yet: give it in full.")
    copied = model.frozen_copy()
    shard(copied.network)
    return copied


def kept_weights(network: Any, dtype: torch.dtype) -> dict[str, Tensor]:
    """A copy of the model's `adapters.own_state`, to be loaded again later.

    With several ranks the network, which computes in `dtype`, is sharded from here on, and so is the copy.
    """
    return {name: tensor.clone() for name, tensor in own_state(shard(network, dtype)).items()}


def reference_copy(model: AnyModel, config: MemoryConfig) -> AnyModel:
    """A frozen copy held where the settings say; its results equal the model's bit for bit.

    With adapters a copy shares the model's weights and stays with them. With several ranks it is sharded.
    """
    if not config.offload_reference or adapted(model.network) or model.is_quantized:
        return shared_copy(model)
    network = frozen_copy(model.network, model.dtype, torch.device("cpu"))
    bring_layers(network, model.device)
    return model.with_network(network)


def bring_layers(network: PreTrainedModel, device: torch.device) -> None:
    """Move each decoder layer of a frozen network in host memory to a device while it computes, in place.

    The rest, the embedding, last norm and head, moves there for good. Layers stay in pinned host memory, so that copies
    are asynchronous.

    Raises InputError where the network's layers cannot be identified.
    """
    layers = [module for module in network.modules() if isinstance(module, GradientCheckpointingLayer)]
    if not layers:
        raise InputError(f"offload_reference: {type(network).__name__} has no layers that can be moved one by one.")
    inside = {id(parameter) for layer in layers for parameter in layer.parameters()}
    moved = {id(p): nn.Parameter(p.detach().to(device), False) for p in network.parameters() if id(p) not in inside}
    for module, name, parameter in _named(network):
        module._parameters[name] = moved.get(id(parameter), parameter)
    for layer in layers:
        _bring(layer, device)


def _named(network: nn.Module) -> list[tuple[nn.Module, str, nn.Parameter]]:
    """Every parameter with its module and its name there; a shared parameter occurs once per module."""
    return [(m, name, p) for m in network.modules() for name, p in m._parameters.items() if p is not None]


def _bring(layer: nn.Module, device: torch.device) -> None:
    on_gpu = device.type == "cuda"
    on_host = [(m, name, nn.Parameter(p.detach().pin_memory(), False) if on_gpu else p) for m, name, p in _named(layer)]

    def bring(*_: Any) -> None:
        for module, name, weight in on_host:
            module._parameters[name] = nn.Parameter(weight.detach().to(device, non_blocking=True), False)

    def leave(*_: Any) -> None:
        for module, name, weight in on_host:
            module._parameters[name] = weight

    leave()
    layer.register_forward_pre_hook(bring)
    layer.register_forward_hook(leave, always_call=True)
