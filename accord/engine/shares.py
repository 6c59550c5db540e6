"""Memory on each of several ranks: shares of the weights, what is gathered temporarily, and what is replicated.

For one rank the result equals `memory.training_memory`. Weights are sharded as in `shard`, and gathered as by torch's
`fully_shard` (FSDP2): the group outside the decoder layers for a whole pass, of the layers the current and the next.
Linear weights of layers are gathered in the precision of products, so they are never cast; only a head held in float32
is. Under adapters, which alone are trained, everything is gathered as it is held; a base in few bits is replicated, not
gathered.

A mixture's experts are one parameter per layer whose rows are the experts. With more ranks than experts, each rank has
some rows of every expert, if the ranks divide these; else the first ranks hold one expert each, the others none, and
the gathered buffer has room for as many experts as ranks. Experts are gathered and multiplied as they are held, in
float32 or, by weight_dtype, in bfloat16.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import torch
import transformers
from torch import nn
from transformers.modeling_layers import GradientCheckpointingLayer

from accord.console import error_text
from accord.engine.adam import BLOCK, SMALLEST
from accord.engine.config import SamplingConfig, TrainingConfig
from accord.engine.groups import axis_of
from accord.engine.memory import HEAP, Shape, prepare_training, tokens_at_once, training_memory
from accord.engine.models import Policy, quiet
from accord.engine.precision import linear_weights
from accord.engine.quantize import few_bits
from accord.engine.routers import experts_of, has_experts
from accord.errors import InputError

GATHERED = 2
"""Layers gathered at the same time: the current and the next."""


@dataclass(frozen=True)
class Weight:
    """A parameter: its rows, which are sharded, and the numbers per row.

    `is_linear`: of a linear layer, so gathered in the precision of products; `held`: bytes per number; `is_trained`:
    has a gradient; `is_expert`: its rows are a mixture's experts; `inner`: rows within each row, 1 unless that is a
    matrix, as an expert's is.
    """

    rows: int
    each: int
    is_linear: bool
    held: int = 4
    is_trained: bool = True
    is_expert: bool = False
    inner: int = 1

    def share(self, ranks: int = 1) -> int:
        """Numbers that a rank holds at most: `fully_shard` gives ceil(rows / ranks) rows to each of the first ranks."""
        return self.rows * self.each // ranks if self.is_cut_within(ranks) else -(-self.rows // ranks) * self.each

    def is_cut_within(self, ranks: int) -> bool:
        """Whether this many ranks shard the rows within each expert, as `shard` does if there are fewer experts than
        ranks."""
        return axis_of((self.rows, self.inner, 1), ranks) == 1


def share(weights: Iterable[Weight], ranks: int = 1) -> int:
    """Numbers of the weights that a rank holds at most."""
    return sum(weight.share(ranks) for weight in weights)


def size(weights: Iterable[Weight], ranks: int = 1, linear: int = 4) -> int:
    """Bytes of a rank's share: at most `linear` bytes per number in linear layers, others as they are held."""
    return sum((min(linear, w.held) if w.is_linear else w.held) * w.share(ranks) for w in weights)


def gathered_size(weights: Iterable[Weight], ranks: int, linear: int = 4) -> int:
    """Bytes of the weights when gathered: every rank's share is padded to the largest."""
    return ranks * size(weights, ranks, linear)


def scattered_size(weights: Iterable[Weight], ranks: int) -> int:
    """Bytes of the gradients in a reduce-scatter, in float32 and padded likewise."""
    return 4 * ranks * share(trained(weights), ranks)


def trained(weights: Iterable[Weight]) -> tuple[Weight, ...]:
    """The weights that have gradients."""
    return tuple(weight for weight in weights if weight.is_trained)


@dataclass(frozen=True)
class Groups:
    """A model's parameters in the groups that are gathered together: each decoder layer, and those outside the layers.
    `few` are weights in few bits under adapters, which are not parameters; they take `whole` bytes on every rank."""

    layers: tuple[tuple[Weight, ...], ...]
    outer: tuple[Weight, ...]
    few: tuple[Weight, ...] = ()
    whole: int = 0

    @property
    def all(self) -> tuple[Weight, ...]:
        """Every parameter."""
        return (*(weight for layer in self.layers for weight in layer), *self.outer)

    @property
    def largest(self) -> tuple[Weight, ...]:
        """The layer with the most numbers."""
        return max(self.layers, key=share)

    @property
    def adapters(self) -> tuple[Weight, ...]:
        """The trained parameters beside frozen ones; empty where nothing is frozen."""
        weights = trained(self.all)
        return weights if len(weights) < len(self.all) else ()

    @property
    def frozen(self) -> tuple[Weight, ...]:
        """The parameters without gradients."""
        return tuple(weight for weight in self.all if not weight.is_trained)

    @property
    def inner(self) -> tuple[Weight, ...]:
        """The trained matrices of linear maps inside layers, which Muon updates."""
        inside = (weight for layer in self.layers for weight in layer)
        return tuple(weight for weight in inside if weight.is_linear and weight.each > 1 and weight.is_trained)

    @staticmethod
    def of(
        config: transformers.PreTrainedConfig,
        method: TrainingConfig | None = None,
        dtype: torch.dtype = torch.bfloat16,
    ) -> Groups:
        """The groups of an architecture as `shard` forms them, with the adapters or bfloat16 weights of a method, if
        given.

        Raises InputError where ranks cannot share the architecture, or it cannot be held so.
        """
        try:
            with torch.device("meta"), quiet():
                network = transformers.AutoModelForCausalLM.from_config(config)
        except Exception as error:  # an unknown architecture may raise anything
            raise InputError(f"a {config.model_type} cannot be planned for: {error_text(error)}") from error
        layers = [m for m in network.modules() if isinstance(m, GradientCheckpointingLayer)]
        if not layers:
            raise InputError(f"a {config.model_type} has no decoder layers that ranks could share.")
        experts = {id(p) for p in experts_of(network)[0]}
        if has_experts(config) and not (experts and network._can_set_experts_implementation()):
            raise InputError(f"a {config.model_type} keeps its experts in an unknown form, and cannot be planned for.")
        if method is not None and (method.lora_rank or method.weight_dtype == "bfloat16"):
            network._prepared_by_accord = True
            prepare_training(Policy(network, None, "the plan", dtype), method)  # type: ignore[arg-type]
        linear, few = {id(p) for p in linear_weights(network)}, few_bits(network)

        def weight(p: nn.Parameter) -> Weight:
            held = p.element_size()
            inner = p.shape[1] if p.dim() == 3 else 1
            return Weight(p.shape[0], p[0].numel(), id(p) in linear, held, p.requires_grad, id(p) in experts, inner)

        inside = {id(p) for layer in layers for p in layer.parameters()}
        return Groups(
            tuple(tuple(map(weight, layer.parameters())) for layer in layers),
            tuple(weight(p) for p in network.parameters() if id(p) not in inside),
            tuple(Weight(layer.out_features, layer.in_features, True, is_trained=False) for layer in few),
            sum(layer.nbytes for layer in few),
        )


def resident(groups: Groups, method: TrainingConfig, ranks: int) -> tuple[float, float, float]:
    """Bytes of a rank's weights, gradients and optimizer states, for all trained networks, which share frozen weights.

    AdamW holds two numbers per weight and a step count per parameter; Muon, for `Groups.inner`, one per weight.
    """
    networks, own = method.trained_networks, trained(groups.all)
    eight_bits = method.optimizer_states == "8bit"
    states = sum(_moments(weight, eight_bits, ranks) * weight.share(ranks) + 4 for weight in own)
    if method.optimizer == "muon":
        states -= 4 * share(groups.inner, ranks) + 4 * len(groups.inner)
    gradients = float(size(own, ranks) * networks)
    return size(groups.frozen, ranks) + groups.whole + gradients, gradients, float(states * networks)


def _moments(weight: Weight, eight_bits: bool, ranks: int) -> float:
    """Bytes of AdamW's two moments of a weight; in 8 bits only where rows are whole blocks, each of which has a
    scale."""
    row = weight.each // ranks if weight.is_cut_within(ranks) else weight.each
    is_coded = eight_bits and row % BLOCK == 0 and weight.rows * weight.each >= SMALLEST
    return 2 * (1 + 4 / BLOCK) if is_coded else 8


def rank_memory(
    shape: Shape,
    groups: Groups,
    method: TrainingConfig,
    dtype: torch.dtype,
    ranks: int,
    *,
    tokens: int,
    is_served: bool = False,
    reward: float = 0.0,
    device: str = "cuda",
) -> dict[str, float]:
    """Bytes that a rank holds, by part, and in total at three moments.

    "training" is a pass with gradients ("training_again" with activation checkpointing), "sampling" is generation, and
    "loading" is ranks reading their shares. The method is as one process would train it, with the batch of all ranks;
    `groups` are as the method holds them.

    Args:
        tokens: of a rank's largest pass.
        is_served: whether servers on other GPUs draw the samples.
        reward: bytes of a reward model, which rank 0 holds whole.
    """
    a_rank = replace(method, batch_size=max(1, -(-method.batch_size // ranks)))
    alone, several, networks = training_memory(shape, a_rank, dtype, device), ranks > 1, method.trained_networks
    per_token = {  # with and without activation checkpointing, whatever the method's setting
        again: training_memory(shape, replace(a_rank, activation_checkpointing=again), dtype, device)["activations"]
        / tokens_at_once(a_rank)
        for again in (False, True)
    }
    outer, layers, gathered = _gathered(groups, method, dtype, ranks)
    during, at_end = _whole_gradients(groups, ranks)
    casts = alone["casts"] * (_of_head(shape) if several else 1.0)  # linear layers are gathered in `dtype`, uncast
    weights, gradients, optimizer = resident(groups, method, ranks)
    parts: dict[str, float] = {
        "weights": weights,
        "gradients": gradients,
        "optimizer": optimizer,
        "copies": method.frozen_copies * _copy(groups, method, dtype, ranks)
        + method.kept_versions * size(trained(groups.all), ranks),
        "reward": reward,
        "gathered": gathered,
        "whole_gradients": during,
        "activations": per_token[False] * tokens,
        "activations_again": per_token[True] * tokens,
        "casts": casts,
        "logits": alone["logits"],
        "cache": 0.0 if is_served else alone.get("cache", 0.0),
        "program": alone["program"],
    }
    holes = HEAP if device == "cpu" and not method.return_freed_memory else 0.0
    stays = sum(parts[name] for name in ("weights", "optimizer", "copies", "reward", "program"))
    for name, end in (("training", ""), ("training_again", "_again")):
        in_pass = parts[f"activations{end}"] + casts + parts["logits"] + gathered + during
        parts[name] = stays + (1 + holes) * (gradients + max(in_pass, outer + at_end))
    samples = stays + (0.0 if is_served else layers + outer + casts / networks + parts["cache"])
    parts["sampling"] = samples if isinstance(method, SamplingConfig) else 0.0
    return parts | {"loading": _loading(parts, groups, method, dtype, several)}


def _gathered(groups: Groups, method: TrainingConfig, dtype: torch.dtype, ranks: int) -> tuple[int, int, int]:
    """Bytes of gathered weights: outside the layers, of all layers, and at the peak of a pass; 0 on one rank.

    At the peak there are the group outside the layers and `GATHERED` layers, or without reshard_after_forward all
    layers. Experts of which ranks shard the inner rows are there once more, as they are copied into place.
    """
    if ranks == 1:
        return 0, 0, 0
    layers = sum(gathered_size(layer, ranks, dtype.itemsize) for layer in groups.layers)
    outer = gathered_size(groups.outer, ranks)
    copied = tuple(weight for weight in groups.largest if weight.is_cut_within(ranks))
    two = gathered_size((*GATHERED * groups.largest, *copied), ranks, dtype.itemsize)
    return outer, layers, outer + (two if method.reshard_after_forward else layers)


def _whole_gradients(groups: Groups, ranks: int) -> tuple[int, int]:
    """Bytes of gradients before they are sharded: during the backward pass, and at its end; 0 on one rank.

    During it: the group outside the layers and one layer, as computed, and one layer in the reduce-scatter's buffer.
    At its end: the group outside the layers, as computed and in the buffer.
    """
    if ranks == 1:
        return 0, 0
    during = 4 * share(trained((*groups.outer, *groups.largest))) + scattered_size(groups.largest, ranks)
    return during, size(trained(groups.outer)) + scattered_size(groups.outer, ranks)


def _loading(
    parts: Mapping[str, float], groups: Groups, method: TrainingConfig, dtype: torch.dtype, several: bool
) -> float:
    """Peak bytes of reading the model. Rank 0 may also read the weights outside the layers and a layer to verify fast
    paths."""
    read = parts["program"] + parts["reward"] + parts["weights"]
    if several:
        return read + parts["copies"] + 4 * share((*groups.outer, *groups.largest))
    return read + (_copy(groups, method, dtype, 1) if method.frozen_copies else 0)


def _copy(groups: Groups, method: TrainingConfig, dtype: torch.dtype, ranks: int) -> int:
    """Bytes of a rank's share of a frozen copy; with adapters it shares the model's weights."""
    if groups.adapters and getattr(method, "reference", None) is None:
        return size(groups.adapters, ranks)
    return size((*groups.frozen, *groups.few) if groups.adapters else groups.all, ranks, dtype.itemsize)


def _of_head(shape: Shape) -> float:
    """The head's share of what autocast casts in one process."""
    head = shape.head or shape.width * shape.vocabulary
    return head / (shape.linear - shape.experts - shape.head + head)
