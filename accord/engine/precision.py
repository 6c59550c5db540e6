"""Compute precision: bfloat16 where the processor multiplies it natively, over float32 master weights."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor, nn

from accord.engine.quantize import FewBits
from accord.errors import InputError

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
"""Precisions of computation."""
STORED = DTYPES | {"float16": torch.float16}
"""Precisions of stored weights."""
DEVICES = ("cpu", "cuda")


def compute_dtype(name: str, device: torch.device | str = "cpu") -> torch.dtype:
    """The compute precision called `name`; "auto" is bfloat16 where the device supports it natively, else float32.

    Raises InputError where the name is unknown.
    """
    if name == "float16":
        raise InputError(
            "float16 is not a precision accord computes in: its gradients underflow unless losses are scaled. Choose "
            "auto, which is bfloat16 on devices that multiply it and float32 on others, such as Turing GPUs."
        )
    if name == "auto":
        return torch.bfloat16 if has_bfloat16(torch.device(device)) else torch.float32
    if name not in DTYPES:
        known = ", ".join(DTYPES)
        raise InputError(f"--dtype {name} is not a precision accord computes in; choose auto or one of {known}.")
    return DTYPES[name]


def device_called(name: str | None) -> str:
    """The device called `name`; without a name CUDA where available, else the CPU.

    Raises InputError where there is no such device, or accord does not compute on that kind.
    """
    kind = (name or "cpu").partition(":")[0]
    if kind not in DEVICES:
        why = (
            ", as Apple's MPS has no float64, which rewards and log-probabilities are kept in" if kind == "mps" else ""
        )
        raise InputError(f"{name} is not a device that accord computes on{why}; choose cpu or cuda.")
    if kind == "cuda" and not torch.cuda.is_available():
        raise InputError(f"there is no device {name} here: torch {torch.__version__} sees no CUDA device; choose cpu.")
    return name or ("cuda" if torch.cuda.is_available() else "cpu")


def has_bfloat16(device: torch.device) -> bool:
    """Whether the device multiplies bfloat16 matrices in hardware (avx512_bf16, amx or CUDA capability 8)."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    return device.type == "cpu" and (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def autocast(
    dtype: torch.dtype, device: torch.device | str = "cpu", *, cached: bool = True
) -> AbstractContextManager[object]:
    """Context in which matrix products are computed in `dtype`. Enter it anew for each pass: leaving it drops its
    cached casts of weights, which would otherwise outlive the weights' next update. With `cached` false nothing is
    cached, and a weight used twice is cast twice."""
    kind = torch.device(device).type
    return torch.autocast(kind, dtype=dtype, cache_enabled=cached) if dtype == torch.bfloat16 else nullcontext()


def hold_in_bfloat16(network: nn.Module) -> None:
    """Hold every matrix of a network in bfloat16, in place; vectors and a classifier's head keep their precision."""
    for parameter in matrices(network):
        parameter.data = parameter.data.to(torch.bfloat16)


def matrices(network: nn.Module) -> list[nn.Parameter]:
    """The parameters that `hold_in_bfloat16` casts."""
    named = ((n, p) for n, p in network.named_parameters() if n != "score.weight" and "lora_" not in n)
    return [p for _, p in named if p.dim() > 1 and p.is_floating_point()]


def cast_linear(model: nn.Module, dtype: torch.dtype) -> None:
    """Hold the weights of linear layers in `dtype`, in place, if that is bfloat16, to which a pass would cast them
    anyway.

    Results stay equal bit for bit, in little more than half the memory. A classifier's head, adapters and weights tied
    to the embedding keep their precision.
    """
    if dtype == torch.bfloat16:
        for parameter in linear_weights(model):
            parameter.data = parameter.data.to(dtype)


def linear_weights(model: nn.Module) -> list[nn.Parameter]:
    """The weights and biases that `cast_linear` casts."""
    embedded = {id(p) for m in model.modules() if isinstance(m, nn.Embedding) for p in m.parameters()}
    plain = [
        module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and not isinstance(module, FewBits) and name != "score" and "lora_" not in name
    ]
    return [p for module in plain if id(module.weight) not in embedded for p in module.parameters()]


@contextmanager
def held_in(network: nn.Module, dtype: torch.dtype, names: Collection[str]) -> Iterator[None]:
    """Within the context, the network's weights with these names are in `dtype`.

    Weights that the network's class keeps in float32 (transformers' _keep_in_fp32_modules) stay so. Raises InputError,
    changing nothing, where a weight exceeds the range of `dtype`.
    """
    weights = weights_to_round(network, names)
    converted = in_dtype(network, dtype, {name: weight.data for name, weight in weights.items()})
    before = {name: weight.data for name, weight in weights.items()}
    try:
        for name, weight in weights.items():
            weight.data = converted[name]
        yield
    finally:
        for name, weight in weights.items():
            weight.data = before[name]


def in_dtype(network: nn.Module, dtype: torch.dtype, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors by their names in the network, with its weights converted to `dtype` as in `held_in`."""
    weights = weights_to_round(network, tensors)
    require_reach(dtype, {name: tensors[name] for name in weights})
    return {name: tensor.to(dtype) if name in weights else tensor for name, tensor in tensors.items()}


def require_reach(dtype: torch.dtype, tensors: Mapping[str, Tensor]) -> None:
    """Raise InputError where one of the named tensors exceeds the range of `dtype`."""
    for name, tensor in tensors.items():
        if not bool(tensor.to(dtype).isfinite().all()):
            largest, called = float(tensor.detach().abs().max()), str(dtype).removeprefix("torch.")
            raise InputError(
                f"{name} has a number of size {largest:.4g}, which is out of {called}'s range: use bfloat16."
            )


def round_weights(network: nn.Module, dtype: torch.dtype, names: Collection[str]) -> None:
    """Round the weights of these names to `dtype`, in place, keeping their precision; exceptions as in `held_in`."""
    with torch.no_grad():
        for weight in weights_to_round(network, names).values():
            weight.copy_(weight.to(dtype))


def weights_to_round(network: nn.Module, names: Collection[str]) -> dict[str, nn.Parameter]:
    """The floating-point weights of these names, without those that the network's class keeps in float32."""
    in_float32 = {
        name for kind in ("", "_strict") for name in getattr(network, f"_keep_in_fp32_modules{kind}", None) or ()
    }
    in_full = re.compile("|".join(rf"(?:^|\.){name}(?:$|\.)" for name in in_float32) or r"(?!)")
    return {
        name: weight
        for name, weight in network.named_parameters()
        if name in names and weight.is_floating_point() and not in_full.search(name)
    }
