"""A CUDA graph where there is none: a step's operations, repeated on the same tensors with the same numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

aten = torch.ops.aten
WAITS = (aten._local_scalar_dense.default, aten.nonzero.default, aten.masked_select.default, aten._unique2.default)


class Recorder(TorchDispatchMode):
    """Keeps the operations within it; refuses what cannot be recorded: copies between devices, and waiting for a
    GPU's numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, Any, Any, Any]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        devices = {x.device.type for x in tensors(args, kwargs, result) if x.dim()}
        waits = func in WAITS and any(x.device.type == "cuda" for x in tensors(args))
        if len(devices) > 1 or waits:
            raise RuntimeError(f"{func}: operation not permitted when stream is capturing")
        self.calls.append((func, args, kwargs or {}, result))
        return result

    def repeat(self) -> None:
        """Every operation again; results come to lie where they lay."""
        for func, args, kwargs, result in self.calls:
            read = {x.untyped_storage().data_ptr() for x in tensors(args, kwargs)}
            written = [x for x in tensors(result) if x.untyped_storage().data_ptr() not in read]
            if func._schema.is_mutable:
                func(*args, **kwargs)
            elif written:  # else a view
                for old, new in zip(written, tensors(func(*args, **kwargs)), strict=True):
                    old.copy_(new)


def tensors(*values: Any) -> list[Tensor]:
    return [x for x in tree_leaves(values) if isinstance(x, Tensor)]


def record(step: Callable[[], Tensor]) -> Callable[[], Tensor]:
    """As `accord.engine.cuda_graphs.record`."""
    with Recorder() as recorder:
        result = step()

    def replay() -> Tensor:
        recorder.repeat()
        return result

    return replay
