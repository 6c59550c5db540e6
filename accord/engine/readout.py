"""Log-probabilities from hidden states without ever holding the logits.

With a vocabulary of 49,152, the logits of 1,000 tokens take 200 MB, and the usual route holds several copies. Here the
output layer is applied to a chunk of rows at a time, and the backward pass recomputes each chunk.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from accord.engine.sampling import truncate_

BLOCK = 1 << 26
"""Elements of the logits (B, V) held at once in the precision of the matrix product ..."""

CHUNK = 1 << 19
"""... and of those (R, V) processed at once in float32: on a CPU few enough to stay in its cache."""


@dataclass(frozen=True)
class Readout:
    """The output layer and an architecture's transform of its logits: `multiplier`, then a soft `cap` where it has
    one."""

    weight: Tensor
    bias: Tensor | None
    multiplier: float = 1.0
    cap: float | None = None

    @staticmethod
    def of(model: nn.Module) -> Readout:
        """The output layer of a causal language model of transformers."""
        layer, config = model.get_output_embeddings(), model.config.get_text_config()  # type: ignore[operator, union-attr]
        multiplier = float(getattr(config, "logit_scale", None) or 1.0)
        multiplier *= float(getattr(config, "lm_head_multiplier", None) or 1.0)
        for divisor in ("logits_scaling", "logits_mup_width_multiplier"):
            multiplier /= float(getattr(config, divisor, None) or 1.0)
        caps = ("final_logit_softcapping", "logits_soft_cap", "output_logit_soft_cap")
        cap = next((value for name in caps if (value := getattr(config, name, None))), None)
        weight, bias, rows = layer.weight, layer.bias, getattr(config, "unpadded_vocab_size", None)
        if rows and rows < len(weight):
            weight, bias = weight[:rows], None if bias is None else bias[:rows]
        return Readout(weight, bias, multiplier, cap)

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits (rows, V) of a few hidden states (rows, d), in float32 or better."""
        return self.shape(_raw_logits(hidden.to(self.weight.dtype), self.weight.detach(), self.bias))

    def cast(self) -> Readout:
        """A copy with the weight cast once for all tokens, since autocast does not cache casts of tied weights."""
        device = self.weight.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else self.weight.dtype
        return replace(self, weight=self.weight.detach().to(dtype))

    def shape(self, z: Tensor, sharpness: float = 1.0) -> Tensor:
        """f(z) / T: the architecture's transform f of raw logits, times `sharpness` = 1 / T, in float32 or better."""
        z = z.float() if z.dtype in (torch.bfloat16, torch.float16) else z
        if self.multiplier != 1.0:
            z = z * self.multiplier
        if self.cap is not None:
            z = self.cap * torch.tanh(z / self.cap)
        return z if sharpness == 1.0 else z * sharpness

    def slope(self, z: Tensor, sharpness: float) -> Tensor | float | None:
        """f'(x) / T from z = f(x) / T; None where it is 1.

        With sharpness s = 1/T, multiplier m and cap c, z = s c tanh(m x / c), and since tanh' = 1 - tanh^2 the
        derivative is s m (1 - (z / (s c))^2).
        """
        slope = self.multiplier * sharpness
        if self.cap is not None:
            return slope * (1 - (z / (sharpness * self.cap)) ** 2)
        return None if slope == 1.0 else slope


def linear_log_probabilities(
    hidden: Tensor,
    readout: Readout,
    target: Tensor,
    *,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    entropy: bool = False,
) -> tuple[Tensor, Tensor]:
    """log p(target), (N,), and the entropy of p, (N,), in nats, where p = softmax(logits(hidden) / temperature).

    `hidden` (N, d) are the states at the predicting positions, `target` (N,) token ids. With `top_k` or `top_p`, p is
    truncated and renormalized as in sampling, and a target outside gets -inf. Entropies are zeros unless asked for.
    Both are float32 or better and carry gradients.

    Raises ValueError where the temperature is not positive.
    """
    if temperature <= 0:
        raise ValueError(f"temperature must be positive to have log-probabilities, not {temperature}")
    device = hidden.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype
    settings = (readout, dtype, 1.0 / temperature, top_k, top_p, entropy)
    with torch.autocast(device, enabled=False):
        return _LinearLogProbabilities.apply(hidden, readout.weight, readout.bias, target, settings)  # type: ignore[no-any-return, no-untyped-call]


class _LinearLogProbabilities(torch.autograd.Function):
    """log p_y and the entropy H of p = softmax(z), z = f(x) / T, with raw logits x = h W^T + b, a chunk of rows at a
    time.

    f is the readout's `shape`, y the target, n = logsumexp(z), H = n - sum_v p_v z_v. With incoming gradients a of log
    p_y and e of H:

        d log p_y / dz_v = [v = y] - p_v
        dH / dz_v        = -p_v (log p_v + H)
        g_v = dL / dz_v  = a [v = y] - p_v (a + e (log p_v + H))
        dL / dx_v        = g_v f'(x_v) / T

    and from there the linear layer's gradients: dh = dx W, dW = dx^T h, db = sum over rows of dx. A truncated entry has
    z = -inf, so p = 0 and g = 0. Saved besides h and W are only n and H, two numbers a row; x and z are recomputed. In
    float32 with f and T the identity, z is a view of x, so the in-place operations overwrite x.
    """

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, target: Tensor, settings: tuple[Any, ...]
    ) -> tuple[Tensor, Tensor]:
        readout, dtype, sharpness, top_k, top_p, want_entropy = settings
        weight_Vd, hidden_Nd = weight.to(dtype), hidden.to(dtype)
        wide = torch.promote_types(dtype, torch.float32)
        logp_N, normalizer_N, entropy_N = (hidden.new_zeros(len(hidden), dtype=wide) for _ in range(3))
        for block in _slices(0, len(hidden), BLOCK // len(weight)):
            for rows, raw_RV in _chunks(block, _raw_logits(hidden_Nd[block], weight_Vd, bias)):
                z_RV = truncate_(readout.shape(raw_RV, sharpness), top_k, top_p)
                normalizer_N[rows] = torch.logsumexp(z_RV, -1)
                logp_N[rows] = z_RV.gather(1, target[rows, None]).squeeze(1) - normalizer_N[rows]
                if want_entropy:
                    p_RV = torch.exp(z_RV - normalizer_N[rows, None])
                    entropy_N[rows] = normalizer_N[rows] - (p_RV * z_RV.masked_fill_(p_RV == 0, 0)).sum(-1)
        ctx.save_for_backward(hidden_Nd, weight_Vd, bias, target, normalizer_N, entropy_N)
        ctx.settings, ctx.types = settings, (hidden.dtype, weight.dtype)
        return logp_N, entropy_N

    @staticmethod
    def backward(ctx: Any, grad_logp_N: Tensor, grad_entropy_N: Tensor) -> tuple[Tensor | None, ...]:
        hidden_Nd, weight_Vd, bias, target, normalizer_N, entropy_N = ctx.saved_tensors
        readout, _, sharpness, top_k, top_p, want_entropy = ctx.settings
        hidden_type, weight_type = ctx.types
        needs_hidden, needs_weight, needs_bias = ctx.needs_input_grad[:3]
        grad_hidden = torch.empty_like(hidden_Nd, dtype=hidden_type) if needs_hidden else None
        grad_weight = grad_bias = None
        for block in _slices(0, len(hidden_Nd), BLOCK // len(weight_Vd)):
            x_BV = _raw_logits(hidden_Nd[block], weight_Vd, bias)  # overwritten, chunk by chunk, by dL / dx
            for rows, x_RV in _chunks(block, x_BV):
                z_RV = readout.shape(x_RV, sharpness)
                slope = readout.slope(z_RV, sharpness)
                logp_RV = truncate_(z_RV, top_k, top_p).sub_(normalizer_N[rows, None])
                p_RV = torch.exp(logp_RV) if want_entropy else logp_RV.exp_()
                a_R1 = grad_logp_N[rows, None]
                if want_entropy:  # -p (a + e (log p + H)), with log p set to 0 where p = 0
                    surplus_RV = logp_RV.masked_fill_(p_RV == 0, 0).add_(entropy_N[rows, None])
                    g_RV = p_RV.mul_(surplus_RV.mul_(grad_entropy_N[rows, None]).add_(a_R1).neg_())
                else:
                    g_RV = p_RV.mul_(-a_R1)
                g_RV.scatter_add_(1, target[rows, None], a_R1.to(g_RV.dtype))  # + a [v = y]
                x_RV.copy_(g_RV if slope is None else g_RV * slope)
            if grad_hidden is not None:
                grad_hidden[block] = (x_BV @ weight_Vd).to(hidden_type)
            if needs_weight:
                of_block = x_BV.T @ hidden_Nd[block]
                grad_weight = of_block.to(weight_type) if grad_weight is None else grad_weight.add_(of_block)
            if needs_bias:
                summed = x_BV.sum(0, dtype=bias.dtype)
                grad_bias = summed if grad_bias is None else grad_bias + summed
        return grad_hidden, grad_weight, grad_bias, None, None


def _slices(start: int, stop: int, size: int) -> list[slice]:
    return [slice(i, min(i + max(1, size), stop)) for i in range(start, stop, max(1, size))]


def _chunks(block: slice, logits: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """The slices of a block's rows that are processed at once, each with its part of the block's logits."""
    elements = CHUNK if logits.device.type == "cpu" else BLOCK
    for rows in _slices(block.start, block.stop, elements // logits.shape[1]):
        yield rows, logits[rows.start - block.start : rows.stop - block.start]


def _raw_logits(hidden: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return nn.functional.linear(hidden, weight, None if bias is None else bias.to(weight.dtype))
