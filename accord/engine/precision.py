"""Compute precision: bfloat16 where the processor multiplies it natively, over float32 master weights."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import nn

from accord.errors import InputError

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
DEVICES = ("cpu", "cuda")


def compute_dtype(name: str, device: torch.device | str = "cpu") -> torch.dtype:
    """The compute precision called `name`; "auto" is bfloat16 where the device has it natively, else float32.

    Raises InputError where no precision is called that.
    """
    if name == "float16":
        raise InputError(
            "float16 is not a precision accord computes in: its gradients underflow unless losses are scaled. Choose "
            "auto, which is bfloat16 on devices that multiply it and float32 on others, such as Turing's cards."
        )
    if name == "auto":
        return torch.bfloat16 if has_bfloat16(torch.device(device)) else torch.float32
    if name not in DTYPES:
        known = ", ".join(DTYPES)
        raise InputError(f"--dtype {name} is not a precision accord computes in; choose auto or one of {known}.")
    return DTYPES[name]


def device_called(name: str | None) -> str:
    """The device called `name`; without a name a CUDA card where there is one, else the CPU.

    Raises InputError where there is no such device, or it is of a kind that accord does not compute on.
    """
    kind = (name or "cpu").partition(":")[0]
    if kind not in DEVICES:
        why = (
            ", as Apple's MPS has no float64, which rewards and log-probabilities are kept in" if kind == "mps" else ""
        )
        raise InputError(f"{name} is not a device that accord computes on{why}; choose cpu or cuda.")
    if kind == "cuda" and not torch.cuda.is_available():
        raise InputError(f"there is no device {name} here: torch {torch.__version__} sees no CUDA card; choose cpu.")
    return name or ("cuda" if torch.cuda.is_available() else "cpu")


def has_bfloat16(device: torch.device) -> bool:
    """Whether the device multiplies bfloat16 matrices in hardware (avx512_bf16, amx or CUDA capability 8)."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    return device.type == "cpu" and (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def autocast(dtype: torch.dtype, device: torch.device | str = "cpu") -> AbstractContextManager[object]:
    """Within it matrix products are computed in `dtype`. It is entered anew around each pass: leaving it drops the
    casts of the weights it holds, which would otherwise outlive the weights' next update."""
    return torch.autocast(torch.device(device).type, dtype=dtype) if dtype == torch.bfloat16 else nullcontext()


def cast_linear(model: nn.Module, dtype: torch.dtype) -> None:
    """Hold the weights of linear layers in `dtype`, in place, where it is what a pass would cast them to anyway.

    So results stay the same bit for bit, in little more than half the memory. A classifier's head and weights shared
    with the embedding stay as they are.
    """
    embedded = {p.data_ptr() for m in model.modules() if isinstance(m, nn.Embedding) for p in m.parameters()}
    for name, module in model.named_modules():
        is_cast = isinstance(module, nn.Linear) and name != "score" and module.weight.data_ptr() not in embedded
        if is_cast and dtype == torch.bfloat16:
            module.to(dtype)
