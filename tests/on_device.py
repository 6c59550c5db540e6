"""Tests on another device, by `pytest --device cuda`: what they make is made there, and what the library makes is not.

A tensor that a test makes without naming a device is moved to it. The library's own tensors are left alone, so that one
that it forgets to place is found.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._device import _device_constructors

from accord.engine import trees
from examples.worlds.enumerable import Enumerable

DEVICE = torch.device("cpu")
"""Where tests have their models and tensors."""

OURS = tuple(str(Path(__file__).parents[1] / room) for room in ("tests", "examples"))
MAKERS = {*_device_constructors(), torch.from_numpy}


class Tests(TorchFunctionMode):
    """Within it the tensors that tests make are on the device."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        made = func(*args, **kwargs)
        if func in MAKERS and kwargs.get("device") is None and sys._getframe(1).f_code.co_filename.startswith(OURS):
            return made.detach().to(DEVICE).requires_grad_(made.requires_grad)
        return made


def move_to(device: torch.device) -> None:
    """Let tests have their models, and trees that they lay out, on the device."""
    global DEVICE
    DEVICE = device
    if device.type == "cpu":
        return
    torch.use_deterministic_algorithms(True, warn_only=True)
    for function in (trees.Trees.of, trees.pack):
        function.__defaults__ = (device,)
    new_model = Enumerable.new_model
    Enumerable.new_model = lambda *args, **kwargs: new_model(*args, **kwargs).to(device)  # type: ignore[method-assign]
