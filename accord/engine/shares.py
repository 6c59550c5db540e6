"""What each of several ranks holds: its shares of the numbers, what is gathered for a while, and what stays whole.

Of one rank it is what `memory.needs` counts. What ranks share is counted as `shard` shares it out, what a pass holds
is as there, and what is gathered is by torch's `fully_shard` (FSDP2): the group beside the layers from the beginning
of a pass to its end, of the layers the one that computes and the next. Linear weights of layers are gathered in the
precision of products, in which they may be held too, so that none is cast; only a head that is held in float32 is.
Under adapters, which alone are trained, everything is gathered as it is held; a base in few bits lies whole on every
rank, and is not gathered.

A mixture's experts are a block of a layer, whose rows are the experts. Of more ranks than experts each has some rows of
every expert, if ranks divide these; else the first hold one each, the others none, and what is gathered has room for as
many as there are ranks. They are gathered and multiplied as they are held, in float32 or by weight_dtype in bfloat16,
and each rank reads its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import torch
import transformers
from torch import nn
from transformers.modeling_layers import GradientCheckpointingLayer

from accord.console import said
from accord.engine.adam import BLOCK, SMALLEST
from accord.engine.config import SamplingConfig, TrainingConfig
from accord.engine.groups import axis_of
from accord.engine.memory import HEAP, Shape, needs, ready, tokens_at_once
from accord.engine.models import Policy, quiet
from accord.engine.precision import linear_weights
from accord.engine.quantize import few_bits
from accord.engine.routers import experts_of, has_experts
from accord.errors import InputError

GATHERED = 2
"""Layers that are gathered at once: the one that computes, and the one that follows."""


@dataclass(frozen=True)
class Weight:
    """A parameter: its rows, which are shared out, and the numbers of a row.

    `is_linear` says whether it is of a linear layer, so that it may be gathered in the precision of products; `held`
    are the bytes that a number is held in; `is_trained` whether it has a gradient; `is_expert` whether its rows are a
    mixture's experts; `inner` the rows that each of its rows has, if it is a matrix, as that of an expert is.
    """

    rows: int
    each: int
    is_linear: bool
    held: int = 4
    is_trained: bool = True
    is_expert: bool = False
    inner: int = 1

    def share(self, ranks: int = 1) -> int:
        """Numbers that a rank holds at most: `fully_shard` deals out rows, ceil(rows / ranks) to the first ranks."""
        return self.rows * self.each // ranks if self.is_cut_within(ranks) else -(-self.rows // ranks) * self.each

    def is_cut_within(self, ranks: int) -> bool:
        """Whether so many ranks share out the rows of each expert, as `shard` does where these are too few."""
        return axis_of((self.rows, self.inner, 1), ranks) == 1


def share(weights: Iterable[Weight], ranks: int = 1) -> int:
    """Numbers of several that a rank holds at most."""
    return sum(weight.share(ranks) for weight in weights)


def size(weights: Iterable[Weight], ranks: int = 1, linear: int = 4) -> int:
    """Their bytes, where numbers of linear layers take at most so many bytes, and all others what they are held in."""
    return sum((min(linear, w.held) if w.is_linear else w.held) * w.share(ranks) for w in weights)


def gathered_size(weights: Iterable[Weight], ranks: int, linear: int = 4) -> int:
    """Bytes of what is gathered of them: every rank's share takes as much as the largest."""
    return ranks * size(weights, ranks, linear)


def scattered_size(weights: Iterable[Weight], ranks: int) -> int:
    """Bytes of the gradients that are summed and scattered, in float32 and padded likewise."""
    return 4 * ranks * share(trained(weights), ranks)


def trained(weights: Iterable[Weight]) -> tuple[Weight, ...]:
    """Those that have gradients."""
    return tuple(weight for weight in weights if weight.is_trained)


@dataclass(frozen=True)
class Groups:
    """A model's parameters in the groups that are gathered at once: each decoder layer, and what is beside them.

    What lies in `few` bits beneath adapters is no parameter, and of `whole` bytes on every rank.
    """

    layers: tuple[tuple[Weight, ...], ...]
    beside: tuple[Weight, ...]
    few: tuple[Weight, ...] = ()
    whole: int = 0

    @property
    def all(self) -> tuple[Weight, ...]:
        """Every parameter."""
        return (*(weight for layer in self.layers for weight in layer), *self.beside)

    @property
    def largest(self) -> tuple[Weight, ...]:
        """The layer of most numbers."""
        return max(self.layers, key=share)

    @property
    def adapters(self) -> tuple[Weight, ...]:
        """What is trained beside frozen weights; nothing where there are none of these."""
        found = trained(self.all)
        return found if len(found) < len(self.all) else ()

    @property
    def frozen(self) -> tuple[Weight, ...]:
        """What is only read."""
        return tuple(weight for weight in self.all if not weight.is_trained)

    @property
    def inner(self) -> tuple[Weight, ...]:
        """The trained matrices of linear maps inside layers, which Muon is for."""
        inside = (weight for layer in self.layers for weight in layer)
        return tuple(weight for weight in inside if weight.is_linear and weight.each > 1 and weight.is_trained)

    @staticmethod
    def of(
        config: transformers.PreTrainedConfig,
        method: TrainingConfig | None = None,
        dtype: torch.dtype = torch.bfloat16,
    ) -> Groups:
        """Of an architecture, as `shard` groups it, and as a method with products in `dtype` holds it: with adapters of
        its own, or all matrices in bfloat16.

        Raises InputError where it is one that ranks cannot share, or cannot be held so.
        """
        try:
            with torch.device("meta"), quiet():
                network = transformers.AutoModelForCausalLM.from_config(config)
        except Exception as error:  # architectures that others wrote fail in any manner
            raise InputError(f"a {config.model_type} cannot be planned for: {said(error)}") from error
        layers = [m for m in network.modules() if isinstance(m, GradientCheckpointingLayer)]
        if not layers:
            raise InputError(f"a {config.model_type} has no decoder layers that ranks could share.")
        experts = {id(p) for p in experts_of(network)[0]}
        if has_experts(config) and not (experts and network._can_set_experts_implementation()):
            raise InputError(f"a {config.model_type} keeps its experts in a way that is not planned for.")
        if method is not None and (method.lora_rank or method.weight_dtype == "bfloat16"):
            network._prepared_by_accord = True
            ready(Policy(network, None, "the plan", dtype), method)  # type: ignore[arg-type]
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


def standing(groups: Groups, method: TrainingConfig, ranks: int) -> tuple[float, float, float]:
    """Bytes of a rank's weights, gradients and optimizer states, between steps; several networks share what is frozen.

    AdamW holds two numbers a weight, in float32 or 8 bits, and its count of steps; Muon, of `Groups.inner`, one.
    """
    networks, own = method.trained_networks, trained(groups.all)
    eight_bits = method.optimizer_states == "8bit"
    states = sum(_moments(weight, eight_bits, ranks) * weight.share(ranks) + 4 for weight in own)
    if method.optimizer == "muon":
        states -= 4 * share(groups.inner, ranks) + 4 * len(groups.inner)
    gradients = float(size(own, ranks) * networks)
    return size(groups.frozen, ranks) + groups.whole + gradients, gradients, float(states * networks)


def _moments(weight: Weight, eight_bits: bool, ranks: int) -> float:
    """Bytes of AdamW's two numbers of a weight; in 8 bits where rows are whole blocks, each of which has a scale."""
    row = weight.each // ranks if weight.is_cut_within(ranks) else weight.each
    is_coded = eight_bits and row % BLOCK == 0 and weight.rows * weight.each >= SMALLEST
    return 2 * (1 + 4 / BLOCK) if is_coded else 8


def held(
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
    """Bytes that a rank holds, by what they are, and what they come to in each of three moments.

    "training" is a pass with its gradients, "sampling" is when prompts are answered, "loading" is when ranks read their
    shares. The method is as one process would train it, its batch that of all ranks; `groups` are as it holds them.

        weights              share(all) n         as they are held; n networks are trained, which share what is frozen;
                             a base in few bits is whole on every rank
        gradients            share(trained) n     likewise
        optimizer            8 share(trained) n + 4 a parameter, AdamW's count of steps; less by `standing`
        copies               of adapters alone, where a copy differs in nothing else
        gathered             beside + 2 layer              of more than one rank, as they are held; of a layer's linear
                             weights 2 each, 4 where products are of float32; experts whose rows ranks share once more,
                             as they are copied to their places; all layers with reshard_after_forward off
        whole gradients      4 (beside + 2 layer)          of what is trained, before they are summed and scattered, one
                             layer's as they are and one's in a buffer
        casts                2 a number of the head, which autograd keeps; on one rank of all linear layers
        training             weights + optimizer + copies + gradients + program + what a pass holds; at its end the
                             group beside the layers is there thrice: gathered, its gradients, and those as one buffer
        sampling             weights + optimizer + copies + program + cache + all, as they are gathered, + casts; the
                             last three not where others sample, and nothing where nobody does
        loading              weights + copies + program + 4 (beside + layer), of which the rank that leads tries how the
                             model computes, where that is not known yet; on one rank all n times, and a copy

    Args:
        tokens: of a rank's largest pass.
        is_served: whether others sample, on cards of their own.
        reward: bytes of a reward model, which the rank that leads has whole.
    """
    a_rank = replace(method, batch_size=max(1, -(-method.batch_size // ranks)))
    alone, several, networks = needs(shape, a_rank, dtype, device), ranks > 1, method.trained_networks
    per_token = {  # by its settings, whichever method is given
        again: needs(shape, replace(a_rank, activation_checkpointing=again), dtype, device)["activations"]
        / tokens_at_once(a_rank)
        for again in (False, True)
    }
    layers = sum(gathered_size(layer, ranks, dtype.itemsize) for layer in groups.layers) if several else 0
    copied = tuple(weight for weight in groups.largest if weight.is_cut_within(ranks))
    two = gathered_size((*GATHERED * groups.largest, *copied), ranks, dtype.itemsize)
    beside = gathered_size(groups.beside, ranks) if several else 0
    gathered = beside + (two if method.reshard_after_forward else layers) if several else 0
    two_groups = trained((*groups.beside, *groups.largest))
    scattered = 4 * share(two_groups) + scattered_size(groups.largest, ranks) if several else 0
    casts = alone["casts"] * (_of_head(shape) if several else 1.0)
    weights, gradients, optimizer = standing(groups, method, ranks)
    parts: dict[str, float] = {
        "weights": weights,
        "gradients": gradients,
        "optimizer": optimizer,
        "copies": method.frozen_copies * _copy(groups, method, dtype, ranks)
        + method.kept_versions * size(trained(groups.all), ranks),
        "reward": reward,
        "gathered": gathered,
        "whole_gradients": scattered,
        "activations": per_token[False] * tokens,
        "activations_again": per_token[True] * tokens,
        "casts": casts,
        "logits": alone["logits"],
        "cache": 0.0 if is_served else alone.get("cache", 0.0),
        "program": alone["program"],
    }
    sums = size(trained(groups.beside)) + scattered_size(groups.beside, ranks)
    holes = HEAP if device == "cpu" and not method.return_freed_memory else 0.0
    stays = sum(parts[name] for name in ("weights", "optimizer", "copies", "reward", "program"))
    for name, end in (("training", ""), ("training_again", "_again")):
        going = parts[f"activations{end}"] + casts + parts["logits"] + gathered + scattered
        parts[name] = stays + (1 + holes) * (gradients + max(going, beside + sums if several else 0))
    samples = stays + (0.0 if is_served else layers + beside + casts / networks + parts["cache"])
    parts["sampling"] = samples if isinstance(method, SamplingConfig) else 0.0
    return parts | {"loading": _loading(parts, groups, method, dtype, several)}


def _loading(
    parts: Mapping[str, float], groups: Groups, method: TrainingConfig, dtype: torch.dtype, several: bool
) -> float:
    """Bytes at the peak of reading, by what stays."""
    read = parts["program"] + parts["reward"] + parts["weights"]
    if several:
        return read + parts["copies"] + 4 * share((*groups.beside, *groups.largest))
    return read + (_copy(groups, method, dtype, 1) if method.frozen_copies else 0)


def _copy(groups: Groups, method: TrainingConfig, dtype: torch.dtype, ranks: int) -> int:
    """Bytes of a rank's share of a copy that is only read; under adapters it shares the model's weights."""
    if groups.adapters and getattr(method, "reference", None) is None:
        return size(groups.adapters, ranks)
    return size((*groups.frozen, *groups.few) if groups.adapters else groups.all, ranks, dtype.itemsize)


def _of_head(shape: Shape) -> float:
    """The head's share of what autocast casts in one process."""
    head = shape.head or shape.width * shape.vocabulary
    return head / (shape.linear - shape.experts - shape.head + head)
