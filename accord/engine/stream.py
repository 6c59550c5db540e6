"""What each part of a model adds: the residual stream as a sum, and what the sum's terms do to a token's logit.

A transformer's layers add to one vector a token, the residual stream, which the last norm and the output layer read. So
what they read is the embedding and what every attention and every MLP added, and once the norm's scale is known a logit
is a sum over the same parts (direct logit attribution; Elhage et al. 2021, A Mathematical Framework for Transformer
Circuits). What attention adds is in turn a sum over heads and over the tokens they look at, of a weight times a value.
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
from accord.engine.inside import Attending, norm_after, plain_attention
from accord.engine.readout import Readout

ROUNDING = 64
"""How many units of rounding, of the largest number there, what is one sum may differ from another by."""


@dataclass(frozen=True)
class LastNorm:
    """The norm before the output layer at one position, as the linear map that it is there: norm(x) = map(x) + bias.

    `map(c) = gain * (c - mean(c))` for a layer norm, and `gain * c` for an RMS norm, where `gain` holds the position's
    scale. So the map of a sum is the sum of the maps of its terms.
    """

    gain: Tensor
    bias: Tensor
    centers: bool

    def __call__(self, parts: Tensor) -> Tensor:
        """The map of each of the parts, (..., d)."""
        return self.gain * (parts - parts.mean(-1, keepdim=True) if self.centers else parts)

    @staticmethod
    def at(norm: Callable[[Tensor], Tensor], x: Tensor) -> LastNorm | None:
        """The map at the state x (d,), found by trying the norm on three vectors; None where it is no such norm.

        norm(0) is the bias; a vector of ones becomes it too where means are taken off; and one of +1 and -1 by turns
        has mean 0 and length sqrt(d), so it shows the gains but for x's own scale, which norm(x) then gives.
        """
        by_turns = torch.ones_like(x)
        by_turns[1::2] = -1
        bias, ones, signs, out = norm(torch.stack([x * 0, x * 0 + 1, by_turns, x]))
        centers = bool((ones - bias).abs().max() < 1e-3 * (signs - bias).abs().max())
        unscaled = LastNorm((signs - bias) * by_turns, bias, centers)(x)
        scale = ((out - bias) @ unscaled) / (unscaled @ unscaled)
        found = LastNorm((signs - bias) * by_turns * scale, bias, centers)
        single = torch.finfo(torch.float32).eps  # transformers' RMS norms compute in float32 whatever they are given
        is_so = (found(x) + bias - out).abs().max() <= ROUNDING * single * out.abs().max()
        return found if bool(is_so) else None


@dataclass(frozen=True)
class Mixing:
    """How the heads of a layer write: weight times value, in the head's place, through the output projection.

    Attributes:
        weights: (H, T, T) how much query i attends to key j.
        values: (H, T, E) the values.
        output: the linear layer from all heads' sums side by side, H * E numbers, to the residual stream.
        scale: what the architecture multiplies by before it adds.
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
        """(d,) what the projection adds whatever the heads say."""
        return self.scale * self._projected(self.values.new_zeros(1, *self.values.shape[::2])).squeeze(0).cpu()

    def _projected(self, placed: Tensor) -> Tensor:
        return self.output(placed.flatten(1)[None])[0]  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Stream:
    """The residual stream of T tokens of width d through L layers, on the CPU; `final` is `embedding + layers.sum(0)`.

    Attributes:
        embedding: (T, d) what goes into the first layer.
        layers: (L, T, d) what each layer adds.
        attention, mlp: (L, T, d) what of it is attention's and what the MLP's, which sum to it; None where a layer is
            not made so that its two additions can be told (state-space models, some older architectures).
        final: (T, d) what the last norm reads.
        mixing: for every layer how its heads write; empty where that could not be seen.
        norm: the last norm.
        readout: the output layer.
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
        """The last norm as a linear map at a position; None where it is no norm of a kind that becomes one."""
        return LastNorm.at(lambda x: self.norm(x.to(self.readout.weight)).to(x), self.final[position])

    @torch.no_grad()
    def raised(self, parts: Tensor, norm: LastNorm) -> Tensor:
        """(n, V) by how much each of the parts (n, d) raises every token's logit above the mean token's.

        `m (map(c) . (u_v - mean u))` with u_v the rows of the output layer and m its multiplier, before any soft cap.
        Logits matter up to a number that all share, so what raises all alike raises none.
        """
        weight = self.readout.weight.detach().to(parts)
        logits = self.readout.multiplier * (norm(parts) @ weight.T)
        return logits - logits.mean(-1, keepdim=True)

    @torch.no_grad()
    def toward(self, token: int, position: int) -> Attribution | None:
        """What each part does to a token's logit at a position; None where the last norm cannot be taken apart."""
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
    """By how much parts raise one token's logit above the mean token's: `total` is the logit less the mean logit.

    Attributes:
        embedding: () of the embedding.
        layers: (L,) of each layer, and
        attention, mlp: (L,) of its attention and its MLP; None where these cannot be told apart.
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
    """Read the tokens once and keep what every part of the model adds; None where it has no list of layers.

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
        norm_of, seen = within.enter_context(norm_after(model)), within.enter_context(Attending())
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
    """The list of layers: of the trunk's lists the first that is as long as the configuration says."""
    count = model.config.get_text_config().num_hidden_layers
    lists = (part for part in model.base_model.modules() if isinstance(part, nn.ModuleList) and len(part) == count)
    return next(lists, None)


def _stacked(parts: list[Tensor | None]) -> Tensor | None:
    known = [part for part in parts if part is not None]
    return torch.stack(known).cpu() if len(known) == len(parts) else None


@dataclass
class _Layer:
    """One layer as it is computed: its input, what its parts put out, and its output."""

    layer: nn.Module
    seen: Attending
    scale: float
    before: Tensor = field(init=False)
    after: Tensor = field(init=False)
    parts: tuple[Tensor, Tensor] | None = None
    mixing: Mixing | None = None

    def __post_init__(self) -> None:
        self._put_out: list[tuple[nn.Module, Tensor]] = []
        self._taken_in: list[tuple[nn.Module, Tensor]] = []
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
            self._put_out.append((module, out.reshape(self.before.shape)))

    def _read(self, module: nn.Module, inputs: Any) -> None:
        if inputs and isinstance(inputs[0], Tensor) and inputs[0].ndim == 3:
            self._taken_in.append((module, inputs[0][0]))

    def _end(self, module: nn.Module, inputs: object, output: Any) -> None:
        self.after = (output[0] if isinstance(output, tuple) else output).reshape(self.before.shape)
        found = self._additions()
        if found is not None:
            attending, self.parts = found
            if len(self.seen.weighed) == self._weighed + 1:
                self.mixing = self._mixing(attending, *self.seen.weighed[-1])
        self._put_out, self._taken_in = [], []

    def _additions(self) -> tuple[nn.Module, tuple[Tensor, Tensor]] | None:
        """The two children whose outputs, in the order they ran, add up to what the layer adds; the first attends."""
        size = self.after.abs().amax(-1)  # a state's own rounding: some tokens' states are a thousand times others'
        off = {
            (i, j): ((self.before + self.scale * (a + b) - self.after).abs().amax(-1) / size).max()
            for (i, (_, a)), (j, (_, b)) in combinations(enumerate(self._put_out), 2)
        }
        best = min(off, key=lambda pair: float(off[pair]), default=None)
        if best is None or float(off[best]) > ROUNDING * torch.finfo(self.after.dtype).eps:
            return None
        (attending, first), (_, second) = (self._put_out[i] for i in best)
        return attending, (self.scale * first, self.scale * second)

    def _mixing(self, attending: nn.Module, weights: Tensor, values: Tensor) -> Mixing | None:
        """With the layer that read what the heads put together, where the attention's addition is its output."""
        together = (weights @ values).transpose(0, 1).flatten(1)
        inner = {id(part) for part in attending.modules()}
        for module, read in self._taken_in:
            if id(module) in inner and read.shape == together.shape and torch.allclose(read, together, atol=1e-5):
                return Mixing(weights, values, module, self.scale)
        return None
