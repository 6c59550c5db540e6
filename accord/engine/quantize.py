"""A frozen base model in few bits under adapters (QLoRA): weights are held as codes and scales, dequantized in each
pass.

    nf4:   a 4-bit code for one of 16 quantiles of a normal distribution, times the largest weight of a block of 64;
           these scales are themselves in 8 bits (double quantization): 4.13 bits a weight in all
    int8:  w_ij = s_i q_ij with s_i = max_j |w_ij| / 127 and whole q_ij from -127 to 127

nf4 is that of Dettmers et al. 2023 (arXiv:2305.14314, section 3), by bitsandbytes; int8 needs no package. Neither
quantizes activations, so that a text's results do not depend on its batch, and gradients are exact.
"""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from accord.console import quiet_log
from accord.engine.unread import unread
from accord.errors import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

INDEXER = "weights_proj"
"""A layer of sparse attention (DeepSeek V3.2, GLM 5, HY 4), to whose weight's precision its input is cast; under an
adapter peft would say that of the codes."""

BLOCK = 64
"""Weights per scale in nf4."""


class FewBits(nn.Linear):
    """A frozen linear layer whose weight is held as codes, `qweight`, with the `state` needed to dequantize them.

    The state is bitsandbytes', or for int8 the scales (d_out, 1).
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
        """nf4 or int8; or fp4, which bitsandbytes also has."""
        return "int8" if isinstance(self.state, Tensor) else str(self.state.quant_type)

    @property
    def nbytes(self) -> int:
        """Bytes of its codes and scales."""
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
        """Move the state together with the codes (`to`, `cuda`)."""
        super()._apply(fn, recurse)
        self.move_state()
        return self

    def move_state(self) -> None:
        """Move the state to the device of the codes."""
        moved = self.state.to(self.qweight.device)
        self.state = self.state if moved is None else moved


class _Product(torch.autograd.Function):
    """x W^T + b, with gradient g W; W is dequantized in both passes and never kept."""

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
    """Quantize the linear layers of a network's trunk, in place, on the device; embeddings and heads keep their
    precision, and so do layers that the architecture asks to keep in float32, such as those of `INDEXER`.

    Layers already in 4 bits by bitsandbytes are converted as they are, whatever the `kind` ("nf4", "int8" or None).
    Weights still in their files are read one at a time.
    """
    kept = {INDEXER, *(getattr(network, "_keep_in_fp32_modules", None) or ())}
    codes: dict[int, tuple[Tensor, Any]] = {}  # of each weight, which layers may share
    waiting, named = unread(network), {id(module): name for name, module in network.named_modules()}
    for name, module in list(network.base_model.named_modules()):
        layer = _of_bitsandbytes(module)
        is_kept = any(f".{part}." in f".{name}." for part in kept)
        if layer is None and kind is not None and type(module) in (nn.Linear, Conv1D) and not is_kept:
            weight: Any = module.weight
            own = id(weight)
            if own not in codes:
                if waiting and weight.is_meta:
                    weight = waiting.rows(f"{named[id(module)]}.weight", weight)
                weight = weight.T if isinstance(module, Conv1D) else weight
                codes[own] = _codes(weight.detach().to(device).float().contiguous(), kind)
            layer = FewBits(*codes[own], module.bias)  # type: ignore[arg-type]
        if layer is not None:
            network.base_model.set_submodule(name, layer.requires_grad_(False))
    if few_bits(network) and getattr(network, "hf_quantizer", None) is not None:
        network.hf_quantizer.remove_quantization_config(network)  # type: ignore


def _codes(weight: Tensor, kind: str) -> tuple[Tensor, Any]:
    if kind == "nf4":
        with quiet_log("bitsandbytes"):
            from bitsandbytes.functional import quantize_4bit

        return quantize_4bit(weight, blocksize=BLOCK, compress_statistics=True, quant_type="nf4")  # type: ignore
    scale = weight.abs().amax(1, keepdim=True) / 127
    return (weight / scale.clamp_min(torch.finfo(torch.float32).tiny)).round().to(torch.int8), scale


def _of_bitsandbytes(module: nn.Module) -> FewBits | None:
    """A 4-bit layer of bitsandbytes as a `FewBits`; None for other modules."""
    state: Any = getattr(getattr(module, "weight", None), "quant_state", None)
    if state is None:
        return None
    module.state_dict()  # undoes the packing that bitsandbytes uses on some processors
    return FewBits(module.weight.data, module.weight.quant_state, module.bias)  # type: ignore


def keep_order(network: nn.Module) -> None:
    """Keep bitsandbytes from repacking the codes of layers where its packing would fail.

    On processors with bfloat16 (AVX-512) it packs 32 rows at a time, and fails at layers with another number of rows.
    """
    module: Any
    for module in network.modules():
        if getattr(module, "support_avx512bf16_for_cpu", False) and module.out_features % 32:
            module.support_avx512bf16_for_cpu = False


def check(kind: str) -> None:
    """Raise InputError where this kind of quantization does not run on this machine."""
    if kind == "nf4" and importlib.util.find_spec("bitsandbytes") is None:
        raise InputError("--quantize nf4 needs the quantize extra: pip install bitsandbytes; int8 needs no package.")
    one = torch.eye(BLOCK, device="cuda" if torch.cuda.is_available() else "cpu")  # both kinds hold it exactly
    try:
        torch.testing.assert_close(FewBits(*_codes(one, kind), None).weight, one)
    except Exception as error:  # kernels not built for the device may raise anything
        message = str(error).strip().partition("\n")[0]
        raise InputError(f"--quantize {kind} does not run on this machine's {one.device.type}: {message}") from error
