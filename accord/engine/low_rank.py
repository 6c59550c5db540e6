"""The pass through a linear layer with an adapter, as one function that keeps of its input one copy alone."""

from __future__ import annotations

import types
from typing import Any

import torch
from torch import Tensor, nn


class LowRankLinear(torch.autograd.Function):
    """y = x W^T + b + s (x A^T) B^T, of a frozen W (o, d), A (r, d) and B (o, r).

    With g = dL/dy, h = x A^T and k = s g B:

        dx = g W + k A          dA = k^T x          dB = s g^T h

    peft's layer casts x to the precision of A and back, keeps each of the copies, and adds three matrices of the size
    of y. Here x, which the layers beside it keep too, and h are kept, and products are added where they belong.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, down: Tensor, up: Tensor, s: float) -> Tensor:
        dtype, device = x.dtype, x.device.type
        if torch.is_autocast_enabled(device):
            dtype = torch.get_autocast_dtype(device)
        x, w, a, b = (tensor.to(dtype) for tensor in (x, weight, down, up))
        x_Td = x.reshape(-1, x.shape[-1])
        h_Tr = x_Td @ a.T
        y = nn.functional.linear(x, w, None if bias is None else bias.to(dtype))
        y.view(-1, y.shape[-1]).addmm_(h_Tr, b.T, alpha=s)
        ctx.save_for_backward(x, w, a, b, h_Tr)
        ctx.scale, ctx.types = s, (down.dtype, up.dtype)
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, w, a, b, h_Tr = ctx.saved_tensors
        g_To = grad.to(w.dtype).reshape(-1, grad.shape[-1])
        k_Tr = (g_To @ b).mul_(ctx.scale)
        grad_x = None
        if ctx.needs_input_grad[0]:
            grad_x = (g_To @ w).addmm_(k_Tr, a).view(x.shape)
        grad_down = (k_Tr.T @ x.reshape(-1, x.shape[-1])).to(ctx.types[0])
        grad_up = (g_To.T @ h_Tr).mul_(ctx.scale).to(ctx.types[1])
        return grad_x, None, None, grad_down, grad_up, None


def fuse_adapters(network: nn.Module) -> None:
    """Have every plain LoRA of a frozen linear layer computed as one function; others stay peft's (DoRA, quantized)."""
    for layer in network.modules():
        if _is_plain(layer):
            layer.forward = types.MethodType(_forward, layer)  # type: ignore[method-assign]


def _is_plain(layer: Any) -> bool:
    from peft.tuners.lora.layer import Linear

    if not isinstance(layer, Linear) or list(layer.lora_A) != ["default"] or layer.lora_variant or layer.fan_in_fan_out:
        return False
    is_plain = type(layer) is Linear and type(layer.base_layer) is nn.Linear and layer.lora_A["default"].bias is None
    return is_plain and isinstance(layer.lora_dropout["default"], nn.Identity)


def _forward(self: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    base, down, up = self.base_layer, self.lora_A["default"].weight, self.lora_B["default"].weight
    if self.disable_adapters or self.merged or base.weight.requires_grad:
        return type(self).forward(self, x, *args, **kwargs)  # type: ignore[no-any-return]
    scale = self.scaling["default"]
    return LowRankLinear.apply(x, base.weight, base.bias, down, up, scale)  # type: ignore[no-any-return, no-untyped-call]
