"""Low-rank adapters (LoRA): small trained matrices beside a network's own weights, which stay frozen.

    W x + s B A x,  A (r, d_in) drawn and B (d_out, r) from 0,  s = alpha / r, or alpha / sqrt(r) with rsLoRA

Hu et al. 2021 (arXiv:2106.09685), Kalajdzievski 2023 (arXiv:2312.03732); DoRA, which learns the norm of each row of the
sum separately, is Liu et al. 2024 (arXiv:2402.09353). The layers are peft's; plain ones compute their product in one
autograd function. The frozen weights are held in the precision that a pass would cast them to.
"""

from __future__ import annotations

import copy
import types
import warnings
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from accord.console import error_text
from accord.engine.adapters import CONFIG, adapted, peft, read_config, read_lora
from accord.engine.precision import cast_linear
from accord.engine.quantize import FewBits, few_bits, quantize
from accord.engine.unread import stood_in_for, unread
from accord.errors import InputError, nearest

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from accord.engine.config import TrainingConfig
    from accord.engine.models import AnyModel

READ_DIRECTLY = {
    "falcon_h1": {"out_proj"}, "falcon_mamba": {"dt_proj", "out_proj"}, "jamba": {"dt_proj"}, "mamba2": {"out_proj"},
    "longcat_flash": {"classifier"}, "mamba": {"dt_proj", "out_proj"}, "nemotron_h": {"out_proj"},
}  # fmt: skip
"""By model_type, linear layers whose weight their code, or a fast kernel, reads directly, without an adapter's part."""


def adapt(model: AnyModel, config: TrainingConfig) -> AnyModel:
    """Add adapters to the model's network as the settings say, in place, and return the model; with lora_rank 0 none.

    A classifier's head is trained in full. B starts at 0, so the model's outputs are unchanged.

    Raises InputError where peft is missing, a target is not a linear layer, or the network has adapters of another
    rank.
    """
    network = model.network
    if adapted(network) and network._adapter.r != config.lora_rank:  # type: ignore[union-attr]
        rank = network._adapter.r  # type: ignore[union-attr]
        raise InputError(
            f"{model.name} has adapters of rank {rank} in memory, and lora_rank is {config.lora_rank}: give rank "
            f"{rank} to train these further, or the model's folder in place of the model."
        )
    if not config.lora_rank:
        return model
    if not adapted(network):
        quantize(network, config.quantize)
    quantized = few_bits(network)
    if config.quantize and {layer.kind for layer in quantized} != {config.quantize}:
        kind = quantized[0].kind if quantized else "full"
        raise InputError(f"{model.name} is held in {kind}: leave quantize out, or give the model it was made from.")
    if adapted(network):
        return model
    for layer in quantized:
        layer.dtype = model.dtype
    lora = _peft_config(model, config)
    head = getattr(network, "score", None)
    weights = torch.promote_types(next(network.parameters()).dtype, torch.float32)
    cast_linear(network, model.dtype)
    layers = copy.copy(lora)
    layers.modules_to_save = None  # the head is trained directly; peft would keep a copy of the old one
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings(), stood_in_for(network):
        warnings.simplefilter("ignore")
        torch.manual_seed(config.seed)
        try:
            peft().inject_adapter_in_model(layers, network)
        except ValueError as error:
            raise InputError(f"{model.name} takes no adapters in lora_targets: {error_text(error)}") from error
    fuse_adapters(network)
    for name, parameter in network.named_parameters():
        if "lora_" in name:
            parameter.data = parameter.data.to(weights)
    if config.lora_dora:
        _set_magnitudes(network, weights)
    if head is not None:
        head.requires_grad_(True)
    network._adapter = lora  # type: ignore[assignment]
    return model


def _peft_config(model: AnyModel, config: TrainingConfig) -> Any:
    """The settings as peft's LoraConfig."""
    network = model.network
    return peft().LoraConfig(
        r=config.lora_rank,
        lora_alpha=2 * config.lora_rank if config.lora_alpha is None else config.lora_alpha,
        target_modules=targets(network, config.lora_targets),
        use_rslora=config.lora_rslora,
        use_dora=config.lora_dora,
        init_lora_weights=True if config.lora_init == "kaiming" else config.lora_init,
        modules_to_save=["score"] if hasattr(network, "score") else None,
        task_type="SEQ_CLS" if hasattr(network, "score") else "CAUSAL_LM",
        base_model_name_or_path=_base(network, model.name, config.lora_dora),
    )


def _set_magnitudes(network: nn.Module, dtype: torch.dtype) -> None:
    """Initialize DoRA's magnitudes to the row norms that peft computes in every pass; peft's own initial ones are
    rounded to the precision of the weights."""
    layers: Any = network.named_modules()
    waiting = unread(network)
    for name, layer in ((n, layer) for n, layer in layers if getattr(layer, "lora_magnitude_vector", None)):
        weight = layer.get_base_layer().weight
        if waiting and weight.is_meta:
            weight = waiting.rows(f"{name}.weight", weight)
        weight = weight.to(dtype)
        lengths = torch.linalg.norm(weight.T if layer.fan_in_fan_out else weight, dim=1)
        layer.lora_magnitude_vector["default"].weight.data = lengths


def _base(network: nn.Module, name: str, dora: bool) -> str:
    """The model that the adapters are for, or where an adapter was merged into it, that adapter's base."""
    start = getattr(network, "_merged", None)
    if start is None:
        source = getattr(network, "name_or_path", "") or name
        return str(Path(source).resolve()) if Path(source).exists() else source
    if dora:
        raise InputError(f"{start} holds an adapter that DoRA cannot be added to: merge it first (accord merge).")
    read_lora(start)
    base = Path(str(read_config(start)["base_model_name_or_path"]))
    if (base / CONFIG).exists():
        raise InputError(f"{start} holds an adapter of an adapter, {base}: merge it first (accord merge).")
    return str(base.resolve() if base.exists() else base)


def targets(network: PreTrainedModel, wanted: str | None) -> list[str]:
    """The last names of the trunk's linear layers, by which peft finds them: all that adapters fit, or those in
    `wanted`, separated by commas.

    Raises InputError where a wanted one is no linear layer, does nothing with an adapter, or has a weight that several
    share, as in Zamba: merging would add the adapters of all to it.
    """
    named = [(name.rsplit(".", 1)[-1], module) for name, module in network.base_model.named_modules()]
    layers = [(last, module) for last, module in named if isinstance(module, nn.Linear | Conv1D)]
    linear = {last for last, _ in layers}
    linear -= {last for last, module in named if not isinstance(module, nn.Linear | Conv1D) or _is_special(module)}
    uses = Counter(_weight_of(module) for _, module in layers)
    shared = linear & {last for last, module in layers if uses[_weight_of(module)] > 1}
    fit = sorted(linear - shared - READ_DIRECTLY.get(network.config.model_type, set()))
    names = fit if wanted is None else [name.strip() for name in wanted.split(",")]
    for name in names:
        if name not in linear:
            raise InputError(
                f"lora_targets: adapters go into linear layers of the trunk ({', '.join(fit)}; by default all), and "
                f"{name!r} is not one{nearest(name, fit) or '.'}"
            )
        if name not in fit:
            why = "layers share the weights" if name in shared else "the architecture reads the weights directly"
            raise InputError(f"lora_targets: {name!r} takes no adapters, as {why}: choose among {', '.join(fit)}.")
    return names


def _weight_of(layer: Any) -> int:
    """The identity of a linear layer's weight."""
    return id(layer.qweight if isinstance(layer, FewBits) else layer.weight)


def _is_special(layer: nn.Module) -> bool:
    """Whether an architecture's own linear layer computes something other than W x, as in DeepSeek V4 and Llama 4's
    router. Falcon's computes the same.
    """
    kind = type(layer)
    is_own = isinstance(layer, nn.Linear) and kind.__module__.startswith("transformers.models.")
    return is_own and kind.forward is not nn.Linear.forward and kind.__name__ != "FalconLinear"


class LowRankLinear(torch.autograd.Function):
    """y = x W^T + b + s (x A^T) B^T, with frozen W (o, d) and b (o,), A (r, d) and B (o, r).

    With g = dL/dy, h = x A^T and k = s g B:

        dx = g W + k A          dA = k^T x          dB = s g^T h

    peft's layer casts x to the precision of A and back, keeps each copy, and adds three matrices of the size of y. Here
    only x, which the other layers with this input keep too, and h are kept, and products accumulate in place.
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
    """Have every plain LoRA of a frozen linear layer computed by `LowRankLinear`; others stay peft's (DoRA,
    quantized)."""
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
