"""Copies of models that are only read: beside the model, or in the memory of the host, a layer on the GPU at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from accord.engine.adapters import adapted, own_state, twin
from accord.engine.precision import cast_linear
from accord.engine.shard import shard
from accord.engine.team import Team
from accord.errors import InputError

if TYPE_CHECKING:
    from accord.engine.config import MemoryConfig
    from accord.engine.models import AnyModel


def frozen_copy(network: Any, dtype: torch.dtype, device: torch.device | None = None) -> Any:
    """A copy of the network that is only read, without gradients, its linear layers held in `dtype`.

    Its results equal the original's bit for bit: see `precision.cast_linear`. With a `device` its weights are copied
    there; buffers stay where they are.
    """
    weights = () if device is None else network.parameters()
    there = {id(p): nn.Parameter(p.detach().to(device, copy=True), False) for p in weights}
    duplicate = twin(network, there).requires_grad_(False).eval()
    cast_linear(duplicate, dtype)
    return duplicate


def shared_copy(model: AnyModel) -> AnyModel:
    """A copy that is only read, whose results equal the model's bit for bit; in a team each rank holds its share, and
    all read it together.

    Raises InputError in a team where the model is held in few bits.
    """
    if model.is_quantized and Team.here().size > 1:
        raise InputError(f"{model.name} is held in few bits, which is not for several ranks yet: give it in full.")
    copied = model.frozen_copy()
    shard(copied.network)
    return copied


def kept_weights(network: Any, dtype: torch.dtype) -> dict[str, Tensor]:
    """A copy of what `adapters.own_state` returns, to be taken again later.

    In a team each rank holds its share of the network, which computes in `dtype`, from here on, and of the copy.
    """
    return {name: tensor.clone() for name, tensor in own_state(shard(network, dtype)).items()}


def reference_copy(model: AnyModel, config: MemoryConfig) -> AnyModel:
    """A copy that is only read, held where the settings say; its results equal the model's bit for bit.

    Under adapters a copy shares the model's weights, and stays with them. In a team each rank holds its share.
    """
    if not config.offload_reference or adapted(model.network) or model.is_quantized:
        return shared_copy(model)
    network = frozen_copy(model.network, model.dtype, torch.device("cpu"))
    bring_layers(network, model.device)
    return model.with_network(network)


def bring_layers(network: PreTrainedModel, device: torch.device) -> None:
    """Have each decoder layer of a frozen network on the host brought to a device for as long as it computes, in place.

    What is beside the layers, the embedding, the last norm and the head, moves there for good. Copies of the layers on
    the host are in pinned memory, so that the next kernels are not waited for.
    Raises InputError where the network's layers cannot be told.
    """
    layers = [module for module in network.modules() if isinstance(module, GradientCheckpointingLayer)]
    if not layers:
        raise InputError(f"offload_reference: {type(network).__name__} has no layers that can be brought one by one.")
    inside = {id(parameter) for layer in layers for parameter in layer.parameters()}
    moved = {id(p): nn.Parameter(p.detach().to(device), False) for p in network.parameters() if id(p) not in inside}
    for module, name, parameter in _named(network):
        module._parameters[name] = moved.get(id(parameter), parameter)
    for layer in layers:
        _bring(layer, device)


def _named(network: nn.Module) -> list[tuple[nn.Module, str, nn.Parameter]]:
    """Every parameter with the module that has it and its name there; where several share one, each of them."""
    return [(m, name, p) for m in network.modules() for name, p in m._parameters.items() if p is not None]


def _bring(layer: nn.Module, device: torch.device) -> None:
    on_gpu = device.type == "cuda"
    held = [(m, name, nn.Parameter(p.detach().pin_memory(), False) if on_gpu else p) for m, name, p in _named(layer)]

    def bring(*_: Any) -> None:
        for module, name, on_host in held:
            module._parameters[name] = nn.Parameter(on_host.detach().to(device, non_blocking=True), False)

    def leave(*_: Any) -> None:
        for module, name, on_host in held:
            module._parameters[name] = on_host

    leave()
    layer.register_forward_pre_hook(bring)
    layer.register_forward_hook(leave, always_call=True)
