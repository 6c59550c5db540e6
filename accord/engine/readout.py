"""From hidden states to log-probabilities without ever holding the logits.

A vocabulary of 49,152 entries makes the logits of 1,000 tokens 200 MB, and the usual route holds several copies of
them. Here a chunk of rows at a time goes through the output layer; the backward pass computes each chunk again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from accord.engine.sampling import truncate_

BLOCK = 1 << 26
"""Logits held at once in the precision of the matrix product (elements) ..."""

CHUNK = 1 << 19
"""... and those worked on at once in float32: on a CPU, few enough to stay in its cache."""


@dataclass(frozen=True)
class Readout:
    """The output layer and what an architecture does to logits: `multiplier`, then a soft `cap` where it has one."""

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
        multiplier /= float(getattr(config, "logits_scaling", None) or 1.0)
        return Readout(layer.weight, layer.bias, multiplier, getattr(config, "final_logit_softcapping", None))

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits (rows, V) of a few hidden states (rows, d), in at least float32."""
        weight = self.weight.detach().to(hidden.dtype)
        return self.shape(
            nn.functional.linear(hidden, weight, None if self.bias is None else self.bias.to(hidden.dtype))
        )

    def shape(self, z: Tensor) -> Tensor:
        z = z.float() if z.dtype in (torch.bfloat16, torch.float16) else z
        if self.multiplier != 1.0:
            z = z * self.multiplier
        if self.cap is not None:
            z = self.cap * torch.tanh(z / self.cap)
        return z


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
    """log p(target) and, if asked for, the entropy of p, where p = softmax(logits(hidden) / temperature).

    With `top_k` or `top_p` p is truncated and renormalized as the sampler does it, and a target outside has -inf.

    Args:
        hidden: (N, d) hidden states at the predicting positions.
        target: (N,) token ids.

    Returns:
        log-probabilities (N,) and entropies (N,) in nats (zeros if not asked for), float32 or better. Both carry
        gradients.

    Raises:
        ValueError: the temperature is not positive.
    """
    if temperature <= 0:
        raise ValueError(f"temperature must be positive to have log-probabilities, not {temperature}")
    device = hidden.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype
    settings = (readout, dtype, 1.0 / temperature, top_k, top_p, entropy)
    with torch.autocast(device, enabled=False):
        return _LinearLogProbabilities.apply(hidden, readout.weight, readout.bias, target, settings)  # type: ignore[no-any-return, no-untyped-call]


class _LinearLogProbabilities(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, target: Tensor, settings: tuple[Any, ...]
    ) -> tuple[Tensor, Tensor]:
        readout, dtype, sharpness, top_k, top_p, want_entropy = settings
        operand, states = weight.to(dtype), hidden.to(dtype)
        wide = torch.promote_types(dtype, torch.float32)
        logp, normalizer = hidden.new_empty(len(hidden), dtype=wide), hidden.new_empty(len(hidden), dtype=wide)
        entropy = hidden.new_zeros(len(hidden), dtype=wide)
        for block in _slices(0, len(hidden), BLOCK // len(weight)):
            raw = _raw_logits(states[block], operand, bias)
            for rows in _chunks(block, raw):
                z = _sharpened(readout.shape(raw[rows.start - block.start : rows.stop - block.start]), sharpness)
                truncate_(z, top_k, top_p)
                normalizer[rows] = torch.logsumexp(z, -1)
                logp[rows] = z.gather(1, target[rows, None]).squeeze(1) - normalizer[rows]
                if want_entropy:
                    p = torch.exp(z - normalizer[rows, None])
                    entropy[rows] = normalizer[rows] - (p * z.masked_fill_(p == 0, 0)).sum(-1)
        ctx.save_for_backward(states, operand, bias, target, normalizer, entropy)
        ctx.settings, ctx.types = settings, (hidden.dtype, weight.dtype)
        return logp, entropy

    @staticmethod
    def backward(ctx: Any, grad_logp: Tensor, grad_entropy: Tensor) -> tuple[Tensor | None, ...]:
        states, operand, bias, target, normalizer, entropy = ctx.saved_tensors
        readout, _, sharpness, top_k, top_p, want_entropy = ctx.settings
        hidden_type, weight_type = ctx.types
        needs_hidden, needs_weight, needs_bias = ctx.needs_input_grad[:3]
        grad_hidden = torch.empty_like(states, dtype=hidden_type) if needs_hidden else None
        grad_weight = grad_bias = None
        for block in _slices(0, len(states), BLOCK // len(operand)):
            grads = _raw_logits(states[block], operand, bias)  # logits, overwritten by their gradients
            for rows in _chunks(block, grads):
                part = grads[rows.start - block.start : rows.stop - block.start]
                z = _sharpened(readout.shape(part), sharpness)
                slope = _slope(z, readout, sharpness)
                logp = truncate_(z, top_k, top_p).sub_(normalizer[rows, None])
                p = torch.exp(logp) if want_entropy else logp.exp_()
                pull = grad_logp[rows, None]
                if want_entropy:
                    surprise = logp.masked_fill_(p == 0, 0).add_(entropy[rows, None])
                    g = p.mul_(surprise.mul_(grad_entropy[rows, None]).add_(pull).neg_())
                else:
                    g = p.mul_(-pull)
                g.scatter_add_(1, target[rows, None], pull.to(g.dtype))
                part.copy_(g if slope is None else g * slope)
            if grad_hidden is not None:
                grad_hidden[block] = (grads @ operand).to(hidden_type)
            if needs_weight:
                of_block = grads.T @ states[block]
                grad_weight = of_block.to(weight_type) if grad_weight is None else grad_weight.add_(of_block)
            if needs_bias:
                summed = grads.sum(0, dtype=bias.dtype)
                grad_bias = summed if grad_bias is None else grad_bias + summed
        return grad_hidden, grad_weight, grad_bias, None, None


def _slices(start: int, stop: int, size: int) -> list[slice]:
    return [slice(i, min(i + max(1, size), stop)) for i in range(start, stop, max(1, size))]


def _chunks(block: slice, logits: Tensor) -> list[slice]:
    """The rows of a block, as many at a time as are worked on at once."""
    elements = CHUNK if logits.device.type == "cpu" else BLOCK
    return _slices(block.start, block.stop, elements // logits.shape[1])


def _raw_logits(states: Tensor, operand: Tensor, bias: Tensor | None) -> Tensor:
    return nn.functional.linear(states, operand, None if bias is None else bias.to(operand.dtype))


def _sharpened(z: Tensor, sharpness: float) -> Tensor:
    return z if sharpness == 1.0 else z * sharpness


def _slope(z: Tensor, readout: Readout, sharpness: float) -> Tensor | float | None:
    """d z / d raw logit, from the shaped and sharpened logit z itself; None where it is 1."""
    slope = readout.multiplier * sharpness
    if readout.cap is not None:
        return slope * (1 - (z / (sharpness * readout.cap)) ** 2)
    return None if slope == 1.0 else slope
