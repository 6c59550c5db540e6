"""A frozen base in few bits, under adapters (QLoRA): weights are held as codes and scales, and made anew in each pass.

    nf4:   4 bits stand for one of 16 quantiles of a normal distribution, times the largest weight of a block of 64;
           these scales are in 8 bits themselves (double quantization), 4.13 bits a weight in all
    int8:  w_ij = s_i q_ij with s_i = max_j |w_ij| / 127 and whole q_ij from -127 to 127

nf4 is that of Dettmers et al. 2023 (arXiv:2305.14314, section 3), by bitsandbytes; int8 needs no package. Neither
rounds what it is multiplied with, so that a text's results do not depend on its neighbors, and gradients are exact.
"""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from accord.engine.unread import unread
from accord.errors import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

BLOCK = 64
"""Weights that share a scale in nf4."""


class FewBits(nn.Linear):
    """A frozen linear layer whose weight is held as codes, `qweight`, and the `state` that makes numbers of them.

    The state is that of bitsandbytes, or of int8 the scales (d_out, 1).
    """

    qweight: Tensor

    def __init__(self, qweight: Tensor, state: Any, bias: nn.Parameter | None) -> None:
        nn.Module.__init__(self)
        self.register_buffer("qweight", qweight)
        self.register_parameter("bias", bias)
        self.state, self.dtype = state, torch.float32
        self.out_features, self.in_features = qweight.shape if isinstance(state, Tensor) else state.shape

    @property
    def kind(self) -> str:
        """nf4 or int8; or fp4, which bitsandbytes has besides."""
        return "int8" if isinstance(self.state, Tensor) else str(self.state.quant_type)

    @property
    def nbytes(self) -> int:
        """What its codes and scales take."""
        state = self.state
        scales = (
            [state] if isinstance(state, Tensor) else [state.absmax, *([state.state2.absmax] if state.nested else [])]
        )
        return self.qweight.nbytes + sum(tensor.nbytes for tensor in scales)

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        """The weight (d_out, d_in) in the layer's `dtype`."""
        return self.weight_in(self.dtype)

    def weight_in(self, dtype: torch.dtype) -> Tensor:
        """The weight (d_out, d_in), rounded to `dtype` at the end."""
        if isinstance(self.state, Tensor):
            return self.qweight.to(dtype).mul_(self.state)
        from bitsandbytes.functional import dequantize_4bit

        self.state.dtype = dtype if dtype == torch.bfloat16 else torch.float32
        return dequantize_4bit(self.qweight, self.state).to(dtype)  # type: ignore[no-any-return]

    def forward(self, x: Tensor) -> Tensor:
        device = x.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype
        return _Product.apply(x.to(dtype), self)  # type: ignore[no-any-return, no-untyped-call]

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        """What moves the codes (`to`, `cuda`) moves the state."""
        super()._apply(fn, recurse)
        moved = self.state.to(self.qweight.device)
        self.state = self.state if moved is None else moved
        return self


class _Product(torch.autograd.Function):
    """x W^T + b, and of its gradient g W; W is kept for neither, and made for both."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: FewBits) -> Tensor:
        ctx.layer = layer
        bias = None if layer.bias is None else layer.bias.to(x.dtype)
        return nn.functional.linear(x, layer.weight_in(x.dtype), bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad @ ctx.layer.weight_in(grad.dtype), None


def few_bits(network: nn.Module) -> list[FewBits]:
    """The layers of a network that are held in few bits."""
    return [module for module in network.modules() if isinstance(module, FewBits)]


def quantize(network: PreTrainedModel, kind: str | None, device: str | torch.device | None = None) -> None:
    """Hold the linear layers of a network's trunk in few bits, in place, on the device; embeddings and heads stay.

    Layers that bitsandbytes holds in 4 bits are taken as they are, whatever the `kind` ("nf4", "int8" or none). Weights
    that are in their files still are read one after the other.
    """
    waiting, named = unread(network), {id(module): name for name, module in network.named_modules()}
    for name, module in list(network.base_model.named_modules()):
        layer = _of_bitsandbytes(module)
        if layer is None and kind is not None and type(module) in (nn.Linear, Conv1D):
            weight: Any = module.weight
            if waiting and weight.is_meta:
                weight = waiting.rows(f"{named[id(module)]}.weight", weight)
            weight = weight.T if isinstance(module, Conv1D) else weight
            layer = FewBits(*_codes(weight.detach().to(device).float().contiguous(), kind), module.bias)  # type: ignore
        if layer is not None:
            network.base_model.set_submodule(name, layer.requires_grad_(False))
    if few_bits(network) and getattr(network, "hf_quantizer", None) is not None:
        network.hf_quantizer.remove_quantization_config(network)  # type: ignore


def _codes(weight: Tensor, kind: str) -> tuple[Tensor, Any]:
    if kind == "nf4":
        from bitsandbytes.functional import quantize_4bit

        return quantize_4bit(weight, blocksize=BLOCK, compress_statistics=True, quant_type="nf4")  # type: ignore
    scale = weight.abs().amax(1, keepdim=True) / 127
    return (weight / scale.clamp_min(torch.finfo(torch.float32).tiny)).round().to(torch.int8), scale


def _of_bitsandbytes(module: nn.Module) -> FewBits | None:
    """A layer that bitsandbytes holds in 4 bits, in the form it has here; None where it is another."""
    state: Any = getattr(getattr(module, "weight", None), "quant_state", None)
    if state is None:
        return None
    module.state_dict()  # which undoes the other order of the codes that bitsandbytes takes on some processors
    return FewBits(module.weight.data, module.weight.quant_state, module.bias)  # type: ignore


def keep_order(network: nn.Module) -> None:
    """Have layers of bitsandbytes leave their codes in order where it cannot pack them, as it does on some processors.

    Those with bfloat16 (AVX-512) take 32 rows at a time, and it fails at layers of another number of rows.
    """
    module: Any
    for module in network.modules():
        if getattr(module, "support_avx512bf16_for_cpu", False) and module.out_features % 32:
            module.support_avx512bf16_for_cpu = False


def check(kind: str) -> None:
    """Raise InputError where weights cannot be held so on this machine."""
    if kind == "nf4" and importlib.util.find_spec("bitsandbytes") is None:
        raise InputError("--quantize nf4 needs the quantize extra: pip install bitsandbytes; int8 needs no package.")
    one = torch.eye(BLOCK, device="cuda" if torch.cuda.is_available() else "cpu")  # which both kinds hold as it is
    try:
        torch.testing.assert_close(FewBits(*_codes(one, kind), None).weight, one)
    except Exception as error:  # kernels that were not built for a device fail in any manner
        said = str(error).strip().partition("\n")[0]
        raise InputError(f"--quantize {kind} does not run on this machine's {one.device.type}: {said}") from error
