"""Direct logit attribution: the residual stream as a sum, and what each term contributes to a token's logit.

A transformer's layers add to one vector per token, the residual stream, which the last norm and the output layer read.
It is the embedding plus the outputs of every attention and MLP, and once the norm's scale is known a logit is a sum
over the same terms (Elhage et al. 2021, A Mathematical Framework for Transformer Circuits). An attention's output is in
turn a sum over heads and attended tokens, of a weight times a value.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import torch
from torch import Tensor, nn

from accord.engine.generate import evaluating
from accord.engine.inside import AttentionRecorder, norm_after, plain_attention
from accord.engine.readout import Readout

ROUNDING = 64
"""Tolerance when comparing two computations of one sum, in units of rounding of its largest number."""


@dataclass(frozen=True)
class LastNorm:
    """The norm before the output layer, linearized at one position: norm(x) = map(x) + bias.

    `map(c) = gain * (c - mean(c))` for a layer norm, `gain * c` for an RMS norm; `gain` includes the position's scale.
    """

    gain: Tensor
    bias: Tensor
    centers: bool

    def __call__(self, parts: Tensor) -> Tensor:
        """The map of each of the parts, (..., d)."""
        return self.gain * (parts - parts.mean(-1, keepdim=True) if self.centers else parts)

    @staticmethod
    def at(norm: Callable[[Tensor], Tensor], x: Tensor) -> LastNorm | None:
        """The map at the state x (d,), found by applying the norm to four vectors; None where it is neither norm.

        norm(0) is the bias; norm(1, ..., 1) equals it too if means are subtracted; alternating +1 and -1 has mean 0 and
        length sqrt(d), so it gives the gains except for x's own scale, which norm(x) then gives.
        """
        alternating = torch.ones_like(x)
        alternating[1::2] = -1
        bias, ones, signs, out = norm(torch.stack([x * 0, x * 0 + 1, alternating, x]))
        centers = bool((ones - bias).abs().max() < 1e-3 * (signs - bias).abs().max())
        unscaled = LastNorm((signs - bias) * alternating, bias, centers)(x)
        scale = ((out - bias) @ unscaled) / (unscaled @ unscaled)  # least squares
        linear = LastNorm((signs - bias) * alternating * scale, bias, centers)
        single = torch.finfo(torch.float32).eps  # transformers' RMS norms always compute in float32
        is_linear = (linear(x) + bias - out).abs().max() <= ROUNDING * single * out.abs().max()
        return linear if bool(is_linear) else None


@dataclass(frozen=True)
class Mixing:
    """How a layer's heads write to the residual stream: weight times value, through the head's part of the output
    projection.

    Attributes:
        weights: (H, T, T) how much query i attends to key j.
        values: (H, T, E) the values.
        output: the linear layer from the concatenated heads (H * E) to the residual stream.
        scale: the architecture's residual multiplier.
    """

    weights: Tensor
    values: Tensor
    output: nn.Module
    scale: float = 1.0

    @torch.no_grad()
    def added(self, head: int, position: int) -> Tensor:
        """(T, d) what a head adds at a position from each token: `weights[h, i, j] * values[h, j]` projected."""
        heads, size, width = self.values.shape
        placed = self.values.new_zeros(size, heads, width)
        placed[:, head] = self.weights[head, position, :, None] * self.values[head]
        return self.scale * (self._projected(placed) - self._projected(placed[:1] * 0)).cpu()

    @torch.no_grad()
    def bias(self) -> Tensor:
        """(d,) the projection's bias."""
        return self.scale * self._projected(self.values.new_zeros(1, *self.values.shape[::2])).squeeze(0).cpu()

    def _projected(self, placed: Tensor) -> Tensor:
        return self.output(placed.flatten(1)[None])[0]  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Stream:
    """The residual stream of T tokens of width d through L layers, on the CPU; `final` is `embedding + layers.sum(0)`.

    Attributes:
        embedding: (T, d) the input of the first layer.
        layers: (L, T, d) what each layer adds.
        attention, mlp: (L, T, d) the parts of it from attention and MLP; None where layers are not sums of two parts.
        final: (T, d) the input of the last norm.
        mixing: for every layer how its heads write; empty where that could not be observed.
        norm, readout: the last norm and the output layer.
    """

    embedding: Tensor
    layers: Tensor
    attention: Tensor | None
    mlp: Tensor | None
    final: Tensor
    mixing: tuple[Mixing, ...]
    norm: Callable[[Tensor], Tensor]
    readout: Readout

    @torch.no_grad()
    def last_norm(self, position: int) -> LastNorm | None:
        """The last norm, linearized at a position; None where it is neither a layer norm nor an RMS norm."""
        return LastNorm.at(lambda x: self.norm(x.to(self.readout.weight)).to(x), self.final[position])

    @torch.no_grad()
    def raised(self, parts: Tensor, norm: LastNorm) -> Tensor:
        """(n, V) how much each of the parts (n, d) raises every token's logit above the mean over tokens.

        `m (map(c) . (u_v - mean u))` with u_v the rows of the output layer and m its multiplier, before any soft cap. A
        shift of all logits does not matter, so the mean is subtracted.
        """
        weight = self.readout.weight.detach().to(parts)
        logits = self.readout.multiplier * (norm(parts) @ weight.T)
        return logits - logits.mean(-1, keepdim=True)

    @torch.no_grad()
    def toward(self, token: int, position: int) -> Attribution | None:
        """What each part contributes to a token's logit at a position; None where the last norm cannot be
        linearized."""
        norm = self.last_norm(position)
        if norm is None:
            return None
        weight = self.readout.weight.detach().to(self.final)
        toward = self.readout.multiplier * (weight[token] - weight.mean(0))
        constant = norm.bias @ toward
        if self.readout.bias is not None:
            offset = self.readout.bias.detach().to(self.final)
            constant = constant + self.readout.multiplier * (offset[token] - offset.mean())

        def of(parts: Tensor | None) -> Tensor | None:
            return None if parts is None else norm(parts[..., position, :]) @ toward

        attention, mlp, layers = of(self.attention), of(self.mlp), of(self.layers)
        assert layers is not None
        embedding = norm(self.embedding[position]) @ toward
        return Attribution(embedding, layers, attention, mlp, constant)


@dataclass(frozen=True)
class Attribution:
    """How much parts raise one token's logit above the mean over tokens: `total` is the logit minus the mean logit.

    Attributes:
        embedding: () of the embedding.
        layers: (L,) of each layer, and
        attention, mlp: (L,) of its attention and its MLP; None where these cannot be separated.
        constant: () of the biases of the last norm and the output layer.
    """

    embedding: Tensor
    layers: Tensor
    attention: Tensor | None
    mlp: Tensor | None
    constant: Tensor

    @property
    def total(self) -> Tensor:
        return self.embedding + self.layers.sum() + self.constant


@torch.no_grad()
def trace(network: nn.Module, tokens: Sequence[int]) -> Stream | None:
    """Read the tokens once and record what every part of the model adds; None where it has no list of layers.

    Raises ValueError where there are no tokens.
    """
    if not tokens:
        raise ValueError("there are no tokens to read")
    model: Any = network
    stack = _layers(model)
    if stack is None:
        return None
    scale = float(getattr(model.config.get_text_config(), "residual_multiplier", None) or 1.0)
    ids = torch.tensor([tuple(tokens)], device=model.device)
    with ExitStack() as within:
        for context in (evaluating(model), plain_attention(model)):
            within.enter_context(context)
        norm_of, seen = within.enter_context(norm_after(model)), within.enter_context(AttentionRecorder())
        watched = [_Layer(layer, seen, scale) for layer in stack]
        for each in watched:
            within.callback(each.leave)
        out = model.base_model(input_ids=ids, use_cache=False)
    return Stream(
        embedding=watched[0].before.cpu(),
        layers=torch.stack([layer.after - layer.before for layer in watched]).cpu(),
        attention=_stacked([layer.parts and layer.parts[0] for layer in watched]),
        mlp=_stacked([layer.parts and layer.parts[1] for layer in watched]),
        final=watched[-1].after.cpu(),
        mixing=tuple(layer.mixing for layer in watched if layer.mixing is not None),
        norm=norm_of(out.last_hidden_state),
        readout=Readout.of(model),
    )


def _layers(model: Any) -> nn.ModuleList | None:
    """The list of layers: the trunk's first list with the configured number of layers."""
    count = model.config.get_text_config().num_hidden_layers
    lists = (part for part in model.base_model.modules() if isinstance(part, nn.ModuleList) and len(part) == count)
    return next(lists, None)


def _stacked(parts: list[Tensor | None]) -> Tensor | None:
    known = [part for part in parts if part is not None]
    return torch.stack(known).cpu() if len(known) == len(parts) else None


@dataclass
class _Layer:
    """One layer's computation, recorded by hooks: its input, the outputs of its parts, and its output."""

    layer: nn.Module
    seen: AttentionRecorder
    scale: float
    before: Tensor = field(init=False)
    after: Tensor = field(init=False)
    parts: tuple[Tensor, Tensor] | None = None
    mixing: Mixing | None = None

    def __post_init__(self) -> None:
        self._outputs: list[tuple[nn.Module, Tensor]] = []
        self._inputs: list[tuple[nn.Module, Tensor]] = []
        self._weighed = 0
        self._hooks = [
            self.layer.register_forward_pre_hook(self._begin, with_kwargs=True),
            self.layer.register_forward_hook(self._end),
            *(child.register_forward_hook(self._note) for child in self.layer.children()),
            *(
                leaf.register_forward_pre_hook(self._read)
                for leaf in self.layer.modules()
                if not any(True for _ in leaf.children())
            ),
        ]

    def leave(self) -> None:
        for hook in self._hooks:
            hook.remove()

    def _begin(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        self.before = (args[0] if args else kwargs["hidden_states"])[0]
        self._weighed = len(self.seen.weighed)

    def _note(self, module: nn.Module, inputs: object, output: Any) -> None:
        out = output[0] if isinstance(output, tuple) else output
        if isinstance(out, Tensor) and out.numel() == self.before.numel():
            self._outputs.append((module, out.reshape(self.before.shape)))

    def _read(self, module: nn.Module, inputs: Any) -> None:
        if inputs and isinstance(inputs[0], Tensor) and inputs[0].ndim == 3:
            self._inputs.append((module, inputs[0][0]))

    def _end(self, module: nn.Module, inputs: object, output: Any) -> None:
        self.after = (output[0] if isinstance(output, tuple) else output).reshape(self.before.shape)
        additions = self._additions()
        if additions is not None:
            attending, self.parts = additions
            if len(self.seen.weighed) == self._weighed + 1:
                self.mixing = self._mixing(attending, *self.seen.weighed[-1])
        self._outputs, self._inputs = [], []

    def _additions(self) -> tuple[nn.Module, tuple[Tensor, Tensor]] | None:
        """The child modules whose two outputs, in order of execution, add up to what the layer adds; the first is
        attention."""
        size = self.after.abs().amax(-1)  # relative to each state: some tokens' states are 1000 times larger
        off = {
            (i, j): ((self.before + self.scale * (a + b) - self.after).abs().amax(-1) / size).max()
            for (i, (_, a)), (j, (_, b)) in combinations(enumerate(self._outputs), 2)
        }
        best = min(off, key=lambda pair: float(off[pair]), default=None)
        if best is None or float(off[best]) > ROUNDING * torch.finfo(self.after.dtype).eps:
            return None
        (attending, first), (_, second) = (self._outputs[i] for i in best)
        return attending, (self.scale * first, self.scale * second)

    def _mixing(self, attending: nn.Module, weights: Tensor, values: Tensor) -> Mixing | None:
        """The layer's mixing, with the output projection found as the module of the attention that read the heads'
        sums."""
        together = (weights @ values).transpose(0, 1).flatten(1)
        inner = {id(part) for part in attending.modules()}
        for module, read in self._inputs:
            if id(module) in inner and read.shape == together.shape and torch.allclose(read, together, atol=1e-5):
                return Mixing(weights, values, module, self.scale)
        return None
