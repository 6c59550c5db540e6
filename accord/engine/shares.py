"""What each of several ranks holds: its shares of the numbers, what is gathered for a while, and what stays whole.

Of one rank it is what `memory.needs` counts. What ranks share is counted as `shard` shares it out, what a pass holds
is as there, and what is gathered is by torch's `fully_shard` (FSDP2): the group beside the layers from the beginning
of a pass to its end, of the layers the one that computes and the next. Linear weights of layers are gathered in the
precision of products, in which they may be held too, so that none is cast; only a head that is held in float32 is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import ceil

import torch
import transformers
from torch import nn
from transformers.modeling_layers import GradientCheckpointingLayer

from accord.console import said
from accord.engine.adam import BLOCK, SMALLEST
from accord.engine.config import SamplingConfig, TrainingConfig
from accord.engine.memory import HEAP, Shape, needs, tokens_at_once
from accord.engine.models import quiet
from accord.errors import InputError

GATHERED = 2
"""Layers that are gathered at once: the one that computes, and the one that follows."""


@dataclass(frozen=True)
class Weight:
    """A parameter: its rows, which are shared out, the numbers of a row, whether it is a linear layer's matrix, and the
    bytes of a number as it is held."""

    rows: int
    each: int
    is_linear: bool
    bytes: int = 4

    def share(self, ranks: int = 1) -> int:
        """Numbers that a rank holds at most: `fully_shard` deals out rows, ceil(rows / ranks) to the first ranks."""
        return -(-self.rows // ranks) * self.each


def share(weights: Sequence[Weight], ranks: int = 1) -> int:
    """Numbers of several that a rank holds at most."""
    return sum(weight.share(ranks) for weight in weights)


def size(weights: Sequence[Weight], ranks: int = 1, linear: int = 4) -> int:
    """Their bytes as they are held, but where linear layers' matrices take so many bytes a number, if that is less."""
    return sum((min(linear, w.bytes) if w.is_linear else w.bytes) * w.share(ranks) for w in weights)


@dataclass(frozen=True)
class Groups:
    """A model's parameters in the groups that are gathered at once: each decoder layer, and what is beside them."""

    layers: tuple[tuple[Weight, ...], ...]
    beside: tuple[Weight, ...]

    @property
    def all(self) -> tuple[Weight, ...]:
        """Every parameter."""
        return (*(weight for layer in self.layers for weight in layer), *self.beside)

    @property
    def largest(self) -> tuple[Weight, ...]:
        """The layer of most numbers."""
        return max(self.layers, key=share)

    @staticmethod
    def of(config: transformers.PreTrainedConfig) -> Groups:
        """Of an architecture, as `shard` groups it. Raises InputError where it is one that ranks cannot share."""
        names = ("num_experts", "num_local_experts", "n_routed_experts")
        if any(getattr(config.get_text_config(), name, 0) for name in names):
            raise InputError("a plan is not for mixtures of experts yet: what ranks hold of one is found by trying.")
        try:
            with torch.device("meta"), quiet():
                network = transformers.AutoModelForCausalLM.from_config(config)
        except Exception as error:  # architectures that others wrote fail in any manner
            raise InputError(f"a {config.model_type} cannot be planned for: {said(error)}") from error
        layers = [m for m in network.modules() if isinstance(m, GradientCheckpointingLayer)]
        if not layers:
            raise InputError(f"a {config.model_type} has no decoder layers that ranks could share.")
        embedded = {id(p) for m in network.modules() if isinstance(m, nn.Embedding) for p in m.parameters()}

        def weight(p: nn.Parameter) -> Weight:
            return Weight(p.shape[0], p[0].numel(), p.dim() > 1 and id(p) not in embedded)

        inside = {id(p) for layer in layers for p in layer.parameters()}
        return Groups(
            tuple(tuple(map(weight, layer.parameters())) for layer in layers),
            tuple(weight(p) for p in network.parameters() if id(p) not in inside),
        )

    def held(self, method: TrainingConfig, dtype: torch.dtype) -> Groups:
        """The same as a method with products in `dtype` holds them: all matrices in bfloat16 (weight_dtype), or under
        adapters those of linear layers in `dtype`."""

        def one(weight: Weight) -> Weight:
            if method.weight_dtype == "bfloat16":
                return replace(weight, bytes=2 if weight.each > 1 else 4)
            return replace(weight, bytes=dtype.itemsize if method.lora_rank and weight.is_linear else 4)

        return Groups(tuple(tuple(map(one, layer)) for layer in self.layers), tuple(map(one, self.beside)))


def standing(groups: Groups, method: TrainingConfig, adapters: int, ranks: int) -> tuple[float, float, float]:
    """Bytes of a rank's weights, gradients and optimizer states, between steps; `adapters` are numbers, 0 without.

    AdamW holds two numbers a weight, in float32 or 8 bits, and its count of steps; Muon, of linear layers inside, one.
    """
    networks, own = method.trained_networks, ceil(adapters / ranks)
    if adapters:
        matrices = 2 * sum(weight.is_linear for layer in groups.layers for weight in layer)
        steps = 4.0 * matrices * networks
        return size(groups.all, ranks) + 4.0 * own * networks, 4.0 * own * networks, 8.0 * own * networks + steps
    eight_bits = method.optimizer_states == "8bit"
    states = sum(_moments(weight, eight_bits) * weight.share(ranks) + 4 for weight in groups.all)
    if method.optimizer == "muon":
        inner = [weight for layer in groups.layers for weight in layer if weight.is_linear]
        states -= 4 * share(inner, ranks) + 4 * len(inner)
    held = float(size(groups.all, ranks) * networks)
    return held, held, float(states * networks)


def _moments(weight: Weight, eight_bits: bool) -> float:
    """Bytes of AdamW's two numbers of a weight; in 8 bits where rows are whole blocks, each of which has a scale."""
    is_coded = eight_bits and weight.each % BLOCK == 0 and weight.rows * weight.each >= SMALLEST
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
    shares. The method is as one process would train it, its batch that of all ranks; `groups` are as it holds them
    (`Groups.held`), in b bytes a number, 4 unless it says otherwise.

        weights, gradients   b share(all) n       n networks are trained; under adapters the weights once, and of
                             their own share 4 a number n times
        optimizer            8 share(all) n + 4 a parameter, AdamW's count of steps
        gathered             b beside + 2 layer            of more than one rank; of a layer's linear weights 2 each,
                             4 where products are of float32; all layers with reshard_after_forward off
        whole gradients      4 (beside + 2 layer)          before they are summed and scattered
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
    own = replace(method, batch_size=max(1, -(-method.batch_size // ranks)))
    alone, several, networks = needs(shape, own, dtype, device), ranks > 1, method.trained_networks
    per_token = {  # by its settings, whichever method is given
        again: needs(shape, replace(own, activation_checkpointing=again), dtype, device)["activations"]
        / tokens_at_once(own)
        for again in (False, True)
    }
    layers = sum(size(layer, linear=dtype.itemsize) for layer in groups.layers)
    two = GATHERED * size(groups.largest, linear=dtype.itemsize)
    gathered = size(groups.beside) + (two if method.reshard_after_forward else layers) if several else 0
    scattered = _scattered(shape, groups) if several else 0
    casts = alone["casts"] * (_of_head(shape) if several else 1.0)
    weights, gradients, optimizer = standing(groups, method, shape.adapters, ranks)
    parts = {
        "weights": weights,
        "gradients": gradients,
        "optimizer": optimizer,
        "copies": _copies(shape, groups, method, dtype, ranks),
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
    held = sum(parts[name] for name in ("weights", "optimizer", "copies", "reward", "program"))
    sums = 0 if shape.adapters else size(groups.beside) + 4 * share(groups.beside)
    at_end = size(groups.beside) + sums if several else 0
    for name, end in (("training", ""), ("training_again", "_again")):
        going = parts[f"activations{end}"] + casts + parts["logits"] + gathered + scattered
        holes = HEAP if device == "cpu" and not method.return_freed_memory else 0.0
        parts[name] = held + (1 + holes) * (parts["gradients"] + max(going, at_end))
    whole = (layers + size(groups.beside) if several else 0) + casts / networks
    samples = held + (0.0 if is_served else whole + parts["cache"])
    parts["sampling"] = samples if isinstance(method, SamplingConfig) else 0.0
    parts["loading"] = parts["program"] + reward + parts["weights"]
    if several:
        parts["loading"] += parts["copies"] + 4 * (share(groups.beside) + share(groups.largest))
    elif method.frozen_copies:
        parts["loading"] += size(groups.all, 1, dtype.itemsize)
    return parts


def _scattered(shape: Shape, groups: Groups) -> float:
    """Bytes of whole gradients before they are summed: what is beside the layers and of two of them."""
    if shape.adapters:
        return 4 * GATHERED * shape.adapters / shape.layers
    return 4.0 * (share(groups.beside) + GATHERED * share(groups.largest))


def _copies(shape: Shape, groups: Groups, method: TrainingConfig, dtype: torch.dtype, ranks: int) -> float:
    """Bytes of a rank's shares of copies that are only read; under adapters a copy shares the model's weights."""
    adapters = 4 * ceil(shape.adapters / ranks)
    is_shared = bool(adapters) and getattr(method, "reference", None) is None
    copy = adapters if is_shared else size(groups.all, ranks, dtype.itemsize)
    return method.frozen_copies * copy + method.kept_versions * (adapters or size(groups.all, ranks))


def _of_head(shape: Shape) -> float:
    """The head's share of what autocast casts in one process."""
    head = shape.head or shape.width * shape.vocabulary
    return head / (shape.linear - shape.head + head)
